"""What overlayfs writes beside the data in a layer directory: whiteouts, opaque, redirect, metacopy."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import Final

from streamer.changeset.change import Node
from streamer.changeset.content import attribute

OPAQUE_VALUE: Final = b"y"  # "x" says only that xattr whiteouts may lie in the directory


@dataclass(frozen=True, slots=True)
class Marks:
    """Reads the marks of one kind of store: `trusted.overlay.*`, or `user.overlay.*` where `userxattr`."""

    userxattr: bool = False

    @property
    def prefix(self) -> str:
        return "user.overlay." if self.userxattr else "trusted.overlay."

    @property
    def opaque_name(self) -> str:
        return self.prefix + "opaque"

    def opaque(self, node: Node) -> bool:
        """Whether the directory hides what lower layers have below it."""
        return attribute(node, self.opaque_name) == OPAQUE_VALUE

    def redirect(self, node: Node) -> bytes | None:
        """Where the lower part of a renamed directory (or metacopy file) is looked for."""
        return attribute(node, self.prefix + "redirect")

    def metacopy(self, node: Node) -> bool:
        """Whether a regular file is attributes only, its data lying in a lower layer. Raw, it reads as zeros."""
        # An empty file needs no data from below, whatever the mark says.
        return node.stat.st_size > 0 and attribute(node, self.prefix + "metacopy") is not None

    def whiteout(self, node: Node) -> bool:
        """Whether the node stands for a deletion: character device 0:0, or an empty file marked so (kernel 6.7 on)."""
        mode = node.stat.st_mode
        if stat.S_ISCHR(mode):
            return node.stat.st_rdev == 0
        if not stat.S_ISREG(mode) or node.stat.st_size != 0:
            return False
        if attribute(node, self.prefix + "whiteout") is None:
            return False
        return attribute(Node(node.path, b".", node.parent, node.stat), self.opaque_name) == b"x"
