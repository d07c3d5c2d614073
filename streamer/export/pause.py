"""Containers that stand still while they are exported, so that no archive is torn: `pause=true`.

Frozen by their engine before anything is read, resumed as soon as the last byte was, and on every other way out: by
the export's own `with` blocks, by a timer when the limit is reached, by a process of its own if this one is killed.
"""

from __future__ import annotations

import contextlib
import copy
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakValueDictionary

from streamer.errors import (
    Conflict,
    Draining,
    PauseExpired,
    SourceChanged,
    SourceFailed,
    StreamerError,
    Unsupported,
)
from streamer.export.closing import closing
from streamer.export.watcher import Watcher
from streamer.log import logger
from streamer.stores.base import Container, Freezer, Guard
from streamer.stores.itself import is_itself
from streamer.tar.region import Chunk

if TYPE_CHECKING:
    from streamer.export.plan import Options, Session

log = logger("streamer.export")

Made: TypeAlias = "Callable[[Guard | None, Session], Iterator[Chunk]]"
"""Makes an archive's chunks; the guard is called after the last byte was read, before the archive's end is made."""


class _Place:
    """One container in the books, by what would resume it. `lock` is held while its engine is asked for a change."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pause: _Pause | None = None
        """The pause that is ours, None if there is none now."""


class _Pause:
    """One pause of one container, shared by the exports that came while it lasted: the last one resumes."""

    def __init__(self, place: _Place, freezer: Freezer, title: str, limit: float) -> None:
        self.freezer = freezer
        self.title = title
        self.limit = limit
        self.users = 0
        self.expired = False
        self.lost = False
        """Somebody else resumed the container: what was read may be torn, and it is no longer ours to resume."""
        self._place = place
        self._began = time.monotonic()
        self._watcher = Watcher(freezer.resume_command)
        self._counts = threading.Event()
        """Set when the container is paused, or will not be."""
        self._over = threading.Event()

    def start(self) -> bool:
        """Pauses; False if there was nothing to pause after all. On an error nothing stays paused."""
        # First of all: where no thread can be had, nothing would resume at the limit.
        try:
            threading.Thread(target=self._timer, name="pause limit", daemon=True).start()
        except RuntimeError as error:
            self._watcher.dismiss()
            raise SourceFailed(f"cannot start the thread that would resume {self.title}: {error}") from error
        try:
            paused = self.freezer.pause()
        except BaseException:
            self._stop()
            self._resume()  # a deadline that passed does not mean that the engine did not do it
            raise
        if not paused:
            self._stop()
            self._watcher.dismiss()
            return False
        self._began = time.monotonic()
        self._place.pause = self
        self._counts.set()
        return True

    def _timer(self) -> None:
        self._counts.wait()
        if not self._over.wait(self.limit):
            self.expire()

    def _stop(self) -> None:
        self._over.set()
        self._counts.set()

    def end(self) -> None:
        """Under the place's lock: resumes, unless that happened before."""
        if self._place.pause is not self:
            return
        self._place.pause = None
        self._stop()
        if self.lost:
            self._watcher.dismiss()
            log.warning("paused container was resumed by somebody else", title=self.title)
            return
        error = self._resume()
        seconds = round(time.monotonic() - self._began, 3)
        if error is not None:
            raise error
        log.info("container resumed", title=self.title, paused_seconds=seconds, expired=self.expired)

    def expire(self) -> None:
        """The limit is reached: resumes at once, whatever its exports are doing."""
        self.expired = True
        with self._place.lock, contextlib.suppress(StreamerError):  # logged
            self.end()

    def _resume(self) -> StreamerError | None:
        try:
            self.freezer.resume()
        except BaseException as caught:  # noqa: ASYNC103  # in a thread: it cannot be cancelled
            self._watcher.desert()  # it goes on trying
            log.error("container could not be resumed", title=self.title, error=str(caught))
            if not isinstance(caught, StreamerError):
                raise
            return caught  # noqa: ASYNC104
        self._watcher.dismiss()
        return None


