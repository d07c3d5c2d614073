"""Whose the files of an image are where the disk does not tell: as the tars of its layers have it."""

from __future__ import annotations

import stat
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import NamedTuple

from streamer.changeset.change import Node
from streamer.changeset.whiteouts import OPAQUE, PREFIX
from streamer.context import paths
from streamer.errors import LimitExceeded, Unsupported, shown
from streamer.oci import digest as digests
from streamer.stores.base import Layer
from streamer.tar.entry import BLOCK, CHAR, DIRECTORY, LINK, SYMLINK, Entry

_CAPABILITY = b"security.capability"
_NAMES = 512 << 20
"""Bytes of the names that are remembered of one layer."""
_KEPT = 1_000_000
_SPECIAL = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX


class Said(NamedTuple):
    """What the tar says of one file. `capability` is the raw `security.capability`, None without one."""

    mode: int
    uid: int
    gid: int
    capability: bytes | None = None


_NEW = Said(0o755, 0, 0)
"""What a directory is given that a layer implies and nothing below has."""


class Known:
    """What was read of layers, for the next who asks: steps of one build stand on the same ones. The oldest go where
    more than a million members are remembered. Not for several threads at once."""

    def __init__(self) -> None:
        self._members: OrderedDict[str, _Members] = OrderedDict()

    def members(self, layer: Layer) -> _Members:
        found = self._members.get(layer.chain_id)
        if found is None:
            found = self._members[layer.chain_id] = _Members(layer)
            count = sum(each.count for each in self._members.values())
            while count > _KEPT and len(self._members) > 1:
                count -= self._members.popitem(last=False)[1].count
        return found


class Recorded:
    """The layers of one image, topmost first. Each is read when it is asked for first, and once. Blocks."""

    def __init__(self, layers: Sequence[Layer], known: Known) -> None:
        self._layers = layers
        self._known = known
        self._read: dict[int, _Members] = {}

    def said(self, node: Node, holders: Callable[[], Sequence[int]]) -> Said:
        """Of a file, by its node (`path` from the image's root); `holders` tells the layers that add to it where it is
        a directory. Unsupported, naming it, for one of which nothing is known: nobody can be told to be its owner.
        """
        said = self._layer(node.layer).find(node.path, node.stat.st_mode)
        if stat.S_ISDIR(node.stat.st_mode):
            # A directory that a layer only implies was made like the one below it.
            number = node.layer
            for number in () if said is not None else holders():
                said = self._layer(number).find(node.path, node.stat.st_mode)
                if said is not None:
                    break
            if said is None and self._is_new(number, node):
                said = _NEW
        if said is None or not _fits(said.mode, node.stat.st_mode):
            raise Unsupported(
                f"cannot tell whose /{shown(node.path)} of the image is: the tars of its layers do not tell; "
                "import it again if an older version took it in, else build in a store of root's"
            )
        return said

    def _is_new(self, number: int, node: Node) -> bool:
        """Whether a directory that no member describes was made like none below. Where its layer deletes what lay below
        as well, the order of the two would decide: then there must have been no other."""
        if stat.S_IMODE(node.stat.st_mode) != _NEW.mode:
            return False
        if not self._layer(number).hides(node.path):
            return True
        below = range(number + 1, len(self._layers))
        return all(self._layer(each).find(node.path, node.stat.st_mode) in (None, _NEW) for each in below)

    def _layer(self, number: int) -> _Members:
        if number not in self._read:
            self._read[number] = self._known.members(self._layers[number])
        return self._read[number]


class _Members:
    """The members of one layer. Of those that are as the disk has them no more is kept than that they are there."""

    def __init__(self, layer: Layer) -> None:
        if layer.headers is None:
            raise Unsupported(
                f"layer {digests.short(layer.diff_id)} of store {layer.store} does not tell whose files are"
            )
        self._other: dict[bytes, Said] = {}
        self._plain: set[int] = set()
        same: dict[Said, Said] = {}
        names = 0
        with closing(layer.headers()) as members:
            for path, entry in members:
                if entry.type in (CHAR, BLOCK):
                    continue  # which such a store does not have
                if entry.type == LINK:
                    # A further name of a file: its own header counts for nothing.
                    self._same(path, entry.linkname)
                    continue
                said = _said(entry)
                if entry.type != DIRECTORY and _plain(said):
                    self._other.pop(path, None)
                    self._plain.add(hash(path))
                    continue
                if path not in self._other:
                    names += len(path)
                    if names > _NAMES:
                        raise LimitExceeded(
                            f"the names of the files in layer {digests.short(layer.diff_id)} that are not root's take "
                            f"more than {_NAMES} bytes",
                            limit=_NAMES,
                        )
                self._other[path] = same.setdefault(said, said)

    @property
    def count(self) -> int:
        return len(self._other) + len(self._plain)

    def find(self, path: bytes, mode: int) -> Said | None:
        """Of the file at a path, None where the layer has no member for it; `mode` is the disk's."""
        said = self._other.get(path)
        if said is None and hash(path) in self._plain:
            return Said(stat.S_IMODE(mode), 0, 0)
        return said

    def hides(self, path: bytes) -> bool:
        """Whether a deletion concerns what the layers below have at the path, or above it."""
        return any(
            self._has(above) for each in (*paths.above(path), path) for above in (_whiteout(each), each + b"/" + OPAQUE)
        )

    def _has(self, path: bytes) -> bool:
        return path in self._other or hash(path) in self._plain

    def _same(self, path: bytes, target: bytes) -> None:
        said = self._other.get(target)
        if said is not None:
            self._other[path] = said
            return
        self._other.pop(path, None)
        if hash(target) in self._plain:
            self._plain.add(hash(path))
        else:
            self._plain.discard(hash(path))


def _whiteout(path: bytes) -> bytes:
    above, slash, name = path.rpartition(b"/")
    return above + slash + PREFIX + name


def _said(entry: Entry) -> Said:
    mode = 0o777 if entry.type == SYMLINK else entry.mode
    return Said(mode, entry.uid, entry.gid, entry.xattrs.get(_CAPABILITY))


def _plain(said: Said) -> bool:
    """Whether the disk says the same: there everything is root's and can be read, and set-ID bits may be gone."""
    return said[1:] == (0, 0, None) and bool(said.mode & stat.S_IRUSR) and not said.mode & _SPECIAL


def _fits(said: int, mode: int) -> bool:
    """Whether a file of that mode is there with what its owner needs to read it."""
    return (said | stat.S_IRWXU) & 0o777 == (mode | stat.S_IRWXU) & 0o777
