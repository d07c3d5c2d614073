"""The directories of several layers, open as long as there is room: at most `OPEN`, however many there are."""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from streamer.changeset.change import Node
from streamer.changeset.descriptor import DIRECTORY, open_below, open_directory
from streamer.changeset.failures import changed, reading_failed
from streamer.changeset.marks import DirectoryMarks, Marks

OPEN: Final = 128
_GONE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


@dataclass(slots=True, eq=False)
class Part:
    """One layer's directory: called `name` in `above`, or the layer's root. `fd` is -1 while it is not open."""

    layer: int
    above: Part | None
    name: bytes
    device: int
    inode: int
    fd: int = -1
    marks: DirectoryMarks | None = None


Directory: TypeAlias = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Met:
    """What a layer has under a name: in which part, what it is called there; `entered` is itself, where that is an open
    directory."""

    part: Part
    name: bytes
    stat: os.stat_result
    entered: Part | None = None


class Parts:
    """Opens and closes the directories of layers, topmost first, and looks at what one of them has under a name.

    The descriptors given stay the caller's (O_PATH will do). Not for several threads at once. What is opened again is
    compared with what it was: SourceChanged if it is something else by now; SourceFailed if it cannot be read.
    """

    def __init__(self, roots: Sequence[int], marks: Marks) -> None:
        self.marks = marks
        self._given = tuple(roots)
        self._open: OrderedDict[Part, None] = OrderedDict()
        statuses = [os.fstat(root) for root in roots]
        self.root: Directory = tuple(Part(layer, None, b".", st.st_dev, st.st_ino) for layer, st in enumerate(statuses))
        """The merged root; empty if there are no layers."""
        if marks.fuse:  # it honours an opaque root, which the kernel's overlayfs does not look for
            for part in self.root:
                self.descriptor(part, b"")
                if part.marks is not None and part.marks.opaque:
                    self.root = self.root[: part.layer + 1]
                    break

    def close(self) -> None:
        """Closes what was opened inside the layers."""
        while self._open:
            self._closed(self._open.popitem()[0])

    def descriptor(self, part: Part, path: bytes) -> int:
        """A readable descriptor of the part, valid until others are asked for; `path` is for errors."""
        if part.fd >= 0:
            self._open.move_to_end(part)
            return part.fd
        names: list[bytes] = []
        here = part
        while here.fd < 0 and here.above is not None:
            names.append(here.name)
            here = here.above
        start = here.fd if here.fd >= 0 else self._given[here.layer]
        try:
            fd = open_below(start, b"/".join(reversed(names)) or b".", DIRECTORY)
        except OSError as error:
            if error.errno in _GONE:
                raise changed(path, "the directory was moved away") from None
            raise reading_failed(path, error) from None
        st = os.fstat(fd)
        if (st.st_dev, st.st_ino) != (part.device, part.inode):
            os.close(fd)
            raise changed(path, "another directory has its name now")
        self._keep(part, fd, path, st)
        return fd

    def look(self, part: Part, name: bytes, path: bytes) -> Met | None:
        """What the part itself has under the name, whiteouts included; None for nothing."""
        try:
            return Met(part, name, os.stat(name, dir_fd=self.descriptor(part, path), follow_symlinks=False))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENAMETOOLONG):
                return None
            raise reading_failed(path, error) from None

    def whiteout(self, met: Met, path: bytes) -> bool:
        """Whether it stands for a deletion."""
        mode = met.stat.st_mode
        if stat.S_ISCHR(mode):
            return met.stat.st_rdev == 0
        if not stat.S_ISREG(mode) or met.stat.st_size or met.part.marks is None or not met.part.marks.xwhiteouts:
            return False
        return self.marks.xwhiteout(self.node(met, path))

    def node(self, met: Met, path: bytes) -> Node:
        """What was met as it is in its layer, for the functions of `content`; valid until others are asked for."""
        return Node(path, met.name, self.descriptor(met.part, path), met.stat, layer=met.part.layer)

    def entered(self, met: Met, path: bytes) -> Part | None:
        """The directory that was met, opened; None if something else has the name by now."""
        try:
            fd = open_directory(met.name, self.descriptor(met.part, path))
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise reading_failed(path, error) from None
        st = os.fstat(fd)
        part = Part(met.part.layer, met.part, met.name, st.st_dev, st.st_ino)
        self._keep(part, fd, path, st)
        return part

    def foreign(self, part: Part) -> bool:
        """Whether the part lies on another file system than its layer's root: something is mounted there."""
        return part.device != self.root[part.layer].device

    def in_place(self, part: Part, path: bytes) -> bool:
        """Whether a directory, just listed or looked into, still is where it was; False if it was removed.

        When the kernel removes a merged directory, its whiteouts go first, but not before it was moved away: to have
        missed them would bring back to light what was deleted. SourceChanged for one that was moved but not removed.
        """
        if part.above is None:
            return True
        met = self.look(part.above, part.name, path)
        if met is not None and (met.stat.st_dev, met.stat.st_ino) == (part.device, part.inode):
            return True
        if part.fd >= 0 and os.fstat(part.fd).st_nlink == 0:
            return False
        raise changed(path, "its directory was moved away or replaced")

    def reopen(self, left: Directory) -> None:
        """Opens the directories above those of `left` again, as long as that is cheap: from these, by `..`."""
        for part in left:
            above = part.above
            if part.fd < 0 or above is None or above.fd >= 0:
                continue
            try:
                fd = open_directory(b"..", part.fd)
            except OSError:
                continue  # if it is needed, it is opened from the root, and what is wrong is said then
            st = os.fstat(fd)
            if (st.st_dev, st.st_ino) == (above.device, above.inode):
                self._keep(above, fd, b"", st)
            else:
                os.close(fd)

    def release(self, left: Directory) -> None:
        """Closes the descriptors of directories that are not needed any more."""
        for part in left:
            if part.fd >= 0:
                del self._open[part]
                self._closed(part)

    def _keep(self, part: Part, fd: int, path: bytes, st: os.stat_result) -> None:
        part.fd = fd
        self._open[part] = None
        if len(self._open) > OPEN:
            self._closed(self._open.popitem(last=False)[0])
        if part.marks is None:
            part.marks = self.marks.directory(Node(path, b".", fd, st), fd)

    @staticmethod
    def _closed(part: Part) -> None:
        os.close(part.fd)
        part.fd = -1
