"""The part of a tree that an export shows: a leased root, narrowed by `path=` and by include and exclude patterns."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from streamer.changeset import descriptor, patterns
from streamer.changeset.change import Change, Node
from streamer.changeset.walk import walk
from streamer.errors import NotFound, Unsupported
from streamer.export.closing import closing
from streamer.export.plan import Options, Session


def selection(options: Options) -> patterns.Selection | None:
    """The compiled patterns, None where everything is wanted; InvalidRequest names a malformed one."""
    if not (options.include or options.exclude):
        return None
    include, exclude = (
        patterns.Patterns(list(given)) if given else None for given in (options.include, options.exclude)
    )
    return patterns.Selection(include, exclude)


def nodes(root: int, options: Options, session: Session) -> Iterator[Node]:
    """The files of the tree below `root`, or of its subtree `options.path`, in the walk's order.

    A subtree is found as a chroot would find it, except that a symbolic link at its very end is taken as itself, and
    its names begin with its last component, as `docker cp` has it.
    """

    def vanished(_path: bytes) -> None:
        session.report.vanished += 1

    select = selection(options)
    head, _, base = options.path.strip(b"/").rpartition(b"/")
    if base in (b"", b".", b".."):
        if base == b"..":
            raise Unsupported("cannot export a path that ends in ..")
        yield from walk(root, select=select, on_vanished=vanished)
        return
    parent = descriptor.open_in_root(root, head or b".")
    try:
        try:
            status = os.stat(base, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            raise NotFound(f"there is no {os.fsdecode(options.path)!r} in this file system") from None
        if stat.S_ISSOCK(status.st_mode):
            raise Unsupported(f"cannot export {os.fsdecode(options.path)!r}: a tar archive cannot hold a socket")
        yield from walk(parent, start=base, select=select, on_vanished=vanished)
    finally:
        os.close(parent)


def narrowed(changes: Iterator[Change], options: Options) -> Iterator[Change]:
    """The changes below `options.path` that the patterns select, names whole. Closes `changes` if a generator."""
    select = selection(options)
    path = options.path.strip(b"/")
    with closing(changes) as source:
        for change in source:
            if path and change.path != path and not change.path.startswith(path + b"/"):
                continue
            if select is not None:
                directory = change.node is not None and stat.S_ISDIR(change.node.stat.st_mode)
                if not select.emits(change.path, directory):
                    continue
            yield change
