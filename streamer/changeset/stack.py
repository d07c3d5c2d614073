"""Directories of several layers seen as one, without a mount: the look-ups of the kernel's overlayfs, in user space.

A merged directory is a tuple of parts, topmost first: the directories of the layers that add to it. Renamed directories
(redirect) and files whose data lies in a lower layer (metacopy) are followed as ovl_lookup of Linux does it, where only
root can have written the marks; elsewhere they are refused by name.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass

from streamer.changeset.change import Node
from streamer.changeset.failures import changed, quoted
from streamer.changeset.marks import WHITEOUT_PREFIX
from streamer.changeset.parts import Directory, Met, Part, Parts
from streamer.errors import Unsupported


@dataclass(slots=True)
class _Search:
    """A look-up on its way down the layers. `name` becomes another one where a redirect says so, and begins with a
    slash where it is to be looked for from the layers' roots."""

    name: bytes
    path: bytes
    directory: bool = False
    metacopy: bool = False
    stop: bool = False


class Stack(Parts):
    """Layer directories seen as one, of which only the topmost may change while they are read.

    Errors are SourceFailed and SourceChanged of reading, and Unsupported, naming the path, for marks that are not
    followed.
    """

    def find(self, directory: Directory, name: bytes, path: bytes) -> Met | None:
        """What the merged directory has under the name; None for nothing, or something deleted."""
        if self.marks.fuse and name.startswith(WHITEOUT_PREFIX):
            return None
        for part in directory:
            met = self.look(part, name, path)
            if met is None:
                # A deletion may lie beside the name, where nothing has the name itself.
                if self._hidden_by_file(part, name, path):
                    return None
            else:
                return None if self.whiteout(met, path) or self._hidden_by_file(part, name, path) else met
        return None

    def merged(self, directory: Directory, top: Part, path: bytes) -> Directory:
        """The merged directory that `top`, entered from a part of `directory`, is the topmost part of."""
        search = _Search(top.name, path, directory=True)
        self._follow(search, top)
        parts = [top]
        for met in self._below(search, directory, top.layer):
            assert met.entered is not None  # the search is for directories
            parts.append(met.entered)
        return tuple(parts)

    def simple(self, directory: Directory, path: bytes) -> bool:
        """Whether the parts lie on the file system of their layers, all on the same, and names in them mean what they
        say but for whiteouts that are devices."""
        if self.marks.fuse or any(map(self.foreign, directory)):
            return False
        for part in directory:
            self.descriptor(part, path)
        marks = (part.marks for part in directory)
        return len({part.device for part in directory}) == 1 and not any(each and each.xwhiteouts for each in marks)

    def whole(self, directory: Directory, met: Met, path: bytes) -> Node:
        """A node with all that the merged tree has of a file: one whose data lies in a lower layer comes with it."""
        node = self.node(met, path)
        if not stat.S_ISREG(met.stat.st_mode) or not met.stat.st_size or not self.marks.metacopy(node):
            return node
        if not self.marks.follows:
            raise Unsupported(
                f"the data of {quoted(path)} lies in another layer (metacopy), which only marks of root may say"
            )
        search = _Search(met.name, path, metacopy=True)
        self._redirect(search, self.marks.redirect(node), b"", b"")
        data = None
        for found in self._below(search, directory, met.part.layer):
            data = found
        if data is None or search.metacopy:
            raise Unsupported(f"the data of {quoted(path)} lies in a layer (metacopy) that is not among those below it")
        node.data = self.node(data, path)
        node.parent = self.descriptor(met.part, path)  # opening the other may have closed it
        return node

    def _below(self, search: _Search, directory: Directory, layer: int) -> Iterator[Met]:
        """What the layers below `layer` have to add, by the rules of ovl_lookup."""
        parts = directory
        absolute = search.name.startswith(b"/")
        if absolute:
            parts = self.root
        index = 0
        while not search.stop and index < len(parts):
            base = parts[index]
            index += 1
            if base.layer <= layer:
                continue
            met = self._in_layer(search, base)
            if met is None:
                continue
            yield met
            if not absolute and search.name.startswith(b"/"):
                absolute = True
                parts, index = self.root, base.layer + 1

    def _in_layer(self, search: _Search, base: Part) -> Met | None:
        if not search.name.startswith(b"/"):
            return self._one(search, base, search.name, b"", b"")
        # A redirect on the way changes what lower layers are asked for, never the rest of the way in this one.
        rest = search.name[1:]
        while True:
            name, slash, after = rest.partition(b"/")
            post = slash + after
            prefix = search.name[: len(search.name) - len(rest)]
            met = self._one(search, base, name, prefix, post)
            if met is None or not post:
                return met
            assert met.entered is not None  # only the last component may be a file
            base = met.entered
            rest = after

    def _one(self, search: _Search, base: Part, name: bytes, prefix: bytes, post: bytes) -> Met | None:
        """One component in one layer, as ovl_lookup_single; `prefix` and `post` are the rest of the search's name."""
        if self._hidden_by_file(base, name, search.path):
            search.stop = True
            return None
        met = self.look(base, name, search.path)
        if met is None:
            return None
        if self.whiteout(met, search.path):
            search.stop = True
            return None
        mode = met.stat.st_mode
        if not stat.S_ISDIR(mode):
            if post or search.directory or (search.metacopy and not stat.S_ISREG(mode)):
                search.stop = True
                return None
            node = self.node(met, search.path)
            search.metacopy = stat.S_ISREG(mode) and self.marks.metacopy(node)
            search.stop = not search.metacopy
            if search.metacopy:
                self._redirect(search, self.marks.redirect(node), prefix, post)
            return met
        if search.metacopy and not post:
            search.stop = True
            return None
        part = self.entered(met, search.path)
        if part is None:
            raise changed(search.path, "the directory was moved away")
        if self.foreign(part):
            search.stop = True
            return None
        search.directory = search.directory or not post
        self._follow(search, part, prefix, post)
        return Met(base, name, met.stat, part)

    def _follow(self, search: _Search, part: Part, prefix: bytes = b"", post: bytes = b"") -> None:
        """Lets the marks of a directory decide how the search goes on below it."""
        if part.layer == self.root[-1].layer:
            return
        assert part.marks is not None
        if part.marks.opaque:
            search.stop = True
        else:
            self._redirect(search, part.marks.redirect, prefix, post)

    def _redirect(self, search: _Search, redirect: bytes | None, prefix: bytes, post: bytes) -> None:
        """Lets a redirect (ovl_check_redirect) say how the thing is called in the layers below."""
        if redirect is None:
            return
        if not self.marks.follows:
            raise Unsupported(
                f"{quoted(search.path)} was renamed inside its overlay (redirect), which only marks of root may say"
            )
        names = redirect.removeprefix(b"/").split(b"/")
        absolute = redirect.startswith(b"/")
        if any(name in (b"", b".", b"..") for name in names) or (len(names) > 1 and not absolute) or b"\0" in redirect:
            raise Unsupported(f"{quoted(search.path)} has a mark (redirect) that is not valid")
        if absolute:
            # An opaque directory on the way ended the search, but this name leads somewhere else.
            search.stop = False
            search.name = redirect + post
        else:
            search.name = prefix + redirect + post

    def _hidden_by_file(self, part: Part, name: bytes, path: bytes) -> bool:
        return self.marks.fuse and self.marks.hidden_by_file(self.descriptor(part, path), name, path)
