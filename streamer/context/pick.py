"""What the sources of one COPY or ADD are: found in a tree, and hashed together as Docker's classic builder does it."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from streamer.context import paths
from streamer.context.tree import Tree
from streamer.errors import InvalidRequest, NotFound, shown
from streamer.export.closing import closing


@dataclass(frozen=True, slots=True)
class Item:
    """One file or directory to be copied."""

    tree: Tree
    path: bytes
    """Real: links were followed inside of the tree."""
    name: bytes
    """What it is called in a directory that it is put into: the last component as it was written."""
    is_directory: bool


@dataclass(frozen=True, slots=True)
class Picks:
    """`hash` is what history calls it: `file:…`, `dir:…` or `multi:…`."""

    hash: str
    items: tuple[Item, ...]


def pick(tree: Tree, sources: Sequence[bytes], *, wildcards: bool = True) -> Picks:
    """The sources in their order; one with wildcards gives every match, in the order of a walk.

    NotFound for a source that is not there; InvalidRequest for one outside of the tree, and if there is nothing to
    copy. Blocks: everything that is picked is read.
    """
    found: list[tuple[Item, str]] = []
    for source in sources:
        if wildcards and paths.has_wildcards(source):
            found += [_picked(tree, path) for path in _matching(tree, source)]
        else:
            found.append(_picked(tree, source))
    if not found:
        raise InvalidRequest(f"no source files were specified: nothing matches {_listed(sources)}")
    return Picks(together("multi", [hash for _, hash in found]), tuple(item for item, _ in found))


def together(prefix: str, hashes: Sequence[str]) -> str:
    """One hash of several in their order; a single one of `multi` stays as it is."""
    if prefix == "multi" and len(hashes) == 1:
        return hashes[0]
    return f"{prefix}:{hashlib.sha256(','.join(hashes).encode('utf-8', 'surrogateescape')).hexdigest()}"


def _picked(tree: Tree, source: bytes) -> tuple[Item, str]:
    path = paths.cleaned(source)
    real = paths.followed(tree.root, path)
    status = tree.status(real)
    if status is None:
        raise NotFound(f"{shown(source)}: file not found in build context or excluded by .dockerignore")
    is_directory = stat.S_ISDIR(status.st_mode)
    item = Item(tree, real, path.rpartition(b"/")[2], is_directory)
    if is_directory:
        return item, together("dir", sorted(_below(tree, real)))
    return item, f"file:{_sum(tree, real, path)}"


def _below(tree: Tree, directory: bytes) -> Iterator[str]:
    """The sums of a directory and of everything in it; of links, those of what they lead to."""
    with closing(tree.nodes(directory)) as nodes:
        for node in nodes:
            if node.path:
                yield _sum(tree, paths.followed(tree.root, node.path), node.path)


def _sum(tree: Tree, real: bytes, path: bytes) -> str:
    """The sum of a file. What is in no archive is known by its name only, as in Docker."""
    return tree.sum(real) or paths.text(path or b".")


def _matching(tree: Tree, pattern: bytes) -> Iterator[bytes]:
    matches = paths.wildcards(pattern.removeprefix(b"/").removeprefix(b"./"))
    if matches is None:
        return
    with closing(tree.nodes(b"")) as nodes:
        for node in nodes:
            if node.path and matches.fullmatch(paths.text(node.path)):
                yield node.path


def _listed(sources: Sequence[bytes]) -> str:
    return ", ".join(repr(shown(source)) for source in sources)
