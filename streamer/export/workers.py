"""Threads that compute for an export's thread (compress, hash) while that goes on with making its tar.

An export's own thread holds its leases and is the only one that may advance or close its source. Workers never see
either: they are given blocks of bytes and a function, and hold nothing else. Compressors release the interpreter's
lock, so they really run beside it.

What can be computed in any order (gzip's blocks) goes to one pool for all exports of the process, with as many threads
as there are cores: more could not compute faster, and a pool for each export would be 50 times as many for 50 exports.
What has to be done in order (zstd, xz, bzip2, each with one compressor of several MiB) has one thread per export:
the scheduler then shares the cores among them, and a slow xz never stands in a queue before gzip's blocks.

Threads end with those who use them: the pool's with the last export in it, so that nothing is left between two exports.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from streamer.export.closing import closing
from streamer.log import logger

log = logger("streamer.export")

Block = bytes | bytearray
"""Bytes that nobody changes any more."""

A = TypeVar("A")
R = TypeVar("R")


@dataclass(frozen=True, eq=False, slots=True)
class _Task(Generic[A, R]):
    future: Future[R]
    function: Callable[[A], R]
    argument: A

    def run(self) -> None:
        future = self.future
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = self.function(self.argument)
        except BaseException as error:  # noqa: ASYNC103  # raised again by whoever waits for the result
            future.set_exception(error)
        else:
            future.set_result(result)
        finally:
            del self, future  # a traceback that reaches its own future would keep the block until the next collection


class Workers:
    """At most `limit` threads, started when there is something to do; leaving its `with` block ends and joins them.

    With one thread, tasks run strictly one after the other, in the order of their submission. Where the system allows
    no thread at all, `submit` runs the task itself: slower, but the same bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._changed = threading.Condition()
        self._tasks: deque[_Task[Any, Any]] = deque()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._ended = False
        self._refused = False

    def __repr__(self) -> str:
        return f"<Workers {len(self._threads)} of {self._limit} threads, {len(self._tasks)} tasks waiting>"

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End and join the threads. Everybody has settled what it submitted."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    def submit(self, function: Callable[[A], R], argument: A) -> Future[R]:
        """`function(argument)`, computed by a worker. Never waits, unless no worker could be started."""
        task = _Task(Future[R](), function, argument)
        with self._changed:
            if self._ended:
                raise RuntimeError(f"{self!r} was closed")
            staffed = self._idle > len(self._tasks) or self._started()
            if staffed:
                self._tasks.append(task)
                self._changed.notify()
        if not staffed:
            task.run()
        return task.future

    def settle(self, futures: Iterable[Future[R]]) -> None:
        """None of these computes afterwards: what was not begun is dropped at once, what was is waited for."""
        begun = {future for future in futures if not future.cancel()}
        with self._changed:
            self._tasks = deque(task for task in self._tasks if not task.future.cancelled())
        wait(begun)

    def _started(self) -> bool:
        """Whether there is any worker, after one more was started if there may be one more."""
        if len(self._threads) < self._limit and not (self._refused and self._threads):
            # A daemon only for the sake of the interpreter's exit, which would wait for it: an export that hangs in a
            # read for ever never leaves its block, and must not keep the process.
            thread = threading.Thread(target=self._work, name="compress", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                if not self._refused:
                    self._refused = True
                    log.warning(
                        "cannot start another thread for compression", threads=len(self._threads), why=str(error)
                    )
            else:
                self._threads.append(thread)
        return bool(self._threads)

    def _work(self) -> None:
        try:
            while (task := self._next()) is not None:
                task.run()
                del task  # while this thread waits for the next one, the last one's block is not kept
        except BaseException as error:  # noqa: ASYNC103  # out of memory: nobody may wait for a thread that is no more
            with self._changed:
                self._threads.remove(threading.current_thread())
                lost: deque[_Task[Any, Any]] = deque()
                if not self._threads:
                    lost, self._tasks = self._tasks, lost
                self._changed.notify_all()
            for task in lost:
                if task.future.set_running_or_notify_cancel():
                    task.future.set_exception(error)

    def _next(self) -> _Task[Any, Any] | None:
        with self._changed:
            while not self._tasks:
                if self._ended:
                    return None
                self._idle += 1
                try:
                    self._changed.wait()
                finally:
                    self._idle -= 1
            return self._tasks.popleft()


class Pool:
    """Workers for everybody: made for the first who enters, ended with the last who leaves."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._workers: Workers | None = None
        self._users = 0

    def __repr__(self) -> str:
        return f"<Pool {self._users} users, {self._workers!r}>"

    @contextmanager
    def workers(self) -> Iterator[Workers]:
        """The common workers. Whoever leaves has settled all that it submitted."""
        with self._lock:
            workers = self._workers = self._workers or Workers(self._limit)
            self._users += 1
        try:
            yield workers
        finally:
            with self._lock:
                self._users -= 1
                last = not self._users
                if last:
                    self._workers = None
            if last:
                workers.close()


CORES = Pool(len(os.sched_getaffinity(0)))
"""One thread for each core that this process may use."""


def in_order(workers: Workers, function: Callable[[A], R], inputs: Iterator[A], ahead: int) -> Iterator[R]:
    """`function(input)` of every input, in their order, computed by the workers while the next inputs are made.

    At most `ahead` inputs or results are held. The first result is waited for before anything else is asked of
    `inputs`: its reader may have to wait long for the next one. `inputs` is advanced and closed in the calling thread
    only. On every way out `inputs` is closed first, since it holds what others wait for, and then nothing computes.
    """
    waiting: deque[Future[R]] = deque()
    room = 1
    try:
        with closing(inputs) as source:
            for item in source:
                waiting.append(workers.submit(function, item))
                del item  # its worker drops it when it is done
                while waiting and (len(waiting) >= room or waiting[0].done()):
                    result = waiting[0].result()
                    waiting.popleft()
                    yield result
                    del result
                room = ahead
        while waiting:
            yield waiting.popleft().result()
    finally:
        workers.settle(waiting)
        waiting.clear()  # a failed one holds its traceback, and that this frame
