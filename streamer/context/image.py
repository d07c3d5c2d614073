"""The file system of an image as a tree to take files from, and to look names up in: read from its layers, no mount."""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial

from streamer import drivers
from streamer.changeset import content
from streamer.changeset.change import Node
from streamer.context import paths
from streamer.context.recorded import Known, Recorded
from streamer.context.tree import Hashing, described, header, packer
from streamer.drivers.base import Tree
from streamer.errors import InvalidRequest, SourceChanged, shown
from streamer.export.closing import closing
from streamer.mounts.table import MountTable
from streamer.stores.base import Image
from streamer.tar import sum as tarsum


@contextmanager
def opened(
    table: MountTable,
    image: Image | None,
    *,
    hashing: Hashing = Hashing.DOCKER_24,
    known: Known | None = None,
) -> Iterator[ImageTree | None]:
    """The tree of an image, leased for the `with` block; None for no image, and for one without layers. `known` is kept
    by who opens several that have layers in common."""
    if image is None or not image.layers:
        yield None
        return
    with (
        image.layers[-1].held() as (snapshot, _),
        drivers.of(snapshot).tree(table, snapshot, shared=True, unmounted=True) as tree,
    ):
        recorded = None
        if snapshot.ids is not None:
            recorded = Recorded(image.layers[::-1], Known() if known is None else known)
        yield ImageTree(tree, recorded, hashing)


class ImageTree:
    """See `tree.Tree`. Owners, modes and capabilities are those of the image: in the store of an ordinary user those
    that `recorded` has (None: the disk's own). Not for several threads at once."""

    def __init__(self, tree: Tree, recorded: Recorded | None, hashing: Hashing) -> None:
        self._tree = tree
        self._recorded = recorded
        self._hashing = hashing
        self._sums: dict[bytes, str] = {}

    def at(self, path: bytes) -> AbstractContextManager[Node | None]:
        """What lies at a real path, as the disk has it (see `told`), while the block is open, in which nothing else may
        be looked for."""
        if b"\0" in path:
            raise InvalidRequest(f"the path {shown(path)} holds a NUL byte")
        return self._tree.at(path)

    def status(self, path: bytes) -> os.stat_result | None:
        with self.at(path) as node:
            return None if node is None else self.told(node).stat

    def followed(self, path: bytes) -> bytes:
        return paths.resolved(path, self._target)

    def nodes(self, start: bytes) -> Generator[Node, None, None]:
        # The tree's own names begin with the last component.
        above = start.rpartition(b"/")[0]
        with closing(self._tree.nodes(start)) as nodes:
            for node in nodes:
                if above:
                    node.path = above + b"/" + node.path
                yield self.told(node)

    def open(self, path: bytes) -> int:
        with self.at(path) as node:
            if node is None:
                raise SourceChanged(f"cannot read {shown(path)}: it is gone")
            return content.open_regular(node)

    def sum(self, path: bytes) -> str | None:
        if path not in self._sums:
            with self.at(path) as node:
                if node is None or (made := packer(None).entry(self.told(node))) is None:
                    return None
                known = header(made[0], node.stat, self._hashing)
                if not known.size:
                    self._sums[path] = tarsum.entry_sum(known.told, ())
                else:
                    fd = content.open_regular(node)
                    try:
                        self._sums[path] = tarsum.entry_sum(known.told, content.blocks(fd, known.size, path))
                    finally:
                        os.close(fd)
        return self._sums[path]

    def more(self, path: bytes) -> bytes:
        return b""

    def check(self, path: bytes, status: os.stat_result) -> None:
        pass  # layers never change

    def _target(self, path: bytes) -> bytes:
        with self.at(path) as node:
            return content.link_target(node) if node is not None and stat.S_ISLNK(node.stat.st_mode) else b""

    def told(self, node: Node) -> Node:
        """A node of this tree (`path` from the root) with the owner and mode that it has in the image."""
        if self._recorded is None:
            return node
        said = self._recorded.said(node, partial(self._tree.holders, node.path))
        xattrs = {} if said.capability is None else {b"security.capability": said.capability}
        return replace(node, stat=described(node.stat, said.mode, said.uid, said.gid), xattrs=xattrs)
