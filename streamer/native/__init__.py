"""The compiled inner loop, if it was built: `walk.c` through ctypes. Everything works without it, only slower.

It is built by `pip install` where there is a C compiler (`hatch_build.py`). Exactly what the code in Python would give
comes out of it, or nothing: `tests/property` compares the two.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LIBRARY: Final = Path(__file__).parent / "_walk.so"
VERSION: Final = 4
"""Of the functions; a library left over from another version is not used."""

WHOLE: Final = 128 << 10
"""Files up to this many bytes are packed by the library, larger ones are handed over."""
MOST_ROOTS: Final = 250
"""Layers that a walk takes."""
ENOUGH: Final = 256 << 10
"""Bytes of archive that one step makes, about."""
_ROOM: Final = ENOUGH + WHOLE + (64 << 10)
_FACTS: Final = 128 << 10
_NEVER: Final = (1 << 63) - 1
_MORE, _DONE, _HANDED, _FAILED = range(4)


class _Step(ctypes.Structure):
    _fields_ = (
        ("used", ctypes.c_uint64),
        ("facts", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("entries", ctypes.c_uint64),
        ("newest", ctypes.c_int64),
        ("reason", ctypes.c_int32),
        ("parent", ctypes.c_int32),
        ("layer", ctypes.c_int32),
        ("error", ctypes.c_int32),
        ("path", ctypes.c_void_p),
        ("length", ctypes.c_uint64),
        ("name", ctypes.c_uint64),
    )


def _loaded() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(LIBRARY), use_errno=True)
        if library.streamer_version() != VERSION:
            return None
    except (OSError, AttributeError):
        return None
    library.streamer_walk_open.restype = ctypes.c_void_p
    library.streamer_walk_open.argtypes = (
        ctypes.POINTER(ctypes.c_int),
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_char_p,
        ctypes.c_int64,
        ctypes.c_uint64,
        ctypes.c_int,
    )
    library.streamer_walk_close.restype = None
    library.streamer_walk_close.argtypes = (ctypes.c_void_p,)
    library.streamer_walk_next.restype = None
    library.streamer_walk_next.argtypes = (
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_uint64,
        ctypes.c_void_p,
        ctypes.c_uint64,
        ctypes.c_uint64,
        ctypes.c_void_p,
    )
    return library


_library = _loaded()


def available() -> bool:
    """Whether the library was built and fits."""
    return _library is not None


@dataclass(frozen=True, slots=True)
class Handed:
    """An entry left to the caller with all below it: `name` in the directory `parent`, valid until the next step, which
    lies below the root of that number."""

    path: bytes
    name: bytes
    parent: int
    layer: int


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did: `entries` entries, `size` bytes of archive, which are `data` (None if only measured).

    `facts` are those of the entries, concatenated, and `newest` the latest of their ctimes in nanoseconds. `handed`
    comes behind them; `next` is the path of the first entry of the next step, where that is known.
    """

    data: bytes | None
    facts: bytes
    size: int
    entries: int
    newest: int
    handed: Handed | None
    next: bytes | None
    done: bool


class Walk:
    """A walk of everything below a directory, in the order of `changeset.walk`, for one thread. The descriptors stay
    the caller's; the walk's own are open until `close`.

    `roots` is the directory, or several of one file system, topmost first, that are layers of one tree: `marks` is then
    what overlay attributes begin with (`changeset.marks`), and attributes of the roots themselves are not looked at.
    `prefix` (empty, or ending in a slash) goes before every name. It begins at `after` (relative to the directory), or
    at what comes first behind it. No mtime is later than `latest` nanoseconds. With `strict`, a file that changes while
    it is read is handed over. Raises OSError; RuntimeError where the library is missing.
    """

    def __init__(
        self,
        roots: Sequence[int],
        prefix: bytes = b"",
        *,
        marks: str | None = None,
        after: bytes = b"",
        latest: int | None = None,
        strict: bool = False,
    ) -> None:
        if _library is None:
            raise RuntimeError("the compiled walk was not built")
        self._lib = _library
        self._step = _Step()
        self._out: ctypes.Array[ctypes.c_char] | None = None
        self._facts = ctypes.create_string_buffer(_FACTS)
        self._walk = _library.streamer_walk_open(
            (ctypes.c_int * len(roots))(*roots),
            len(roots),
            None if marks is None else marks.encode(),
            prefix,
            len(prefix),
            after,
            _NEVER if latest is None else latest,
            WHOLE,
            strict,
        )
        if not self._walk:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def step(self, *, read: bool, facts: bool = True, enough: int = ENOUGH, limit: int = _NEVER) -> Step:
        """Goes on for about `enough` bytes, but not into an entry that reaches beyond `limit` bytes from here.

        Without `read` only directories are opened, and no `data` comes. OSError, with the directory's path, if names
        cannot be listed."""
        if read and self._out is None:
            self._out = ctypes.create_string_buffer(_ROOM)
        out = self._out if read else None
        done = self._step
        self._lib.streamer_walk_next(
            self._walk,
            out,
            min(enough, ENOUGH),
            self._facts if facts else None,
            _FACTS,
            min(max(limit, 0), _NEVER),
            ctypes.byref(done),
        )
        path = ctypes.string_at(done.path, done.length) if done.path and done.reason != _DONE else None
        if done.reason == _FAILED:
            raise OSError(done.error, os.strerror(done.error), path)
        handed = None
        if done.reason == _HANDED and path is not None:
            handed = Handed(path, path[done.name :], done.parent, done.layer)
        return Step(
            ctypes.string_at(out, done.used) if out is not None else None,
            ctypes.string_at(self._facts, done.facts),
            done.size,
            done.entries,
            done.newest,
            handed,
            path if done.reason == _MORE else None,
            done.reason == _DONE,
        )

    def close(self) -> None:
        """Closes what the walk has open. Idempotent."""
        walk, self._walk = self._walk, None
        if walk:
            self._lib.streamer_walk_close(walk)
