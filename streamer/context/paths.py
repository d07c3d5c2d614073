"""Names in a tree that somebody gives: cleaned, followed through links as in a chroot, compared with wildcards."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Generator, Iterator

from streamer.changeset.change import Node
from streamer.changeset.descriptor import Components, not_opened, open_below
from streamer.changeset.member import clean
from streamer.errors import InvalidArchive, InvalidRequest, Unsupported, shown
from streamer.export.closing import closing

_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def cleaned(path: bytes) -> bytes:
    """The path relative to the tree's root, without `.`, `..` and doubled slashes; b"" is the root. InvalidRequest for
    one that leads out of the tree."""
    try:
        return b"/".join(clean(path))
    except InvalidArchive:
        raise InvalidRequest(f"forbidden path outside the build context: {shown(path)}") from None


def above(path: bytes) -> list[bytes]:
    """The directories above, topmost first, without the root."""
    parts = path.split(b"/")[:-1]
    return [b"/".join(parts[: count + 1]) for count in range(len(parts))]


def of_one(nodes: Generator[Node, None, None], device: int) -> Iterator[Node]:
    """The nodes of a walk, which is closed; Unsupported where another file system is mounted, which the walk would pass
    by in silence."""
    with closing(nodes):
        for node in nodes:
            if node.stat.st_dev != device and stat.S_ISDIR(node.stat.st_mode):
                raise _another(node.path)
            yield node


def _another(path: bytes) -> Unsupported:
    return Unsupported(
        f"cannot read {shown(path)} of the context: another file system is mounted there; leave it out in the "
        ".dockerignore, or copy it into the context"
    )


def status(root: int, path: bytes) -> os.stat_result | None:
    """Of what lies at a real path below `root` (no link on the way is followed); None if there is nothing. Unsupported
    where another file system is mounted."""
    try:
        fd = open_below(root, path, _LOOK)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise _another(path) from None
        return None
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def followed(root: int, path: bytes, there: Callable[[bytes], bool] = lambda _: True) -> bytes:
    """The real path: links are followed inside the root, also the last one. What does not exist, or is not `there` for
    whoever asks, stays as it is written. InvalidRequest for a loop of links."""

    def target(real: bytes) -> bytes:
        try:
            fd = open_below(root, real, _LOOK)
        except OSError:
            return b""
        try:
            return os.readlink(b"", dir_fd=fd) if stat.S_ISLNK(os.fstat(fd).st_mode) and there(real) else b""
        finally:
            os.close(fd)

    return resolved(path, target)


def resolved(path: bytes, target: Callable[[bytes], bytes]) -> bytes:
    """`followed` in any tree: `target` tells where the link at a path without links leads to, b"" if there is none."""
    real: list[bytes] = []
    components = Components(path)
    for name in components:
        if name == b"..":
            del real[-1:]
            continue
        real.append(name)
        found = target(b"/".join(real))
        if found:
            real.pop()
            try:
                components.follow(found)
            except OSError as error:
                raise not_opened(path, error) from None
            if found.startswith(b"/"):
                real.clear()
    return b"/".join(real)


def has_wildcards(path: bytes) -> bool:
    """Whether a source names several files, perhaps: `*`, `?` or `[` without a backslash before."""
    return re.search(rb"(?<!\\)(?:\\\\)*[*?[]", path) is not None


def wildcards(pattern: bytes) -> re.Pattern[str] | None:
    """The pattern as Go's filepath.Match understands it, for whole paths as `text` gives them; None for a malformed
    one, which matches nothing.

    What follows a `*` is taken where it comes first, and never looked for again: so no pattern takes longer than its
    length times the path's, for each `*`.
    """
    characters = iter(text(pattern))
    chunks: list[list[str]] = [[]]
    while (char := next(characters, None)) is not None:
        match char:
            case "*":
                chunks.append([])
            case "?":
                chunks[-1].append("[^/]")
            case "\\":
                literal = next(characters, None)
                if literal is None:
                    return None
                chunks[-1].append(re.escape(literal))
            case "[":
                found = _class("".join(characters))
                if found is None:
                    return None
                part, rest = found
                chunks[-1].append(part)
                characters = iter(rest)
            case _:
                chunks[-1].append(re.escape(char))
    first, *others = ("".join(chunk) for chunk in chunks)
    if not others:
        return re.compile(first, re.S)
    *middle, last = others
    sought = "".join(f"(?>[^/]*?{chunk})" for chunk in middle if chunk)
    return re.compile(f"{first}{sought}(?>[^/]*?{last}\\Z)", re.S)


def text(path: bytes) -> str:
    """As characters, of which patterns speak."""
    return path.decode("utf-8", "surrogateescape")


def _class(rest: str) -> tuple[str, str] | None:
    """A class as a regular expression, from what follows its bracket, and what follows the class."""
    negated = rest.startswith("^")
    at = int(negated)
    ranges: list[tuple[str, str]] = []

    def one() -> str | None:
        nonlocal at
        if at >= len(rest) or rest[at] in "-]":
            return None
        if rest[at] == "\\":
            at += 1
            if at >= len(rest):
                return None
        at += 1
        return rest[at - 1] if at < len(rest) else None

    while not (ranges and rest[at : at + 1] == "]"):
        low = high = one()
        if low is not None and rest[at] == "-":
            at += 1
            high = one()
        if low is None or high is None:
            return None
        ranges.append((low, high))
    inside = "".join(f"{re.escape(low)}-{re.escape(high)}" for low, high in ranges if low <= high)
    if not inside:
        return ("[^/]" if negated else "(?!)"), rest[at + 1 :]
    return (f"(?!/)[^{inside}]" if negated else f"(?!/)[{inside}]"), rest[at + 1 :]
