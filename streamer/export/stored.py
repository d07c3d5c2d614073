"""The content of one open file on its way into an archive."""

from __future__ import annotations

import os
from collections.abc import Iterator

from streamer.changeset import content
from streamer.changeset.change import Node
from streamer.changeset.failures import changed
from streamer.tar.entry import Entry


class Stored:
    """Blocks of at most 1 MiB, without the first `skip` bytes of what is stored. Owns the descriptor from the moment it
    is made: a generator never begun would not close it.

    SourceChanged if the file ends too early, and with `strict` if it is another than the node says after a block was
    read.
    """

    def __init__(self, descriptor: int, entry: Entry, node: Node, *, strict: bool, skip: int = 0) -> None:
        self._descriptor = descriptor
        self._node = node
        self._strict = strict
        if entry.sparse is None:
            self._blocks = content.blocks(descriptor, entry.size, node.path, offset=skip)
        else:
            self._blocks = content.extent_blocks(descriptor, _without(entry.sparse, skip), node.path)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        block = next(self._blocks)
        if self._strict:
            unchanged(self._descriptor, self._node)
        return block

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
