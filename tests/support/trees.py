"""Trees of files as values: say what lies where, make it, read it back as plain data to compare.

    make(root, Dir("etc", File("passwd", "root:x:0"), Symlink("mtab", "../proc/mounts")), Device("dev/null", 1, 3))
    assert snapshot(root) == snapshot(other)

Paths are relative to the root of the tree, `str` (UTF-8) or bytes; missing parents come into being as 0755. Items are
made in the order given, so mutations (`Remove`, `Rename`, `Append`, `Set`) follow what they change. Times are set last.
Path strings are fine here: nobody attacks a tree while a test makes it (support.races does that afterwards).
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

T0 = 1_700_000_000_123_456_789
"""Nanoseconds: the mtime of everything that says nothing else."""

Name = str | bytes
Root = str | bytes | os.PathLike[str] | int


@dataclass(frozen=True, kw_only=True)
class Item:
    """Attributes that most items have. `mtime` None leaves what the making gave; `mode` is exact, umask or not."""

    owner: tuple[int, int] = (0, 0)
    mode: int | None = None
    mtime: int | None = T0
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, init=False)
class Dir(Item):
    """A directory with children, or more children and other attributes for one that is there."""

    path: Name
    children: tuple[object, ...]

    def __init__(self, path: Name, *children: object, **attributes: object) -> None:
        Item.__init__(self, **attributes)  # type: ignore[arg-type]
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "children", children)


@dataclass(frozen=True)
class File(Item):
    """A regular file; replaces whatever file has the name (a new inode)."""

    path: Name
    content: str | bytes = b""


@dataclass(frozen=True)
class Sparse(Item):
    """A regular file of `size` bytes, a hole but for `data` (offset to bytes)."""

    path: Name
    size: int
    data: Mapping[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Symlink(Item):
    path: Name
    target: Name


@dataclass(frozen=True)
class Link:
    """One more name for the file at `target` (a path from the root)."""

    path: Name
    target: Name


@dataclass(frozen=True)
class Device(Item):
    path: Name
    major: int = 1
    minor: int = 3
    block: bool = False


@dataclass(frozen=True)
class Fifo(Item):
    path: Name


@dataclass(frozen=True)
class Socket(Item):
    path: Name


@dataclass(frozen=True)
class Whiteout(Item):
    """An overlay whiteout as a layer directory holds it: character device 0:0."""

    path: Name


@dataclass(frozen=True)
class Opaque:
    """The overlay mark on a directory of a layer (made if missing)."""

    path: Name
    userxattr: bool = False


@dataclass(frozen=True)
class Remove:
    """Removes a file or a whole directory."""

    path: Name


@dataclass(frozen=True)
class Rename:
    path: Name
    new: Name


@dataclass(frozen=True)
class Append:
    """Writes at the end of an existing file, in place."""

    path: Name
    content: str | bytes
    mtime: int | None = None


@dataclass(frozen=True)
class Set:
    """Changes attributes of something that exists, in place."""

    path: Name
    owner: tuple[int, int] | None = None
    mode: int | None = None
    mtime: int | None = None
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


def make(root: Root, *items: object) -> bytes:
    """Makes the items below `root` (a path, created if missing, or a descriptor); returns the root's path."""
    base = _base(root)
    os.makedirs(base, exist_ok=True)
    times: dict[bytes, int] = {}
    for item in items:
        _make(base, b"", item, times)
    for path in sorted(times, key=lambda p: -p.count(b"/")):
        if os.path.lexists(path):
            os.utime(path, ns=(times[path], times[path]), follow_symlinks=False)
    return base


def snapshot(root: Root, *, mtimes: bool = True, marks: bool = False) -> dict[bytes, dict[str, object]]:
    """Every path below the root (not the root itself) with what it is, as plain values that compare.

    Hard links show as `links`, all names of the inode inside the tree. Overlay marks (`trusted.overlay.*`,
    `user.overlay.*`) are left out unless `marks`; `mtimes=False` leaves times out.
    """
    base = _base(root)
    seen: dict[bytes, dict[str, object]] = {}
    names: dict[tuple[int, int], list[bytes]] = {}
    pending = [b""]
    while pending:
        directory = pending.pop()
        for name in os.listdir(os.path.join(base, directory)):
            path = os.path.join(directory, name)
            full = os.path.join(base, path)
            st = os.lstat(full)
            seen[path] = _seen(full, st, mtimes, marks)
            if stat.S_ISDIR(st.st_mode):
                pending.append(path)
            elif st.st_nlink > 1:
                names.setdefault((st.st_dev, st.st_ino), []).append(path)
    for group in names.values():
        if len(group) > 1:
            for path in group:
                seen[path]["links"] = tuple(sorted(group))
    return dict(sorted(seen.items()))


def deep(root: Root, depth: int, name: bytes = b"d", *, leaf: str | bytes = b"bottom", siblings: bool = False) -> None:
    """A chain of `depth` directories with a file `leaf` at its bottom (and `z` beside each directory); use `erase`."""
    here = os.open(_base(root), os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        if siblings:
            os.close(os.open(b"z", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=here))
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open(_bytes(leaf), os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=here))
    os.close(here)


def copy(source: Root, target: Root) -> bytes:
    """A faithful copy of a tree, links, devices, times and xattrs included."""
    subprocess.run(["cp", "-a", "--", _base(source) + b"/.", _base(target)], check=True)
    return _base(target)


