"""A file of JSON records, parsed anew only after it was replaced."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from streamer.errors import InvalidArchive, StoreDamaged, StreamerError
from streamer.oci import document
from streamer.stores.containers_storage.places import Place

LIMIT = 256 << 20
"""Bytes of one list: a node with a hundred thousand layers has some 60 MB of them."""

Signature: TypeAlias = tuple[int, ...] | None
"""Which file it was; None for one that is not there."""

T = TypeVar("T")


def anew(error: StreamerError) -> StreamerError:
    """The same error to be raised once more: one object would keep the frames of every time that it was raised."""
    return type(error)(str(error), **error.details)


@dataclass(frozen=True, slots=True)
class Parsed(Generic[T]):
    """The records of a file. `error` is why there are none; `wrong` are those that could not be read, by a name of
    their own."""

    records: tuple[T, ...] = ()
    wrong: tuple[tuple[str, StoreDamaged], ...] = ()
    error: StreamerError | None = None


@dataclass(frozen=True, slots=True)
class Fetched(Generic[T]):
    """What a file was at one moment: `parsed` already, or its `data`."""

    signature: Signature
    parsed: Parsed[T] | None = None
    data: bytes = b""


class RecordList(Generic[T]):
    """One file, which is not there before its first record. Thread-safe."""

    def __init__(self, place: Place, relative: str, parse: Callable[[Mapping[str, Any], Place], T]) -> None:
        self._place = place
        self._relative = relative
        self._parse = parse
        self._lock = threading.Lock()
        self._known: tuple[Signature, Parsed[T]] = (None, Parsed())

    def signature(self) -> Signature:
        """Without opening it; a file that cannot be looked at looks like one that is not there."""
        try:
            return _signature(os.lstat(self._place.absolute(self._relative)))
        except OSError:
            return None

    def fetch(self) -> Fetched[T]:
        """The file as it is now: one that was replaced is read whole, but not parsed."""
        try:
            fd = self._place.open(self._relative)
        except FileNotFoundError:
            return Fetched(None, Parsed())
        except OSError as error:
            return Fetched(None, Parsed(error=self._place.failure(self._relative, error)))
        try:
            signature = _signature(os.fstat(fd))
            known, parsed = self._known
            if signature == known:
                return Fetched(signature, parsed)
            return Fetched(signature, data=self._place.content(fd, self._relative, LIMIT))
        except StreamerError as error:
            return Fetched(None, Parsed(error=error))
        finally:
            os.close(fd)

    def parsed(self, fetched: Fetched[T]) -> Parsed[T]:
        """The records of what was fetched."""
        if fetched.parsed is not None:
            return fetched.parsed
        with self._lock:
            known, parsed = self._known
            if fetched.signature != known:
                parsed = self._parsed(fetched.data)
                self._known = fetched.signature, parsed
            return parsed

    def now(self) -> Parsed[T]:
        return self.parsed(self.fetch())

    def _parsed(self, data: bytes) -> Parsed[T]:
        name = self._place.shown(self._relative)
        try:
            values = document.loads(data, name, LIMIT)
        except InvalidArchive as error:
            return Parsed(error=StoreDamaged(str(error)))
        if not isinstance(values, list | None):
            return Parsed(error=StoreDamaged(f"{name} is not a list"))
        records: list[T] = []
        wrong: list[tuple[str, StoreDamaged]] = []
        for number, value in enumerate(values or ()):
            try:
                if not isinstance(value, dict):
                    raise ValueError("it is not an object")
                records.append(self._parse(value, self._place))
            except ValueError as error:
                item = f"item {number} of {self._relative}{self._place.label}"
                wrong.append((item, StoreDamaged(f"{item} of store {self._place.store} cannot be read: {error}")))
        return Parsed(tuple(records), tuple(wrong))


def _signature(status: os.stat_result) -> Signature:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
