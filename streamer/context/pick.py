"""What the sources of one COPY or ADD are: found in a tree, and hashed together as Docker's classic builder does it."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from streamer.changeset import content
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
    fetched: bool = False
    """From a URL: such a file is never unpacked."""


@dataclass(frozen=True, slots=True)
class Picks:
    """Files and directories with the hash of each, `file:…` or `dir:…`."""

    items: tuple[Item, ...] = ()
    hashes: tuple[str, ...] = ()
    exact: tuple[str, ...] = ()
    """What else decides about what is copied, for each item: Docker's hashes go neither over what links lead to by
    name, nor over what is in a file with several names."""

    @property
    def hash(self) -> str:
        """What history calls them together: the only one's hash, or `multi:…`."""
        return together("multi", self.hashes)

    def __add__(self, other: Picks) -> Picks:
        return Picks(self.items + other.items, self.hashes + other.hashes, self.exact + other.exact)


def pick(tree: Tree, sources: Sequence[bytes], *, wildcards: bool = True) -> Picks:
    """The sources in their order; one with wildcards gives every match, in the order of a walk.

    NotFound for a source that is not there; InvalidRequest for one outside of the tree, and if there is nothing to
    copy. Blocks: everything that is picked is read.
    """
    found = Picks()
    for source in sources:
        found += matches(tree, source) if wildcards else _picked(tree, source)
    require(found, sources)
    return found


def matches(tree: Tree, source: bytes) -> Picks:
    """What one source stands for; nothing if it has wildcards that match nothing. Errors as of `pick`."""
    if not paths.has_wildcards(source):
        return _picked(tree, source)
    found = Picks()
    for path in _matching(tree, source):
        found += _picked(tree, path)
    return found


def require(found: Picks, sources: Sequence[bytes]) -> None:
    """InvalidRequest if there is nothing to copy."""
    if not found.items:
        raise InvalidRequest(f"no source files were specified: nothing matches {_listed(sources)}")


def together(prefix: str, hashes: Sequence[str]) -> str:
    """One hash of several in their order; a single one of `multi` stays as it is."""
    if prefix == "multi" and len(hashes) == 1:
        return hashes[0]
    return f"{prefix}:{hashlib.sha256(','.join(hashes).encode('utf-8', 'surrogateescape')).hexdigest()}"


def _picked(tree: Tree, source: bytes) -> Picks:
    path = paths.cleaned(source)
    real = tree.followed(path)
    status = tree.status(real)
    if status is None:
        raise NotFound(f"{shown(source)}: file not found in build context or excluded by .dockerignore")
    is_directory = stat.S_ISDIR(status.st_mode)
    item = Item(tree, real, path.rpartition(b"/")[2], is_directory)
    if is_directory:
        hashes, exact = _below(tree, real)
        return Picks((item,), (together("dir", sorted(hashes)),), (exact,))
    hash = f"file:{_sum(tree, real, path)}"
    return Picks((item,), (hash,), (tree.more(real).hex(),))


def _below(tree: Tree, directory: bytes) -> tuple[list[str], str]:
    """The sums of a directory and of everything in it, of links those of what they lead to; and what they do not tell
    of: names, types, what links say, content of files with several names."""
    hashes, exact = [], hashlib.sha256()
    with closing(tree.nodes(directory)) as nodes:
        for node in nodes:
            if not node.path:
                continue
            is_link = stat.S_ISLNK(node.stat.st_mode)
            said = content.link_target(node) if is_link else b""
            hashes.append(_sum(tree, tree.followed(node.path) if is_link else node.path, node.path))
            said = said if is_link else tree.more(node.path)
            exact.update(b"%s\0%o\0%d\0%s" % (node.path, stat.S_IFMT(node.stat.st_mode), len(said), said))
    return hashes, exact.hexdigest()


def _sum(tree: Tree, real: bytes, path: bytes) -> str:
    """The sum of a file. What is in no archive is known by its name only, as in Docker."""
    return tree.sum(real) or paths.text(path or b".")


def _matching(tree: Tree, pattern: bytes) -> Iterator[bytes]:
    compiled = paths.wildcards(pattern.removeprefix(b"/").removeprefix(b"./"))
    if compiled is None:
        return
    with closing(tree.nodes(b"")) as nodes:
        for node in nodes:
            if node.path and compiled.fullmatch(paths.text(node.path)):
                yield node.path


def _listed(sources: Sequence[bytes]) -> str:
    return ", ".join(repr(shown(source)) for source in sources)
