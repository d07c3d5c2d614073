"""Walking a tree: every file once, parents first, names of a directory in byte order (as Go's filepath.WalkDir).

Iterative, through descriptors, so that neither depth (3 000 levels, names of 600 kB) nor somebody renaming at the same
time matters: os.walk loses such directories silently, os.fwalk and tarfile crash on them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator
from typing import Final, Protocol

from streamer.changeset.change import Node
from streamer.changeset.descriptor import DIRECTORY, open_directory, open_in_root
from streamer.changeset.failures import changed, name_too_long, quoted, reading_failed
from streamer.changeset.trail import Trail
from streamer.errors import InvalidRequest, NotFound

_TYPE: Final = 0o170000
_DIR: Final = 0o040000
_RETRIES: Final = 100


class Select(Protocol):
    """What of a tree is wanted. Paths are those of the nodes; the start of a walk is asked for as well."""

    def emits(self, path: bytes, is_dir: bool, /) -> bool:
        """Whether the node itself is yielded."""
        ...

    def enters(self, path: bytes, /) -> bool:
        """Whether the directory is opened and its names looked at."""
        ...


def walk(
    root: int,
    *,
    start: bytes = b"",
    select: Select | None = None,
    on_vanished: Callable[[bytes], None] | None = None,
    after: bytes = b"",
) -> Generator[Node, None, None]:
    """Yields `start` (the root by default), then everything below it, depth first.

    `root` is a directory descriptor (O_PATH will do) that stays the caller's. `start` is found as inside a chroot but
    its last component is not followed; the nodes' paths begin with it as given. A directory on another file system is
    yielded but not entered. A name that is gone between listing and looking is left out and told to `on_vanished`;
    anything else that cannot be read raises SourceFailed. NotFound if there is no `start`. With `after`, the path of a
    node below `start`, the walk begins there, or with what comes first behind it if that is gone.
    """
    if select is None:
        return visit(root, start=start, on_vanished=on_vanished, after=after)
    chosen = select
    return visit(
        root,
        start=start,
        emits=chosen.emits,
        enters=lambda node: chosen.enters(node.path),
        on_vanished=on_vanished,
        after=after,
    )


def visit(
    root: int,
    *,
    start: bytes = b"",
    emits: Callable[[bytes, bool], bool] | None = None,
    enters: Callable[[Node], bool] | None = None,
    on_vanished: Callable[[bytes], None] | None = None,
    after: bytes = b"",
) -> Generator[Node, None, None]:
    """`walk` for callers that decide by more than the path; `enters` is asked before the directory is yielded."""
    start = clean_start(start)
    above, name = _anchor(root, start)
    trail: Trail | None = None
    try:
        first = _first(above, name, start)
        device = first.stat.st_dev
        is_dir = first.stat.st_mode & _TYPE == _DIR
        emitted = emits is None or emits(start, is_dir)
        if is_dir and (enters is None or enters(first)):
            trail, first.stat = _opened_start(above, name, start)
        if emitted and not after:
            yield first
        if trail is None:
            return
        prefix = start + b"/" if start else b""
        names = listing(trail.current, start, on_vanished)
        waiting: list[tuple[list[bytes], int]] = []  # (names left, length of the prefix) of the directories above
        if after:
            names, prefix = _sought(after.removeprefix(prefix), trail, names, prefix, waiting, device)
        yield from _below(trail, names, prefix, waiting, device, emits, enters, on_vanished)
    finally:
        if trail is not None:
            trail.close()
        os.close(above)


def branch(
    parent: int, name: bytes, path: bytes, device: int, on_vanished: Callable[[bytes], None] | None = None
) -> Generator[Node, None, None]:
    """The node `name` of the directory `parent`, a descriptor that stays the caller's, and everything below it, as
    `walk` has them; `path` is the node's, `device` the file system that is not left."""
    trail = Trail(os.dup(parent), path.removesuffix(name))
    try:
        yield from _below(trail, [name], path.removesuffix(name), [], device, None, None, on_vanished)
    finally:
        trail.close()


