"""The part of a source that an export shows, narrowed by `path=` and by include and exclude patterns."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator

from streamer.changeset import patterns
from streamer.changeset.change import Change
from streamer.drivers.base import Tree
from streamer.errors import InvalidRequest, SourceChanged, Unsupported, shown
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


def check(tree: Tree, options: Options) -> None:
    """NotFound, Unsupported or InvalidRequest if the subtree `options.path` cannot be exported.

    A subtree is found as a chroot would find it, except that a symbolic link at its very end is taken as itself, and
    its names begin with its last component, as `docker cp` has it.
    """
    path = options.path
    if base(path) == b"..":
        raise Unsupported("cannot export a path that ends in ..")
    if path and stat.S_ISSOCK(tree.status(path).st_mode):
        raise Unsupported(f"cannot export {shown(path)}: a tar archive cannot hold a socket")


def base(path: bytes) -> bytes:
    """The last component of a path, with which the names of its subtree begin; empty for the root."""
    return next((part for part in reversed(path.split(b"/")) if part not in (b"", b".")), b"")


def vanishing(session: Session, *, live: bool) -> Callable[[bytes], None]:
    """What to do about a file that was gone before its turn came: count it in what is `live`, else SourceChanged."""

    def vanished(path: bytes) -> None:
        if not live:
            raise SourceChanged(f"'{shown(path)}' vanished while it was read: its layer is being removed")
        session.report.vanished += 1

    return vanished


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
