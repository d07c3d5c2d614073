"""TarSum: a digest of an archive's members that the order of members, and most of their times and names, do not change.

As moby's pkg/tarsum computed it (`tarsum`, `tarsum.v1`; `tarsum.dev` is `tarsum.v1` under another name). Each member's
header fields and content give a digest; the digests, sorted, give the archive's.
"""

from __future__ import annotations

import enum
import functools
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from streamer.errors import InvalidRequest
from streamer.tar.entry import DIRECTORY, LINK, REGULAR, SYMLINK, Entry
from streamer.tar.reader import Limits, Reader, Source, Written

_DEFAULT = Limits()
_KNOWN = ("sha256", "sha512")
"""What a label may name."""
_FEW = 12
_HELD = 8 << 20
"""Bytes that one step of the reader may bring: headers are shorter; beyond an archive's end anything may follow."""
_ZEROS = bytes(1 << 20)
_SECOND = 1_000_000_000


class Version(enum.StrEnum):
    """Which header fields count. `V0` has the time of modification, the others extended attributes."""

    V0 = "tarsum"
    V1 = "tarsum.v1"
    DEV = "tarsum.dev"


@dataclass(frozen=True, slots=True)
class FileSum:
    """One member: its name without `./`, leading slashes and `..`, the hexadecimal digest, and its place in the archive
    from 0."""

    name: bytes
    sum: str
    position: int


def parse_label(text: str) -> tuple[Version, str]:
    """The version and the algorithm that a label as `tarsum.v1+sha256` names. InvalidRequest for anything else."""
    version, plus, algorithm = text.partition("+")
    if not plus or version not in list(Version) or algorithm not in _KNOWN:
        raise InvalidRequest(
            f"{text[:100]!r} is no label of a TarSum: write VERSION+ALGORITHM, of {', '.join(Version)} and "
            f"{', '.join(_KNOWN)}",
            parameter="label",
        )
    return Version(version), algorithm


def check_algorithm(name: str) -> str:
    """The name, if hashlib has a digest of a fixed length of that name. InvalidRequest."""
    try:
        if hashlib.new(name, usedforsecurity=False).digest_size:
            return name
        why = "its digests have no length of their own"
    except ValueError:
        why = f"there are {', '.join(sorted(hashlib.algorithms_available))}"
    raise InvalidRequest(f"cannot compute a TarSum with {name[:100]!r}: {why}", parameter="algorithm")


