"""What COPY and ADD take files from, and the TarSum of each file in it: how a builder knows what has not changed.

Docker's classic builder hashes the members of the archive that it was sent as a context, and what it copies from
anywhere else as if that were in an archive. So does this, without the archive.
"""

from __future__ import annotations

import enum
import hashlib
import os
import stat
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from streamer.changeset import content
from streamer.changeset.change import Node
from streamer.changeset.descriptor import open_below
from streamer.changeset.patterns import Patterns, Selection
from streamer.changeset.walk import walk
from streamer.context import paths
from streamer.errors import NotFound, SourceChanged, shown
from streamer.export.closing import closing
from streamer.export.items import Cursor
from streamer.export.pack import Packer
from streamer.export.plan import Options, Report, Session
from streamer.mounts.table import MountTable
from streamer.tar import sum as tarsum
from streamer.tar.entry import LINK, REGULAR, Entry
from streamer.tar.reader import Written
from streamer.tar.sum import Version

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_NO_MODES: Mapping[bytes, int] = MappingProxyType({})
_MORE = ("st_atime_ns", "st_mtime_ns", "st_ctime_ns", "st_blksize", "st_blocks", "st_rdev")


class Hashing(enum.StrEnum):
    """Whose hashes: up to version 23 Docker's archives had the file's type in its mode as well."""

    DOCKER_24 = "docker-24"
    DOCKER_23 = "docker-23"


class Tree(Protocol):
    """A directory tree to take files from. Paths are real ones: relative, cleaned, b"" for the root, without a link on
    the way. Blocks."""

    def status(self, path: bytes) -> os.stat_result | None:
        """Of what lies there, a link itself; None if there is nothing, or if it was left out."""
        ...

    def followed(self, path: bytes) -> bytes:
        """The real path of a cleaned one: links are followed as in a chroot, also the last one. InvalidRequest for a
        loop."""
        ...

    def open(self, path: bytes) -> int:
        """A descriptor of a regular file's content, the caller's to close. SourceChanged if it is gone."""
        ...

    def nodes(self, start: bytes) -> Generator[Node, None, None]:
        """`start` and everything below it, as `changeset.walk`; without what was left out. NotFound; SourceChanged if
        something came or went since sums were asked for."""
        ...

    def sum(self, path: bytes) -> str | None:
        """The TarSum of the member of that path, hexadecimal; None if there is none. SourceChanged, SourceFailed."""
        ...

    def more(self, path: bytes) -> bytes:
        """What else decides about a file's content than its sum: of a hard link, whose header is all that its sum goes
        over, the sum of the file."""
        ...

    def check(self, path: bytes, status: os.stat_result) -> None:
        """SourceChanged if a file that was hashed is another one by now: what is copied must be what was hashed."""
        ...


@dataclass(frozen=True, slots=True)
class Header:
    """What the sum of a member goes over besides its content."""

    told: bytes
    size: int
    """Of the content that the sum goes over."""
    identity: tuple[int, ...]
    link: bytes = b""
    """Of a further name of a file: the first one."""