def erase(root: Root) -> None:
    """Removes a tree of any depth (shutil.rmtree recurses)."""
    subprocess.run(["rm", "-rf", "--", _base(root)], check=True)


def _make(base: bytes, prefix: bytes, item: object, times: dict[bytes, int]) -> None:
    if isinstance(item, Sequence):
        for one in item:
            _make(base, prefix, one, times)
        return
    relative = os.path.join(prefix, _bytes(item.path))  # type: ignore[attr-defined]
    path = os.path.join(base, relative)
    if isinstance(item, Remove):
        shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
        return
    if isinstance(item, Set):
        _attributes(path, item.owner, item.mode, item.xattrs)
        if item.mtime is not None:
            times[path] = item.mtime
        return
    if isinstance(item, Append):
        if not stat.S_ISREG(os.lstat(path).st_mode):  # a FIFO would block, a device might do anything
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        with open(path, "ab") as file:
            file.write(_bytes(item.content))
        if item.mtime is not None:
            times[path] = item.mtime
        return
    if isinstance(item, Rename):
        new = os.path.join(base, prefix, _bytes(item.new))
        try:
            os.rename(path, new)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            subprocess.run(
                ["mv", "-T", "--", path, new], check=True, stderr=subprocess.DEVNULL
            )  # an overlay without redirect_dir: copy, remove
        return
    _parents(base, relative, times)
    if isinstance(item, Opaque):
        os.makedirs(path, exist_ok=True)
        os.setxattr(path, b"user.overlay.opaque" if item.userxattr else b"trusted.overlay.opaque", b"y")
        return
    if isinstance(item, Link):
        os.link(os.path.join(base, _bytes(item.target)), path, follow_symlinks=False)
        return
    assert isinstance(item, Item), item
    if os.path.lexists(path) and not isinstance(item, Dir):
        os.unlink(path)
    mode = item.mode
    if isinstance(item, Dir):
        os.makedirs(path, exist_ok=True)
        mode = 0o755 if mode is None else mode
    elif isinstance(item, File):
        with open(path, "wb") as file:
            file.write(_bytes(item.content))
    elif isinstance(item, Sparse):
        with open(path, "wb") as file:
            file.truncate(item.size)
            for offset, data in item.data.items():
                file.seek(offset)
                file.write(data)
    elif isinstance(item, Symlink):
        os.symlink(_bytes(item.target), path)
    elif isinstance(item, Device):
        os.mknod(path, 0o600 | (stat.S_IFBLK if item.block else stat.S_IFCHR), os.makedev(item.major, item.minor))
    elif isinstance(item, Fifo):
        os.mkfifo(path)
    elif isinstance(item, Socket):
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
    elif isinstance(item, Whiteout):
        os.mknod(path, stat.S_IFCHR, 0)
        mode = 0 if mode is None else mode
    link = isinstance(item, Symlink)
    _attributes(path, item.owner, None if link else 0o644 if mode is None else mode, item.xattrs)
    if item.mtime is not None:
        times[path] = item.mtime
    if isinstance(item, Dir):
        for child in item.children:
            _make(base, relative, child, times)


def _attributes(path: bytes, owner: tuple[int, int] | None, mode: int | None, xattrs: Mapping[str, bytes]) -> None:
    # In this order: chown clears set-id bits and capabilities.
    if owner is not None and os.geteuid() == 0:
        os.chown(path, *owner, follow_symlinks=False)
    if mode is not None:
        os.chmod(path, mode)
    for name, value in xattrs.items():
        os.setxattr(path, name, value, follow_symlinks=False)


def _parents(base: bytes, relative: bytes, times: dict[bytes, int]) -> None:
    path = base
    for component in relative.split(b"/")[:-1]:
        path = os.path.join(path, component)
        if not os.path.lexists(path):
            os.mkdir(path)
            os.chmod(path, 0o755)
            times[path] = T0


def _seen(full: bytes, st: os.stat_result, mtimes: bool, marks: bool) -> dict[str, object]:
    one: dict[str, object] = {
        "type": {
            stat.S_IFREG: "file",
            stat.S_IFDIR: "dir",
            stat.S_IFLNK: "symlink",
            stat.S_IFCHR: "char",
            stat.S_IFBLK: "block",
            stat.S_IFIFO: "fifo",
            stat.S_IFSOCK: "socket",
        }[stat.S_IFMT(st.st_mode)],
        "mode": oct(stat.S_IMODE(st.st_mode)),
        "owner": (st.st_uid, st.st_gid),
    }
    if mtimes:
        one["mtime"] = st.st_mtime_ns
    if stat.S_ISREG(st.st_mode):
        with open(full, "rb") as file:
            one["content"] = file.read()
    elif stat.S_ISLNK(st.st_mode):
        one["target"] = os.readlink(full)
    elif stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
        one["device"] = (os.major(st.st_rdev), os.minor(st.st_rdev))
    xattrs = {
        name: os.getxattr(full, name, follow_symlinks=False)
        for name in os.listxattr(full, follow_symlinks=False)
        if marks or not name.startswith(("trusted.overlay.", "user.overlay."))
    }
    if xattrs:
        one["xattrs"] = xattrs
    return one


def _base(root: Root) -> bytes:
    return b"/proc/self/fd/%d" % root if isinstance(root, int) else os.fsencode(root)


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value
