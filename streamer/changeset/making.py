"""Making one file of an archive in an open directory, where nothing has its name yet."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from typing import Final

from streamer.changeset.attributes import Attributing, Skipped
from streamer.changeset.failures import quoted
from streamer.changeset.member import BLOCK, CHAR, FIFO, SYMLINK, MemberLike, attributes_of
from streamer.errors import InvalidArchive

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Writes everything at the descriptor's place; OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def make_regular(
    parent: int,
    name: bytes,
    member: MemberLike,
    content: Iterator[bytes] | bytes | None,
    give: Attributing,
    skipped: Skipped,
) -> None:
    """A regular file with its content; the extents of a sparse one at their places, with holes between them.

    Raises InvalidArchive when the content is longer or shorter than the member says; OSError.
    """
    blocks: Iterable[bytes] = (content,) if isinstance(content, bytes) else content or ()
    fd = os.open(name, _NEW, 0o600, dir_fd=parent)
    try:
        extents = _extents(member)
        if extents is None:
            _fill(fd, blocks, ((0, member.size),), member)
        else:
            _fill(fd, blocks, extents, member)
            os.ftruncate(fd, member.size)
        give.to_file(fd, attributes_of(member), skipped)
    finally:
        os.close(fd)


def make_special(parent: int, name: bytes, member: MemberLike, give: Attributing, skipped: Skipped) -> None:
    """A symbolic link (its target is data, wherever it points), FIFO or device."""
    attributes = attributes_of(member)
    if member.type == SYMLINK:
        if not member.linkname or b"\0" in member.linkname:
            raise InvalidArchive(f"the symbolic link {quoted(member.name)} has no usable target")
        os.symlink(member.linkname, name, dir_fd=parent)
        give.to_symlink(parent, name, attributes, skipped)
        return
    if member.type == FIFO:
        os.mkfifo(name, 0o600, dir_fd=parent)
    elif member.type in (CHAR, BLOCK):
        kind = stat.S_IFCHR if member.type == CHAR else stat.S_IFBLK
        try:
            device = os.makedev(member.devmajor, member.devminor)
        except OverflowError:
            raise InvalidArchive(f"{quoted(member.name)} has a device number that cannot be") from None
        os.mknod(name, kind | 0o600, device, dir_fd=parent)
    else:
        raise InvalidArchive(f"{quoted(member.name)} is of the unknown type {member.type!r}")
    give.to_special(parent, name, attributes, skipped)


def _extents(member: MemberLike) -> tuple[tuple[int, int], ...] | None:
    if member.sparse is None:
        return None
    end = 0
    for offset, length in member.sparse:
        if offset < end or length < 0 or offset + length > member.size:
            raise InvalidArchive(f"the sparse map of {quoted(member.name)} is out of order or larger than the file")
        end = offset + length
    return member.sparse


def _fill(fd: int, blocks: Iterable[bytes], extents: tuple[tuple[int, int], ...], member: MemberLike) -> None:
    places = iter(extents)
    offset, room = next(places, (0, 0))
    for block in blocks:
        view = memoryview(block)
        while len(view):
            while room == 0:
                try:
                    offset, room = next(places)
                except StopIteration:
                    raise InvalidArchive(f"{quoted(member.name)} has more content than its header says") from None
            written = os.pwrite(fd, view[:room], offset)
            view = view[written:]
            offset += written
            room -= written
    if room or any(length for _, length in places):
        raise InvalidArchive(f"{quoted(member.name)} has less content than its header says")