class DirectoryTree:
    """A local directory as a context, without what `excluded` matches and without sockets: hashed as the archive that
    the docker command would send of it. Each file is read once at most; the whole is walked when the first sum is asked
    for.

    A directory that was left out but of which something was brought back is there, as whoever unpacks that archive
    makes it: root's, 0755, without a sum."""

    def __init__(
        self,
        root: int,
        excluded: Patterns,
        *,
        owner: tuple[int, int] | None = (0, 0),
        hashing: Hashing = Hashing.DOCKER_24,
    ) -> None:
        self.root = root
        self._excluded = excluded
        self._owner = owner
        self._hashing = hashing
        self._headers: dict[bytes, Header | None] | None = None
        """Of everything that the archive has, and None for directories that it only implies."""
        self._sums: dict[bytes, str] = {}

    def status(self, path: bytes) -> os.stat_result | None:
        found = paths.status(self.root, path)
        if found is None or stat.S_ISSOCK(found.st_mode):
            return None
        if self._select().emits(path, stat.S_ISDIR(found.st_mode)):
            return found
        implied = stat.S_ISDIR(found.st_mode) and path in self._known()
        return _implied(found) if implied else None

    def followed(self, path: bytes) -> bytes:
        select = self._select()
        return paths.followed(self.root, path, lambda link: select.emits(link, False))

    def open(self, path: bytes) -> int:
        return _opened(self.root, path)

    def nodes(self, start: bytes) -> Generator[Node, None, None]:
        known, count = self._headers, 0
        with closing(self._there(start)) as nodes:
            for node in nodes:
                if known is not None and node.path:
                    if node.path not in known:
                        raise SourceChanged(f"cannot read {shown(node.path)}: it was not there a moment ago")
                    count += 1
                yield node
        if known is not None:
            below = start + b"/" if start else b""
            if count != sum(path == start or path.startswith(below) for path in known):
                raise SourceChanged(f"cannot read {shown(start or b'.')}: something in it is gone")

    def _there(self, start: bytes) -> Generator[Node, None, None]:
        """The walk, with the directories that are only implied in front of the first thing in them."""
        select = self._select()
        given = {b""}
        walked = walk(self.root, start=start, select=select)
        with closing(paths.of_one(walked, os.fstat(self.root).st_dev)) as nodes:
            for node in nodes:
                if stat.S_ISSOCK(node.stat.st_mode):
                    continue
                for above in paths.above(node.path):
                    if above not in given and len(above) >= len(start):
                        given.add(above)
                        found = paths.status(self.root, above)
                        if found is not None and not select.emits(above, True):
                            yield Node(above, above, self.root, _implied(found))
                yield node

    def sum(self, path: bytes) -> str | None:
        if path not in self._sums:
            header = self._known().get(path)
            if header is None:
                return None
            self._sums[path] = _summed(self.root, path, header)
        return self._sums[path]

    def _select(self) -> Selection:
        return Selection(None, self._excluded)

    def _known(self) -> dict[bytes, Header | None]:
        if self._headers is None:
            self._headers = dict(self._all())
        return self._headers

    def _all(self) -> Iterator[tuple[bytes, Header | None]]:
        # One packer for all: which name of a file is the file, and which are links to it, is a matter of their order.
        packing, select = packer(self._owner), self._select()
        with closing(self._there(b"")) as nodes:
            for node in nodes:
                if node.path and not select.emits(node.path, stat.S_ISDIR(node.stat.st_mode)):
                    yield node.path, None
                elif node.path and (made := packing.entry(node)) is not None:
                    yield node.path, header(made[0], node.stat, self._hashing)

    def more(self, path: bytes) -> bytes:
        header = (self._headers or {}).get(path)
        return (self.sum(header.link) or "").encode() if header is not None and header.link else b""

    def check(self, path: bytes, status: os.stat_result) -> None:
        if self._headers is None or not path:
            return
        header = self._headers.get(path)
        if header is not None:
            _check(path, header, status)


class _Whole:
    """Everything below a root."""

    def __init__(self, root: int) -> None:
        self.root = root
        self._sums: dict[bytes, str] = {}

    def status(self, path: bytes) -> os.stat_result | None:
        return paths.status(self.root, path)

    def followed(self, path: bytes) -> bytes:
        return paths.followed(self.root, path)

    def open(self, path: bytes) -> int:
        return _opened(self.root, path)

    def nodes(self, start: bytes) -> Generator[Node, None, None]:
        return walk(self.root, start=start)

    def more(self, path: bytes) -> bytes:
        return b""

    def check(self, path: bytes, status: os.stat_result) -> None:
        pass  # nobody else writes here


