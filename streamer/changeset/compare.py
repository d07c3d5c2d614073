"""The changes between two trees, found by looking at both: go-archive's ChangesDirs.

Content is never read. Two files differ if mode, owner, device number or `security.capability` do, or, for all but
directories, size or mtime.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Final

from streamer.changeset.change import Change, Kind, Node
from streamer.changeset.content import capability
from streamer.changeset.descriptor import DIRECTORY, open_directory
from streamer.changeset.failures import changed, reading_failed
from streamer.changeset.trail import Trail
from streamer.changeset.walk import listing

_SECOND: Final = 1_000_000_000
_GONE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def compare(old: int | None, new: int) -> Generator[Change, None, None]:
    """What has to be done to the tree at `old` (None: an empty one) to make it the tree at `new`.

    In the order of a walk over both; a directory with a change inside comes as MODIFY before its children even if it is
    the same itself, except the root, which never comes. Of something new everything below is listed, of something
    deleted only the top. A directory that became a file, or the other way round, is one MODIFY. Entries that are one
    file on both sides (device and inode) are skipped with everything below; directories on other file systems are not
    entered. The node of an ADD or MODIFY is valid until the generator is advanced. Descriptors given stay the caller's.
    Raises SourceFailed, SourceChanged.
    """
    comparison = _Comparison(old, new)
    try:
        yield from comparison.changes()
    finally:
        comparison.close()


@dataclass(slots=True)
class _Level:
    """A directory both trees are compared in: the names left, its length of path, what is known of its own change."""

    olds: list[bytes]
    news: list[bytes]
    prefix: int
    name: bytes
    stat: os.stat_result
    listed: bool
    """Whether the directory itself was yielded (the root counts as such)."""
    in_old: bool
    """Whether the old tree has this directory as well: the old trail is at the same depth then."""


class _Comparison:
    def __init__(self, old: int | None, new: int) -> None:
        self._new = Trail(os.open(b".", DIRECTORY, dir_fd=new))
        self._old: Trail | None = None
        if old is not None:
            try:
                self._old = Trail(os.open(b".", DIRECTORY, dir_fd=old))
            except BaseException:
                self._new.close()
                raise
        self._device = os.fstat(self._new.current).st_dev
        self._levels: list[_Level] = []
        self._path = b""

    def close(self) -> None:
        self._new.close()
        if self._old is not None:
            self._old.close()

    def changes(self) -> Iterator[Change]:
        olds = listing(self._old.current, b"") if self._old is not None else []
        news = listing(self._new.current, b"")
        root = os.fstat(self._new.current)
        self._levels.append(_Level(olds, news, 0, b".", root, True, self._old is not None))
        while True:
            level = self._levels[-1]
            if level.olds or level.news:
                yield from self._next(level)
            elif len(self._levels) == 1:
                return
            else:
                self._levels.pop()
                self._path = self._path[: level.prefix]
                self._new.leave()
                if level.in_old and self._old is not None:
                    self._old.leave()

    def _next(self, level: _Level) -> Iterator[Change]:
        """Compares the next name of the current directory."""
        name = min(side[-1] for side in (level.olds, level.news) if side)
        path = self._path + b"/" + name if self._path else name
        before = after = None
        if level.olds and level.olds[-1] == name:
            level.olds.pop()
            assert self._old is not None
            before = _look(self._old.current, name, path)
        if level.news and level.news[-1] == name:
            level.news.pop()
            after = _look(self._new.current, name, path)
        if after is None:
            if before is not None:
                yield from self._above()
                yield Change(path, Kind.DELETE)
            return
        if before is None:
            yield from self._added(after)
        elif (before.stat.st_dev, before.stat.st_ino) != (after.stat.st_dev, after.stat.st_ino):
            yield from self._both(before, after)

    def _added(self, node: Node) -> Iterator[Change]:
        yield from self._above()
        entered = self._enter(node, listed=True, before=None)
        yield Change(node.path, Kind.ADD, node)
        if entered:
            self._list(node.path)

    def _both(self, before: Node, after: Node) -> Iterator[Change]:
        different = _differ(before, after)
        if different:
            yield from self._above()
        entered = self._enter(after, listed=different, before=before)
        if different:
            yield Change(after.path, Kind.MODIFY, after)
        if entered:
            self._list(after.path)

    def _enter(self, node: Node, *, listed: bool, before: Node | None) -> bool:
        """Makes a directory of the new tree (and its old one, if that is one) the current one; its names come later."""
        if not stat.S_ISDIR(node.stat.st_mode) or node.stat.st_dev != self._device:
            return False
        try:
            fd = open_directory(node.name, node.parent)
        except OSError as error:
            raise _not_opened(node.path, error) from None
        self._new.enter(node.name, fd, _same(fd, node))
        in_old = before is not None and stat.S_ISDIR(before.stat.st_mode)
        if in_old and before is not None and self._old is not None:
            try:
                fd = open_directory(before.name, before.parent)
            except OSError as error:
                raise _not_opened(node.path, error) from None
            self._old.enter(before.name, fd, _same(fd, before))
        self._levels.append(_Level([], [], len(self._path), node.name, node.stat, listed, in_old))
        return True

    def _list(self, path: bytes) -> None:
        level = self._levels[-1]
        self._path = path
        level.news = listing(self._new.current, path)
        if level.in_old and self._old is not None:
            level.olds = listing(self._old.current, path)

    def _above(self) -> Iterator[Change]:
        """The directories above a change that were not listed yet, topmost first."""
        first = len(self._levels)
        while not self._levels[first - 1].listed:
            first -= 1
        for depth in range(first, len(self._levels)):
            level = self._levels[depth]
            level.listed = True
            path = self._path if depth + 1 == len(self._levels) else self._path[: self._levels[depth + 1].prefix]
            yield Change(path, Kind.MODIFY, Node(path, level.name, self._new.at(depth - 1), level.stat))


def _look(directory: int, name: bytes, path: bytes) -> Node | None:
    """None for what vanished since it was listed: it counts as not there."""
    try:
        return Node(path, name, directory, os.stat(name, dir_fd=directory, follow_symlinks=False))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise reading_failed(path, error) from None


def _same(fd: int, node: Node) -> os.stat_result:
    """Makes sure that what was opened is what was looked at; on failure the descriptor is closed."""
    st = os.fstat(fd)
    if (st.st_dev, st.st_ino) != (node.stat.st_dev, node.stat.st_ino):
        os.close(fd)
        raise changed(node.path, "another directory has its name now")
    return st


def _not_opened(path: bytes, error: OSError) -> Exception:
    if error.errno in _GONE:
        return changed(path, "the directory was removed or replaced")
    return reading_failed(path, error)


def _differ(before: Node, after: Node) -> bool:
    a, b = before.stat, after.stat
    if a.st_mode != b.st_mode or a.st_uid != b.st_uid or a.st_gid != b.st_gid or a.st_rdev != b.st_rdev:
        return True
    if not stat.S_ISDIR(a.st_mode) and (a.st_size != b.st_size or not _same_time(a.st_mtime_ns, b.st_mtime_ns)):
        return True
    return capability(before) != capability(after)


def _same_time(a: int, b: int) -> bool:
    """Equal, or of the same second where one side was stored without nanoseconds (in an archive, say)."""
    return a == b or (a // _SECOND == b // _SECOND and (a % _SECOND == 0 or b % _SECOND == 0))
