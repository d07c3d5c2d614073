"""The part of a tree that an export shows: a leased root, narrowed by `path=` and by include and exclude patterns."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from streamer.changeset import descriptor, patterns
from streamer.changeset.change import Change, Node
from streamer.changeset.walk import walk
from streamer.errors import InvalidRequest, NotFound, SourceChanged, SourceFailed, Unsupported, shown
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


def nodes(root: int, options: Options, session: Session, *, live: bool) -> Iterator[Node]:
    """The files of the tree below `root`, or of its subtree `options.path`, in the walk's order.

    A subtree is found as a chroot would find it, except that a symbolic link at its very end is taken as itself, and
    its names begin with its last component, as `docker cp` has it. In a tree that is not `live` nothing may vanish.
    """

    def vanished(path: bytes) -> None:
        if not live:
            raise SourceChanged(f"'{shown(path)}' vanished while it was read: its layer is being removed")
        session.report.vanished += 1

    select = selection(options)
    *head, base = [part for part in options.path.split(b"/") if part not in (b"", b".")] or [b""]
    if base == b"..":
        raise Unsupported("cannot export a path that ends in ..")
    if not base:
        yield from walk(root, select=select, on_vanished=vanished)
        return
    parent = descriptor.open_in_root(root, b"/".join(head) or b".")
    try:
        if stat.S_ISSOCK(_status(base, parent, options.path).st_mode):
            raise Unsupported(f"cannot export {shown(options.path)}: a tar archive cannot hold a socket")
        yield from walk(parent, start=base, select=select, on_vanished=vanished)
    finally:
        os.close(parent)


def _status(name: bytes, parent: int, path: bytes) -> os.stat_result:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"there is no {shown(path)} in this file system") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InvalidRequest(f"path {shown(path)} holds a name that is too long", parameter="path") from None
        raise SourceFailed(f"cannot look at {shown(path)}: {error.strerror}") from error


def cleaned(path: bytes) -> bytes:
    """A path as a changeset has it: relative, without dots. InvalidRequest for one with `..`: a changeset's names are
    compared as they are, and links are not followed."""
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise InvalidRequest(f"path '{shown(path)}' holds '..', which has no meaning in a changeset", parameter="path")
    return b"/".join(parts)


def narrowed(changes: Iterator[Change], options: Options) -> Iterator[Change]:
    """The changes below `options.path` that the patterns select, names whole. Closes `changes` if a generator."""
    select = selection(options)
    path = cleaned(options.path)
    with closing(changes) as source:
        for change in source:
            if path and change.path != path and not change.path.startswith(path + b"/"):
                continue
            if select is not None:
                directory = change.node is not None and stat.S_ISDIR(change.node.stat.st_mode)
                if not select.emits(change.path, directory):
                    continue
            yield change