class RecordedTree(_Whole):
    """An archive that was taken in, with the sums that its members had as they came (names as they were written).
    `modes` are those of files by their paths that have others on the disk, where their owner must be able to read them.
    """

    def __init__(self, root: int, sums: tarsum.Sums, modes: Mapping[bytes, int] = _NO_MODES) -> None:
        super().__init__(root)
        self._modes = modes
        for file in reversed(sums.files):
            self._sums[file.name] = file.sum  # of several with one name the first counts

        self._whole = b""
        if not sums.plain:
            # Which member a file's content is of, only extracting could tell: any other archive is another one.
            made = hashlib.sha256()
            for file in sums.files:
                made.update(file.name + b"\0" + file.sum.encode())
            self._whole = made.digest()

    def status(self, path: bytes) -> os.stat_result | None:
        found = super().status(path)
        return None if found is None else self._moded(path, found)

    def nodes(self, start: bytes) -> Generator[Node, None, None]:
        with closing(super().nodes(start)) as nodes:
            for node in nodes:
                node.stat = self._moded(node.path, node.stat)
                yield node

    def _moded(self, path: bytes, found: os.stat_result) -> os.stat_result:
        mode = self._modes.get(path)
        return found if mode is None else described(found, mode, found.st_uid, found.st_gid)

    def sum(self, path: bytes) -> str | None:
        return self._sums.get(path or b".")

    def more(self, path: bytes) -> bytes:
        return self._whole


class RootTree(_Whole):
    """Any directory as it lies there: one with a file that was fetched."""

    def __init__(
        self, root: int, hashing: Hashing = Hashing.DOCKER_24, *, owner: tuple[int, int] | None = None
    ) -> None:
        super().__init__(root)
        self._hashing = hashing
        self._owner = owner

    def sum(self, path: bytes) -> str | None:
        if path not in self._sums:
            found = self._summed(path)
            if found is None:
                return None
            self._sums[path] = found
        return self._sums[path]

    def _summed(self, path: bytes) -> str | None:
        try:
            with closing(walk(self.root, start=path)) as nodes:
                node = next(nodes)
                made = packer(self._owner).entry(node)
        except NotFound:
            return None
        if made is None:
            return None
        entry = made[0]
        return _summed(self.root, path, header(entry, node.stat, self._hashing))


def _opened(root: int, path: bytes) -> int:
    try:
        return open_below(root, path, _READ)
    except OSError as error:
        raise SourceChanged(f"cannot read {shown(path)}: {error.strerror}") from None


def described(found: os.stat_result, mode: int, uid: int, gid: int) -> os.stat_result:
    """The status of a file with another mode (its type stays) and owner."""
    numbers = (stat.S_IFMT(found.st_mode) | mode, *found[1:4], uid, gid, *found[6:10])
    return os.stat_result(numbers, {name: getattr(found, name) for name in _MORE})


def _implied(found: os.stat_result) -> os.stat_result:
    """What a directory is like that an archive holds only by what is in it."""
    now = time.time_ns()
    times = {f"st_{each}time_ns": now for each in "amc"}
    seconds = now // 1_000_000_000
    numbers = (stat.S_IFDIR | 0o755, found.st_ino, found.st_dev, 2, 0, 0, 0, seconds, seconds, seconds)
    return os.stat_result(numbers, times)


def packer(owner: tuple[int, int] | None) -> Packer:
    """One that reads no content; with the owner that all files are given, None for their own."""
    return Packer(Options(owner=owner), Session(MountTable(), Report(), lambda: None), Cursor(read=False), live=False)


def header(entry: Entry, status: os.stat_result, hashing: Hashing) -> Header:
    """What is hashed of a member with that header, made of a file with that status."""
    said = entry.mode
    if hashing is Hashing.DOCKER_23:
        said |= stat.S_IFMT(status.st_mode)
    told = tarsum.told(entry, Written(entry.type, said, entry.size), Version.V1)
    link = entry.linkname if entry.type == LINK else b""
    return Header(told, entry.size if entry.type == REGULAR else 0, _identity(status), link)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """What tells one version of a file from another. Of a directory only what its header says: it is not read."""
    known = (status.st_mode, status.st_uid, status.st_gid)
    if stat.S_ISDIR(status.st_mode):
        return known
    return (*known, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _check(path: bytes, header: Header, status: os.stat_result) -> None:
    if header.identity != _identity(status):
        raise SourceChanged(f"cannot read {shown(path)}: it changed meanwhile")


def _summed(root: int, path: bytes, header: Header) -> str:
    if not header.size:
        return tarsum.entry_sum(header.told, ())
    fd = _opened(root, path)
    try:
        _check(path, header, os.fstat(fd))
        found = tarsum.entry_sum(header.told, content.blocks(fd, header.size, path))
        _check(path, header, os.fstat(fd))  # a file that was written while it was read has no sum
        return found
    finally:
        os.close(fd)