def told(entry: Entry, written: Written, version: Version) -> bytes:
    """What a member's digest goes over before its content: header fields, each right behind its name.

    `written` has the fields that an entry has only normalised, as the archive's header says them.
    """
    kind = written.type
    if kind == b"\0":
        kind = DIRECTORY if entry.name.endswith(b"/") else REGULAR
    fields: list[tuple[bytes, bytes | int]] = [
        (b"name", entry.name),
        (b"mode", written.mode),
        (b"uid", entry.uid),
        (b"gid", entry.gid),
        (b"size", written.size if entry.sparse is None else entry.size),
    ]
    if version is Version.V0:
        fields.append((b"mtime", entry.mtime // _SECOND))
    fields += [
        (b"typeflag", kind),
        (b"linkname", entry.linkname),
        (b"uname", b""),  # never what the archive says
        (b"gname", b""),
        (b"devmajor", entry.devmajor),
        (b"devminor", entry.devminor),
    ]
    if version is not Version.V0:
        fields += sorted(entry.xattrs.items())
    return b"".join(name + (value if isinstance(value, bytes) else b"%d" % value) for name, value in fields)


def entry_sum(header: bytes, blocks: Iterable[bytes], algorithm: str = "sha256") -> str:
    """The hexadecimal digest of one member: of what `told` gives, and its content (holes included)."""
    made = hashlib.new(algorithm, header, usedforsecurity=False)
    for block in blocks:
        made.update(block)
    return made.hexdigest()


def expanded(entry: Entry, stored: Iterator[bytes]) -> Iterator[bytes]:
    """A member's content with its holes, from the stored bytes."""
    if entry.sparse is None:
        yield from stored
        return
    at, rest = 0, memoryview(b"")
    for offset, length in (*entry.sparse, (entry.size, 0)):
        while at < offset:
            hole = min(len(_ZEROS), offset - at)
            yield _ZEROS[:hole]
            at += hole
        while length:
            if not rest:
                rest = memoryview(next(stored))
            part, rest = rest[:length], rest[length:]
            yield bytes(part)
            at += len(part)
            length -= len(part)


def clean(name: bytes) -> bytes:
    """A member's name as sums are found by: relative, without `.` and `..`; the root is `.`."""
    kept: list[bytes] = []
    for component in name.split(b"/"):
        if component == b"..":
            del kept[-1:]
        elif component not in (b"", b"."):
            kept.append(component)
    return b"/".join(kept) or b"."


class Sums:
    """The digests of an archive's members, one after the other."""

    def __init__(self, version: Version, algorithm: str = "sha256") -> None:
        self.version = version
        self.algorithm = check_algorithm(algorithm)
        self.files: list[FileSum] = []
        """In the archive's order; a name may come more than once."""
        self.plain = True
        """Whether each file that comes of it has the content that its own sum went over: no name twice, no hard link,
        nothing below a symbolic link."""
        self._names: set[bytes] = set()
        self._symlinks: set[bytes] = set()

    def passing(self, entry: Entry, written: Written, stored: Iterator[bytes]) -> Iterator[bytes]:
        """The member's stored blocks, passed on; it is added once all were taken."""
        made = hashlib.new(self.algorithm, told(entry, written, self.version), usedforsecurity=False)
        if entry.sparse is None:
            for block in stored:
                made.update(block)
                yield block
        else:
            kept: list[bytes] = []
            for block in expanded(entry, _keeping(stored, kept)):
                made.update(block)
                yield from kept
                kept.clear()
            yield from kept
        self._note(clean(entry.name), entry.type)
        self.files.append(FileSum(clean(entry.name), made.hexdigest(), len(self.files)))

    def _note(self, name: bytes, kind: bytes) -> None:
        if name in self._names or kind == LINK:
            self.plain = False
        if self._symlinks:
            parts = name.split(b"/")
            if any(b"/".join(parts[:count]) in self._symlinks for count in range(1, len(parts))):
                self.plain = False
        if kind == SYMLINK:
            self._symlinks.add(name)
        self._names.add(name)

    def sum(self, extra: bytes = b"") -> str:
        """`VERSION+ALGORITHM:HEX` of what was added so far. `extra` counts before it (an image's JSON, once)."""
        names = [file.name for file in self.files]
        if len(set(names)) == len(names):
            ordered = sorted(self.files, key=lambda file: file.sum)
        else:
            ordered = _sorted_with_duplicates(self.files)
        made = hashlib.new(self.algorithm, extra, usedforsecurity=False)
        for file in ordered:
            made.update(file.sum.encode())
        return f"{self.version.value}+{self.algorithm}:{made.hexdigest()}"


class Summing:
    """An uncompressed archive on its way through: every byte as it came, and its sums once all were read.

    Errors are those of `Reader`, and what the source raises; the source stays its owner's.
    """

    def __init__(
        self, source: Source, version: Version = Version.V1, algorithm: str = "sha256", *, limits: Limits = _DEFAULT
    ) -> None:
        self.sums = Sums(version, algorithm)
        self._source = source
        self._passed: list[bytes] = []
        self._size = 0
        self._steps = self._through(Reader(_Tee(self), limits=limits))

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none only at the end, when the sums are complete."""
        while not self._passed:
            if next(self._steps, None) is None:
                # What is left lies behind the archive's end.
                return self._source.read(size) if not self._passed else self.read(size)
        first = self._passed[0]
        if len(first) > size:
            self._passed[0] = first[size:]
            first = first[:size]
        else:
            del self._passed[0]
        self._size -= len(first)
        return first

    def fetch(self, size: int) -> bytes:
        """From the source, noted to be passed on; nothing if too much waits for that already."""
        if self._size > _HELD:
            return b""
        part = self._source.read(size)
        if part:
            self._passed.append(part)
            self._size += len(part)
        return part

    def _through(self, reader: Reader) -> Iterator[bool]:
        for entry in reader:
            yield True
            for _ in self.sums.passing(entry, reader.written, reader.content()):
                yield True


class _Tee:
    def __init__(self, summing: Summing) -> None:
        self._summing = summing

    def read(self, size: int, /) -> bytes:
        return self._summing.fetch(size)


def _keeping(stored: Iterator[bytes], kept: list[bytes]) -> Iterator[bytes]:
    for block in stored:
        kept.append(block)
        yield block


def _sorted_with_duplicates(files: list[FileSum]) -> list[FileSum]:
    """The original's comparison is no order of everything, so what comes out depends on how it is sorted: up to twelve
    members as Go sorts so few, by insertion. Of more the original's result cannot be told from the comparison alone."""
    if len(files) > _FEW:
        return sorted(files, key=functools.cmp_to_key(_with_duplicates))
    ordered: list[FileSum] = []
    for file in files:
        place = len(ordered)
        while place and _with_duplicates(file, ordered[place - 1]) < 0:
            place -= 1
        ordered.insert(place, file)
    return ordered


def _with_duplicates(one: FileSum, other: FileSum) -> int:
    """As the original orders them where a name comes more than once: no order of everything, but the same one."""
    if one.name == other.name:
        return one.position - other.position
    return (one.sum > other.sum) - (one.sum < other.sum)
