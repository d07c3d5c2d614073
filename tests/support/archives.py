"""What other programs read in an archive: its entries as plain records, and the trees they unpack from it.

assert entries(data, "bsdtar") == records(root)
same_tree(unpacked(data, tmp_path / "out"), root)
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import subprocess
import tarfile
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from support import trees
from support.engines import needs
from support.unpacking import filtered

READERS = ("tar", "bsdtar", "tarfile")
"""Three readers that have no code in common: GNU tar, libarchive's bsdtar, and Python's tarfile."""


class Record(NamedTuple):
    """One entry as every reader tells it. `type` is the letter of `ls`, or `h` for a hard link."""

    name: bytes
    type: str
    mode: int
    owner: tuple[int, int]
    size: int = 0
    target: bytes = b""
    device: tuple[int, int] = (0, 0)


_ALWAYS = {
    # Two warnings that say nothing about how the archive was read.
    "tar": ["--warning=no-unknown-keyword", "--warning=no-timestamp", "--numeric-owner"],
    "bsdtar": ["--numeric-owner"],
}


def entries(data: bytes, reader: str = "tarfile") -> list[Record]:
    """Every entry in order, as `reader` sees it. AssertionError with its complaint if it has any."""
    return {"tar": _tar, "bsdtar": _bsdtar, "tarfile": _tarfile}[reader](data)


def records(root: trees.Root, *, base: bytes = b"", first: bytes | None = None) -> list[Record]:
    """What an archive of the tree should hold, told from the file system alone: depth first, names in byte order,
    sockets left out, later names of a file as links to its first. Names begin with `base`; `first` is the root's own,
    None to leave it out.
    """
    top = os.fsencode(root) if not isinstance(root, int) else b"/proc/self/fd/%d" % root
    found: list[Record] = []
    if first is not None:
        status = os.stat(top)
        found.append(Record(first, "d", stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)))
    _walked(top, base, {}, found)
    return found


def _walked(directory: bytes, prefix: bytes, links: dict[tuple[int, int], bytes], found: list[Record]) -> None:
    for name in sorted(os.listdir(directory)):
        full, path = os.path.join(directory, name), prefix + name
        status = os.lstat(full)
        letter, mode = stat.filemode(status.st_mode)[0], stat.S_IMODE(status.st_mode)
        owner = (status.st_uid, status.st_gid)
        key = (status.st_dev, status.st_ino)
        if letter == "s":
            continue
        if letter == "d":
            found.append(Record(path + b"/", "d", mode, owner))
            _walked(full, path + b"/", links, found)
        elif key in links:
            found.append(Record(path, "h", mode, owner, target=links[key]))
        else:
            if status.st_nlink > 1:
                links[key] = path
            size = status.st_size if letter == "-" else 0
            target = os.readlink(full) if letter == "l" else b""
            device = (os.major(status.st_rdev), os.minor(status.st_rdev)) if letter in "cb" else (0, 0)
            found.append(Record(path, letter, mode, owner, size, target, device))


def unpacked(data: bytes | Path, target: Path, program: str = "tar") -> Path:
    """The directory `target`, made, with everything in it that `program` restores as root."""
    target.mkdir()
    if program == "tarfile":
        with tarfile.open(data) if isinstance(data, Path) else tarfile.open(fileobj=io.BytesIO(data)) as archive:
            archive.extractall(target, numeric_owner=True, **filtered("fully_trusted"))
        return target
    options = {"tar": ["--xattrs", "--xattrs-include=*"], "bsdtar": []}
    content = data.read_bytes() if isinstance(data, Path) else data
    _run([program, *_ALWAYS[program], *options[program], "-C", str(target), "-xpf", "-"], content)
    return target


def same_tree(
    given: trees.Root,
    expected: trees.Root,
    *,
    seconds: bool = False,
    mtimes: bool = True,
    xattrs: Callable[[str], bool] = lambda name: True,
    without: Collection[bytes] = (),
    untimed: Collection[bytes] = (),
) -> None:
    """Asserts that two trees are alike below their roots: types, modes, owners, targets, groups of hard links, devices,
    xattrs (those that `xattrs` accepts, capabilities among them), mtimes (with `seconds` their whole seconds), content.

    Paths in `without` are left out with all below them; the mtimes of those in `untimed` are not compared.
    """
    left, right = (_shown(tree, seconds, mtimes, xattrs, without, untimed) for tree in (given, expected))
    paths = sorted(left.keys() | right.keys())
    wrong = [f"{p!r}: {_differing(left.get(p), right.get(p))}" for p in paths if left.get(p) != right.get(p)]
    assert not wrong, f"{len(wrong)} of {len(right)} differ:\n" + "\n".join(wrong[:20])


def _differing(given: Mapping[str, object] | None, expected: Mapping[str, object] | None) -> str:
    if expected is None:
        return f"should not be there, is {given}"
    if given is None:
        return f"is missing, should be {expected}"
    keys = [key for key in given.keys() | expected.keys() if given.get(key) != expected.get(key)]
    return ", ".join(f"{key} is {given.get(key)!r}, should be {expected.get(key)!r}" for key in sorted(keys))


def _shown(
    root: trees.Root,
    seconds: bool,
    mtimes: bool,
    xattrs: Callable[[str], bool],
    without: Collection[bytes],
    untimed: Collection[bytes],
) -> dict[bytes, dict[str, object]]:
    shown = {}
    for path, item in trees.snapshot(root, mtimes=mtimes).items():
        if any(path == each or path.startswith(each + b"/") for each in without):
            continue
        content = item.pop("content", None)
        if isinstance(content, bytes):
            item["size"], item["sha256"] = len(content), hashlib.sha256(content).hexdigest()
        if path in untimed:
            item.pop("mtime", None)
        elif seconds and isinstance(item.get("mtime"), int):
            item["mtime"] = item["mtime"] // 1_000_000_000  # type: ignore[operator]
        found = item.pop("xattrs", None)
        kept = {name: value for name, value in found.items() if xattrs(name)} if isinstance(found, dict) else {}
        if kept:
            item["xattrs"] = kept
        shown[path] = item
    return shown


def _run(command: Iterable[str], data: bytes) -> bytes:
    program, *arguments = command
    needs(program)
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    done = subprocess.run([program, *arguments], input=data, capture_output=True, env=environment, timeout=120)
    complaint = done.stderr.decode(errors="replace")
    assert done.returncode == 0 and not complaint, f"{program} does not take the archive: {complaint}"
    return done.stdout


_LISTED = {
    "tar": re.compile(rb'(.)(.{9})[+.]? (\d+)/(\d+) +(\d+)(?:,(\d+))? \S+ \S+ +"((?:[^"\\]|\\.)*)"(?:.*?"(.*)")?'),
    "bsdtar": re.compile(
        rb"(.)(.{9})[+ ]? +\d+ +(\d+) +(\d+) +(\d+)(?:,(\d+))?"
        rb" \w\w\w +\d+ +(?:\d\d:\d\d|\d+) (.*?)(?: (?:->|link to) (.*))?"
    ),
}
_ESCAPED = re.compile(rb"\\([0-7]{3}|.)")
_PLAIN = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}


def _tar(data: bytes) -> list[Record]:
    listed = _run(["tar", *_ALWAYS["tar"], "--quoting-style=c", "--full-time", "-tvf", "-"], data)
    return _parsed(listed, "tar")


def _bsdtar(data: bytes) -> list[Record]:
    return _parsed(_run(["bsdtar", *_ALWAYS["bsdtar"], "-tvf", "-"], data), "bsdtar")


def _parsed(listed: bytes, program: str) -> list[Record]:
    found = []
    for line in listed.split(b"\n")[:-1]:
        match = _LISTED[program].fullmatch(line)
        assert match, f"{program} lists {line!r}"
        letter, mode, uid, gid, number, minor, name, target = match.groups()
        device = (int(number), int(minor)) if minor is not None else (0, 0)
        found.append(
            Record(
                _unescaped(name),
                letter.decode(),
                _mode(mode),
                (int(uid), int(gid)),
                0 if minor is not None else int(number),
                _unescaped(target or b""),
                device,
            )
        )
    return found


def _unescaped(quoted: bytes) -> bytes:
    def one(match: re.Match[bytes]) -> bytes:
        code = match[1]
        return bytes([int(code, 8)]) if len(code) == 3 else _PLAIN.get(code, code)

    return _ESCAPED.sub(one, quoted)


def _mode(letters: bytes) -> int:
    mode = 0
    for place, letter in enumerate(letters.decode()):
        if letter not in "-ST":
            mode |= 0o400 >> place
        if letter in "sStT":
            mode |= 0o4000 >> (place // 3)
    return mode


def _tarfile(data: bytes) -> list[Record]:
    letters = {
        tarfile.DIRTYPE: "d",
        tarfile.SYMTYPE: "l",
        tarfile.LNKTYPE: "h",
        tarfile.CHRTYPE: "c",
        tarfile.BLKTYPE: "b",
        tarfile.FIFOTYPE: "p",
    }
    found = []
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for info in archive:
            letter = letters.get(info.type, "-")
            name = info.name.encode("utf-8", "surrogateescape") + (b"/" if letter == "d" else b"")
            target = info.linkname.encode("utf-8", "surrogateescape") if letter in "lh" else b""
            device = (info.devmajor, info.devminor) if letter in "cb" else (0, 0)
            size = info.size if letter == "-" else 0
            found.append(Record(name, letter, info.mode, (info.uid, info.gid), size, target, device))
    return found