def _sought(
    path: bytes, trail: Trail, names: list[bytes], prefix: bytes, waiting: list[tuple[list[bytes], int]], device: int
) -> tuple[list[bytes], bytes]:
    """Enters the directories on the way to `path` without telling of them; names left, and the prefix, where it ends.
    What turns out to be something else is not entered, but told of as if the walk had come by."""
    *above, last = path.split(b"/")
    for component in above:
        _pass(names, component)
        if not names or names[-1] != component:
            return names, prefix
        try:
            fd = open_directory(component, trail.current)
        except OSError:
            return names, prefix
        status = os.fstat(fd)
        names.pop()
        trail.enter(component, fd, status)
        waiting.append((names, len(prefix)))
        names = listing(fd, prefix + component) if status.st_dev == device else []
        prefix += component + b"/"
    _pass(names, last)
    return names, prefix


def _pass(names: list[bytes], component: bytes) -> None:
    while names and names[-1] < component:
        names.pop()


def _below(
    trail: Trail,
    names: list[bytes],
    prefix: bytes,
    waiting: list[tuple[list[bytes], int]],
    device: int,
    emits: Callable[[bytes, bool], bool] | None,
    enters: Callable[[Node], bool] | None,
    on_vanished: Callable[[bytes], None] | None,
) -> Generator[Node, None, None]:
    """What `names` are in the trail's current directory, and everything below; then on in those that are `waiting`."""
    misses = 0
    while True:
        while names:
            name = names.pop()
            path = prefix + name
            current = trail.current
            try:
                st = os.stat(name, dir_fd=current, follow_symlinks=False)
            except FileNotFoundError:
                if on_vanished is not None:
                    on_vanished(path)
                continue
            except OSError as error:
                raise reading_failed(path, error) from None
            if st.st_mode & _TYPE != _DIR:
                if emits is None or emits(path, False):
                    yield Node(path, name, current, st)
                continue
            emitted = emits is None or emits(path, True)
            node = Node(path, name, current, st)
            if st.st_dev == device and (enters is None or enters(node)):
                try:
                    fd = open_directory(name, current)
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                        raise reading_failed(path, error) from None
                    misses += 1
                    if misses > _RETRIES:
                        raise changed(path, "it is replaced all the time") from None
                    names.append(name)  # look again: it is gone now, or something else
                    continue
                misses = 0
                # What was opened counts, not what was looked at: node and children are of one directory.
                node.stat = os.fstat(fd)
                trail.enter(name, fd, node.stat)
                if emitted:
                    yield node
                waiting.append((names, len(prefix)))
                if node.stat.st_dev == device:
                    names = listing(fd, path, on_vanished)
                    prefix = path + b"/"
                else:
                    names = []
            elif emitted:
                yield node
        if not waiting:
            return
        trail.leave()
        names, length = waiting.pop()
        prefix = prefix[:length]


def listing(fd: int, path: bytes, on_vanished: Callable[[bytes], None] | None = None) -> list[bytes]:
    """The names in a directory, in descending byte order, so that `pop` gives the next one and frees it."""
    try:
        names = [os.fsencode(name) for name in os.listdir(fd)]
    except FileNotFoundError:  # removed while we hold it: it has no names any more
        if on_vanished is not None:
            on_vanished(path)
        return []
    except OSError as error:
        raise reading_failed(path, error) from None
    names.sort(reverse=True)
    return names


def clean_start(start: bytes) -> bytes:
    """`start` without superfluous slashes and dots; InvalidRequest where it holds `..` or a NUL."""
    components = [component for component in start.split(b"/") if component not in (b"", b".")]
    if b".." in components or b"\0" in start:
        raise InvalidRequest(f"the path {quoted(start)} is not allowed: it holds '..' or a NUL byte")
    return b"/".join(components)


def _anchor(root: int, start: bytes) -> tuple[int, bytes]:
    """A descriptor of the directory that holds `start`, and its name there (`.` for the root itself)."""
    if not start:
        return os.open(b".", DIRECTORY, dir_fd=root), b"."
    parent, _, name = start.rpartition(b"/")
    return open_in_root(root, parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), name


def _first(above: int, name: bytes, start: bytes) -> Node:
    try:
        return Node(start, name, above, os.stat(name, dir_fd=above, follow_symlinks=False))
    except FileNotFoundError:
        raise NotFound(f"there is no {quoted(start)}") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise name_too_long(start) from None
        raise reading_failed(start, error) from None


def _opened_start(above: int, name: bytes, start: bytes) -> tuple[Trail, os.stat_result]:
    try:
        fd = open_directory(name, above)
    except (FileNotFoundError, NotADirectoryError):
        raise changed(start, "it is no directory any more") from None
    except OSError as error:
        raise reading_failed(start, error) from None
    return Trail(fd, start), os.fstat(fd)
