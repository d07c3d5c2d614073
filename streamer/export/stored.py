"""The content of one open file on its way into an archive."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

from streamer.changeset import content
from streamer.changeset.change import Node
from streamer.changeset.failures import changed
from streamer.tar.entry import Entry
from streamer.tar.region import LEAST, Chunk, Region


class Stored:
    """Blocks of at most 1 MiB, without the first `skip` bytes of what is stored. Owns the descriptor from the moment it
    is made: a generator never begun would not close it.

    SourceChanged if the file ends too early, and with `strict` if it is another than the node says after a block was
    read. With `regions`, for files that nobody writes to any more, what is worth it is not read unless there are holes.
    """

    def __init__(
        self, descriptor: int, entry: Entry, node: Node, *, strict: bool, regions: bool = False, skip: int = 0
    ) -> None:
        self._descriptor = descriptor
        self._node = node
        self._strict = strict
        self._blocks: Iterator[Chunk]
        if entry.sparse is None and regions:
            self._blocks = self._regions(entry.size, skip)
        elif entry.sparse is None:
            self._blocks = content.blocks(descriptor, entry.size, node.path, offset=skip)
        else:
            self._blocks = content.extent_blocks(descriptor, _without(entry.sparse, skip), node.path)

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        block = next(self._blocks)
        if isinstance(block, bytes):
            self._check()
        return block

    def _regions(self, size: int, offset: int) -> Iterator[Chunk]:
        read = partial(content.read, self._descriptor, path=self._node.path)
        whole = os.fstat(self._descriptor).st_blocks * 512 >= size
        while whole and size - offset >= LEAST:
            length = min(content.BLOCK, size - offset)
            yield Region(self._descriptor, offset, length, read, self._check)
            offset += length
        yield from content.blocks(self._descriptor, size, self._node.path, offset=offset)

    def _check(self) -> None:
        if self._strict:
            unchanged(self._descriptor, self._node)

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


def unchanged(descriptor: int, node: Node) -> None:
    """SourceChanged if the open file is not as its node says: what was read is then of no version that was told of."""
    now, then = os.fstat(descriptor), node.stat if node.data is None else node.data.stat
    if (now.st_size, now.st_mtime_ns, now.st_ctime_ns) != (then.st_size, then.st_mtime_ns, then.st_ctime_ns):
        raise changed(node.path, "it was written meanwhile")


def _without(extents: tuple[tuple[int, int], ...], skip: int) -> tuple[tuple[int, int], ...]:
    left = []
    for offset, length in extents:
        passed = min(skip, length)
        skip -= passed
        if length > passed or not skip:
            left.append((offset + passed, length - passed))
    return tuple(left)