class Hold:
    """One export's part in a pause. `pause` is None where there was nothing to pause: it only looks at the end."""

    def __init__(self, place: _Place, freezer: Freezer, pause: _Pause | None, title: str) -> None:
        self._place = place
        self._freezer = freezer
        self._pause = pause
        self._title = title
        self._left = False
        if pause is not None:
            pause.users += 1

    def check(self) -> None:
        """PauseExpired if the limit was reached before the last byte was read."""
        if self._pause is not None and self._pause.expired and not self._left:
            raise PauseExpired(
                f"cannot export {self._title}: it was paused for {self._pause.limit:g} seconds, as long as allowed, "
                "and runs again; export less of it, or raise the pause limit",
                limit=self._pause.limit,
            )

    def over(self) -> None:
        """The last byte was read: resumes if no other export needs the pause. SourceChanged if somebody else resumed
        or ended the container meanwhile, PauseExpired if the limit was reached."""
        still = self._freezer.still()
        self.check()
        with self._place.lock:
            if not still and self._pause is not None:
                self._pause.lost = True
            lost = not still or (self._pause is not None and self._pause.lost)
            self._leave()
        if lost:
            raise SourceChanged(f"cannot export {self._title}: it was resumed or ended by somebody else meanwhile")

    def leave(self) -> None:
        """Resumes if no other export needs the pause. Idempotent."""
        with self._place.lock:
            self._leave()

    def _leave(self) -> None:
        if self._left or self._pause is None:
            return
        self._left = True
        self._pause.users -= 1
        if not self._pause.users:
            self._pause.end()


class Pauses:
    """Every pause of this process; synchronous and thread-safe. A container stays paused at most `limit` seconds."""

    def __init__(self, limit: float = 60) -> None:
        self.limit = limit
        self._books = threading.Lock()
        self._places: WeakValueDictionary[tuple[str, ...], _Place] = WeakValueDictionary()
        self._closed = False

    def __repr__(self) -> str:
        with self._books:
            return f"<Pauses {sum(place.pause is not None for place in self._places.values())} containers paused>"

    @contextlib.contextmanager
    def paused(self, freezer: Freezer, title: str) -> Iterator[Hold]:
        """The container stands still while the block is open, or until `Hold.over`.

        What was paused by somebody else stays paused, what does not run needs no pause. EngineUnreachable and Conflict
        as the engine has it. A failure to resume is noted on the error that ended the block, or raised.
        """
        hold = self._held(copy.copy(freezer), title)  # it remembers what it saw, for this export only
        try:
            yield hold
        except BaseException as first:
            try:
                hold.leave()
            except StreamerError as error:
                first.add_note(f"While resuming: {error}")
            raise
        else:
            hold.leave()

    def close(self) -> None:
        """Resume everything that is paused now, and pause nothing more."""
        with self._books:
            self._closed = True
            places = list(self._places.values())
        for place in places:
            with place.lock, contextlib.suppress(StreamerError):  # logged
                if place.pause is not None:
                    place.pause.expired = True
                    place.pause.end()

    def _held(self, freezer: Freezer, title: str) -> Hold:
        command = freezer.resume_command
        with self._books:
            place = self._places.setdefault(command, _Place())
        with place.lock:
            if self._closed:
                raise Draining("no more containers are paused: the service is shutting down")
            if place.pause is not None:
                if place.pause.freezer.still():
                    return Hold(place, place.pause.freezer, place.pause, title)
                place.pause.lost = True
                place.pause.end()
            # Asked before, so that a watcher never waits to resume what somebody else has paused.
            if not freezer.still():
                pause = _Pause(place, freezer, title, self.limit)
                if pause.start():
                    return Hold(place, freezer, pause, title)
            return Hold(place, freezer, None, title)


def guarded(container: Container, title: str, options: Options, chunks: Made) -> Callable[[Session], Iterator[Chunk]]:
    """What an export plan makes its chunks with: `chunks`, with the container's end check, while the container stands
    still if `options.pause` says so. Unsupported if nothing could pause it, Conflict for the container that this
    process runs in itself."""
    if not options.pause:
        return partial(chunks, container.guard)
    if container.freezer is None:
        raise Unsupported(
            f"cannot pause container {container.name} of store {container.store}: no engine is known that could"
        )
    if is_itself(container.id, container.snapshot):
        raise Conflict(
            f"cannot pause container {container.name} of store {container.store}: streamer itself runs in it, and "
            "would stand still as well; export it without pausing"
        )
    return partial(_while_paused, container.freezer, container.guard, title, chunks)


def _while_paused(freezer: Freezer, guard: Guard | None, title: str, chunks: Made, session: Session) -> Iterator[Chunk]:
    with session.pauses.paused(freezer, title) as hold:

        def over() -> None:
            # The last byte was read: the container need not wait for the rest of the archive to be sent.
            hold.over()
            if guard is not None:
                guard()

        def check() -> None:
            session.check()
            hold.check()

        with closing(chunks(over, replace(session, check=check))) as made:
            for chunk in made:
                hold.check()
                yield chunk
