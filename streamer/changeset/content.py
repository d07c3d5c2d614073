"""Reading one node: its bytes, its holes, its link target, its extended attributes.

Everything goes through the descriptor of the node's directory and never follows a link, so that what is read is the
node or nothing. FIFOs, devices and sockets are never opened here.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Iterator, Sequence
from typing import Final

from streamer.changeset.change import Node
from streamer.changeset.failures import changed, reading_failed
from streamer.errors import Unsupported

BLOCK: Final = 1 << 20
"""Bytes per read, and per block of zeros that stands for a hole."""

_ZEROS: Final = bytes(BLOCK)
_EXTENTS: Final = 1 << 16
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_CAPABILITY: Final = "security.capability"
_MARKS: Final = ("trusted.overlay.", "user.overlay.", "user.fuseoverlayfs.")


def open_regular(node: Node) -> int:
    """A descriptor of the file's content, the caller's to close; the access time stays as it is where permitted.

    Raises SourceChanged when something else has the name by now, or nothing: a node's header must never
    stand before another file's bytes.
    """
    if not stat.S_ISREG(node.stat.st_mode):
        raise Unsupported(f"only regular files have content: {node.path!r}")
    if node.data is not None:
        return open_regular(node.data)
    try:
        try:
            fd = os.open(node.name, _READ | os.O_NOATIME, dir_fd=node.parent)
        except PermissionError:  # O_NOATIME needs the file's owner or CAP_FOWNER
            fd = os.open(node.name, _READ, dir_fd=node.parent)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
            raise changed(node.path, "it was removed or replaced") from None
        raise reading_failed(node.path, error) from None
    st = os.fstat(fd)
    if not stat.S_ISREG(st.st_mode) or st.st_ino != node.stat.st_ino or st.st_dev != node.stat.st_dev:
        os.close(fd)
        raise changed(node.path, "another file has its name now")
    return fd


def blocks(fd: int, size: int, path: bytes = b"", *, offset: int = 0) -> Generator[bytes, None, None]:
    """The first `size` bytes of an open file, from `offset` on, 1 MiB at a time; the descriptor stays the caller's.

    What a file has grown by is not read. One that ends before `size` raises SourceChanged naming `path`, after the
    blocks that were there. Holes of 1 MiB and more are not read but yielded as one shared block of zeros, again and
    again: an empty terabyte costs its zeros, not its reading.
    """
    holes = size > BLOCK and os.fstat(fd).st_blocks * 512 < size
    while offset < size:
        if holes:
            hole = _hole(fd, offset, size, path)
            if hole >= BLOCK or offset + hole == size:
                yield from _zeros(hole)
                offset += hole
                if os.fstat(fd).st_size < offset:  # SEEK_DATA says the same for a hole and for nothing at all
                    raise changed(path, f"it ends before byte {offset}")
                continue
        block = read(fd, min(BLOCK, size - offset), offset, path)
        yield block
        offset += len(block)


def extents(fd: int, size: int) -> tuple[tuple[int, int], ...] | None:
    """Where the first `size` bytes hold data, as (offset, length) in ascending order; None if nowhere is a hole.

    A file that is all hole has no extents: `()`. After 65 536 extents the rest of the file counts as one.
    Raises OSError only for what reading would meet as well.
    """
    if size == 0 or os.fstat(fd).st_blocks * 512 >= size:
        return None
    found: list[tuple[int, int]] = []
    offset = 0
    while offset < size:
        try:
            data = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            if error.errno == errno.EINVAL:
                return None
            raise
        if data >= size:
            break
        end = size if len(found) >= _EXTENTS else min(size, os.lseek(fd, data, os.SEEK_HOLE))
        found.append((data, end - data))
        offset = end
    return None if found == [(0, size)] else tuple(found)


def extent_blocks(fd: int, extents: tuple[tuple[int, int], ...], path: bytes = b"") -> Generator[bytes, None, None]:
    """The bytes of the extents, one after the other, in blocks of at most 1 MiB; errors as of `blocks`."""
    for offset, length in extents:
        end = offset + length
        while offset < end:
            block = read(fd, min(BLOCK, end - offset), offset, path)
            yield block
            offset += len(block)


def link_target(node: Node) -> bytes:
    """Where a symbolic link points to, verbatim. SourceChanged if it is none any more."""
    try:
        return os.readlink(node.name, dir_fd=node.parent)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EINVAL):
            raise changed(node.path, "it was removed or replaced") from None
        raise reading_failed(node.path, error) from None


def capability(node: Node, fd: int | None = None) -> bytes | None:
    """The raw value of `security.capability`, None without one. `fd`, if the file is open anyway, makes it cheaper."""
    if node.xattrs is not None:
        return node.xattrs.get(_CAPABILITY.encode())
    return attribute(node, _CAPABILITY, fd)


def attribute(node: Node, name: str, fd: int | None = None) -> bytes | None:
    """One extended attribute by its whole name, raw, None without it."""
    return attributes(node, (name,), fd).get(name)


def attributes(node: Node, names: Sequence[str], fd: int | None = None) -> dict[str, bytes]:
    """Those of the extended attributes `names` that the node has, raw.

    Asks for the list of names first: for the usual file, which has none, that is one call without an exception (an
    ENODATA costs more than the whole call).
    """
    where, follow = _place(node, fd)
    try:
        present = os.listxattr(where, follow_symlinks=follow)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        if error.errno != errno.E2BIG:  # more names than listxattr can tell (tmpfs): ask for these
            raise _not_read(node, error) from None
        present = list(names)
    found = {}
    for name in names:
        if name in present and (value := _value(node, where, name, follow)) is not None:
            found[name] = value
    return found


def xattrs(node: Node, fd: int | None = None) -> dict[bytes, bytes]:
    """Every extended attribute, sorted by name, without the marks of overlayfs and fuse-overlayfs.

    Marks that overlayfs escaped for an overlay inside an overlay (`trusted.overlay.overlay.X`) come out as what they
    stand for (`trusted.overlay.X`). More than the kernel can list (E2BIG) raises SourceFailed: nothing is left out
    silently.
    """
    if node.xattrs is not None:
        return dict(node.xattrs)
    where, follow = _place(node, fd)
    try:
        names = os.listxattr(where, follow_symlinks=follow)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise _not_read(node, error) from None
    found: dict[bytes, bytes] = {}
    for name in sorted(names):
        shown_as = _unmarked(name)
        if shown_as is None:
            continue
        value = _value(node, where, name, follow)
        if value is not None:
            found[os.fsencode(shown_as)] = value
    return found


def _unmarked(name: str) -> str | None:
    for mark in _MARKS:
        if name.startswith(mark):
            rest = name[len(mark) :]
            return mark + rest.removeprefix("overlay.") if rest.startswith("overlay.") else None
    return name


def _place(node: Node, fd: int | None) -> tuple[bytes | int, bool]:
    if fd is not None:
        return fd, True
    # The magic link is the descriptor itself; only `name`, one component, is looked up, and not followed.
    return b"/proc/self/fd/%d/%b" % (node.parent, node.name), False


def _value(node: Node, where: bytes | int, name: str, follow: bool) -> bytes | None:
    try:
        return os.getxattr(where, name, follow_symlinks=follow)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return None
        raise _not_read(node, error) from None


def _not_read(node: Node, error: OSError) -> Exception:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return changed(node.path, "it was removed")
    return reading_failed(node.path, error)


def read(fd: int, length: int, offset: int, path: bytes) -> bytes:
    """Up to `length` bytes of an open file, at least one; SourceChanged naming `path` where it ends."""
    try:
        block = os.pread(fd, length, offset)
    except OSError as error:
        raise reading_failed(path, error) from None
    if not block:
        raise changed(path, f"it ends at byte {offset}")
    return block


def _hole(fd: int, offset: int, size: int, path: bytes) -> int:
    """How many bytes from `offset` on, up to `size`, are a hole."""
    try:
        return min(size, os.lseek(fd, offset, os.SEEK_DATA)) - offset
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size - offset
        if error.errno == errno.EINVAL:
            return 0
        raise reading_failed(path, error) from None


def _zeros(length: int) -> Iterator[bytes]:
    while length >= BLOCK:
        yield _ZEROS
        length -= BLOCK
    if length:
        yield _ZEROS[:length]
