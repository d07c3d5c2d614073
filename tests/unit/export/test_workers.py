"""Workers: results in order, the source in its own thread only, no thread or task left, whatever ends it."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.export.workers import Pool, Workers, in_order


def running() -> int:
    return sum(thread.name == "compress" for thread in threading.enumerate())


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def aside(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function)
    thread.start()
    return thread


class Source:
    """Numbers, with a record of who asked for them."""

    def __init__(self, count: int = 10, fail_at: int | None = None) -> None:
        self.count, self.fail_at = count, fail_at
        self.taken = 0
        self.threads: set[int] = set()
        self.closed = threading.Event()

    def __call__(self) -> Iterator[int]:
        try:
            for number in range(self.count):
                self.threads.add(threading.get_ident())
                if number == self.fail_at:
                    raise OSError("the source failed")
                self.taken += 1
                yield number
        finally:
            self.threads.add(threading.get_ident())
            self.closed.set()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    assert running() == 0


@pytest.fixture
def no_thread_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets so many threads for compression start, and no more."""

    def refuse(allowed: int) -> None:
        start = threading.Thread.start
        left = [allowed]

        def limited(thread: threading.Thread) -> None:
            if thread.name == "compress":
                if not left[0]:
                    raise RuntimeError("can't start new thread")
                left[0] -= 1
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", limited)

    return refuse


@given(st.lists(st.integers(), max_size=30), st.integers(1, 3), st.integers(1, 6))
def test_every_result_in_the_order_of_the_inputs(numbers, limit, ahead):
    with Workers(limit) as workers:
        assert list(in_order(workers, lambda number: -number, iter(numbers), ahead)) == [-n for n in numbers]


def test_the_order_does_not_depend_on_which_is_done_first():
    third = threading.Event()

    def slow(number: int) -> int:
        if number == 1:
            assert third.wait(60)
        if number == 2:
            third.set()
        return number

    with Workers(2) as workers:
        assert list(in_order(workers, slow, iter(range(4)), 3)) == [0, 1, 2, 3]


def test_one_worker_does_one_after_the_other_in_the_order_of_submission():
    done: list[int] = []
    with Workers(1) as workers:
        futures = [workers.submit(done.append, number) for number in range(200)]
        for future in futures:
            future.result()
        assert running() == 1
    assert done == list(range(200))


def test_workers_compute_elsewhere_and_the_source_is_used_here_only():
    source = Source()
    with Workers(2) as workers:
        threads = set(in_order(workers, lambda _: threading.get_ident(), source(), 3))
    assert source.threads == {threading.get_ident()}
    assert threading.get_ident() not in threads


def test_the_first_result_comes_before_the_second_input_is_asked_for():
    source = Source()
    with Workers(2) as workers:
        results = in_order(workers, lambda number: number, source(), 4)
        assert next(results) == 0
        assert source.taken == 1
        results.close()


@pytest.mark.parametrize("limit", [1, 3])
@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_no_more_than_so_many_are_ahead(limit, ahead):
    source = Source(1000)
    most = 0
    with Workers(limit) as workers:
        for number in in_order(workers, lambda number: number, source(), ahead):
            most = max(most, source.taken - number)
    assert most <= ahead


def test_more_threads_are_started_only_when_there_is_something_for_them():
    with Workers(8) as workers:
        for number in range(20):
            assert workers.submit(abs, -number).result() == number
            until(lambda: workers._idle == len(workers._threads))
        assert running() == 1


@pytest.mark.parametrize("after", range(6))
def test_closing_at_every_stage_closes_the_source_and_leaves_nothing(after):
    source = Source()
    with Workers(2) as workers:
        results = in_order(workers, lambda number: number, source(), 3)
        for _ in range(after):
            next(results)
        results.close()
        assert source.closed.is_set() or not after
        assert not workers._tasks


def test_closing_while_a_worker_computes_closes_the_source_first_and_waits_for_the_worker():
    source = Source()
    begun, go = threading.Event(), threading.Event()
    finished: list[int] = []

    def slow(number: int) -> int:
        if number == 1:
            until(lambda: source.taken == 3)
        if number == 2:
            begun.set()
            assert go.wait(60)
        finished.append(number)
        return number

    with Workers(1) as workers:
        results = in_order(workers, slow, source(), 2)
        assert [next(results), next(results)] == [0, 1]
        assert begun.wait(60)
        closing = aside(results.close)
        assert source.closed.wait(60)
        assert closing.is_alive()
        go.set()
        closing.join()
        assert finished == [0, 1, 2]


def test_settling_drops_what_was_not_begun_and_waits_for_what_was():
    begun, go = threading.Event(), threading.Event()
    finished: list[int] = []

    def slow(number: int) -> None:
        begun.set()
        assert go.wait(60)
        finished.append(number)

    with Workers(1) as workers:
        others = [workers.submit(slow, 0)]
        mine = [workers.submit(slow, number) for number in range(1, 5)]
        assert begun.wait(60)
        workers.settle(mine)  # at once, although the only worker is busy
        assert [future.cancelled() for future in mine] == [True] * 4
        assert not workers._tasks
        settling = aside(lambda: workers.settle(others))
        go.set()
        settling.join()
        assert finished == [0]


@pytest.mark.parametrize("fail_at", range(6))
def test_an_error_in_a_worker_is_raised_here_and_ends_everything(fail_at):
    source = Source()

    def failing(number: int) -> int:
        if number == fail_at:
            raise MemoryError
        return number

    results: list[int] = []
    with Workers(2) as workers, pytest.raises(MemoryError):
        results.extend(in_order(workers, failing, source(), 3))
    assert results == list(range(fail_at))
    assert source.closed.is_set()
    assert source.threads == {threading.get_ident()}


@pytest.mark.parametrize("fail_at", range(6))
def test_an_error_in_the_source_is_raised_and_ends_everything(fail_at):
    source = Source(fail_at=fail_at)
    with Workers(2) as workers, pytest.raises(OSError, match="the source failed"):
        list(in_order(workers, lambda number: number, source(), 3))
    assert source.closed.is_set()


def test_what_failed_is_not_kept_until_the_next_collection():
    class Thing:
        pass

    def failing(_: object) -> None:
        raise ValueError

    gc.disable()
    try:
        with Workers(1) as workers:
            thing = Thing()
            there = weakref.ref(thing)
            with pytest.raises(ValueError):
                list(in_order(workers, failing, iter([thing]), 2))
            del thing
            until(lambda: there() is None)
    finally:
        gc.enable()


def test_without_any_thread_the_results_are_the_same(no_thread_after):
    no_thread_after(0)
    source = Source()
    with Workers(2) as workers:
        threads = list(in_order(workers, lambda number: (number, threading.get_ident()), source(), 3))
        assert threads == [(number, threading.get_ident()) for number in range(10)]


def test_without_any_thread_an_error_is_the_same(no_thread_after):
    no_thread_after(0)
    with Workers(1) as workers, pytest.raises(ZeroDivisionError):
        list(in_order(workers, lambda number: 1 // (3 - number), iter(range(9)), 3))


def test_fewer_threads_than_wanted_do_it_all(no_thread_after):
    no_thread_after(1)
    both = threading.Barrier(2)
    with Workers(4) as workers:
        futures = [workers.submit(lambda _: both.wait(60) and None, 0), workers.submit(lambda _: running(), 0)]
        both.wait(60)
        assert futures[1].result(60) == 1
        assert workers._refused


def test_nobody_waits_for_a_worker_that_is_no_more():
    class Dying(Workers):
        def _next(self):
            with self._changed:
                while not self._tasks:
                    self._changed.wait()
            raise MemoryError

    with Dying(1) as workers:
        with pytest.raises(MemoryError):
            workers.submit(abs, 1).result(60)
        until(lambda: not running())
        with pytest.raises(MemoryError):
            workers.submit(abs, 1).result(60)  # a fresh thread, and as unlucky


def test_nothing_is_taken_after_the_end():
    with Workers(1) as workers:
        pass
    with pytest.raises(RuntimeError, match="was closed"):
        workers.submit(abs, 1)


def test_a_pool_is_one_for_all_and_ends_with_the_last():
    pool = Pool(2)
    with pool.workers() as first:
        with pool.workers() as second:
            assert first is second
            list(in_order(second, abs, iter(range(50)), 4))
            assert 1 <= running() <= 2
        assert 1 <= running() <= 2
    assert running() == 0
    with pool.workers() as third:
        assert third is not first
        assert third.submit(abs, -1).result() == 1
    assert running() == 0


def test_a_pool_is_left_by_an_error_too():
    pool = Pool(2)
    with pytest.raises(ZeroDivisionError), pool.workers() as workers:
        workers.submit(abs, -1).result()
        raise ZeroDivisionError
    assert running() == 0
    assert repr(pool) == "<Pool 0 users, None>"


def test_many_users_come_and_go_at_the_same_time():
    pool = Pool(2)
    wrong: list[object] = []

    def use() -> None:
        for _ in range(30):
            with pool.workers() as workers:
                found = list(in_order(workers, abs, iter(range(8)), 3))
                if found != list(range(8)):
                    wrong.append(found)

    users = [aside(use) for _ in range(6)]
    for user in users:
        user.join()
    assert not wrong
