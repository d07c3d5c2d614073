"""Runs one command on the stores themselves: settings, logs, the service around it, signals, and what they leave."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import typer

from streamer.cli.complain import say, single
from streamer.cli.exit import Interrupted
from streamer.errors import InvalidRequest

if TYPE_CHECKING:
    from streamer.errors import StreamerError
    from streamer.service import Service
    from streamer.settings import Settings
    from streamer.stores.base import Store

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


_last_actions: list[Callable[[], object]] = []


@contextmanager
def last_action(action: Callable[[], object]) -> Iterator[None]:
    """While the block is open, `action` runs if the process must be killed without leaving it. It must not raise."""
    _last_actions.append(action)
    try:
        yield
    finally:
        _last_actions.remove(action)


@dataclass(frozen=True, slots=True)
class Given:
    """Options written before the command's name; those after it win (`--state`) or add to them (`--store`)."""

    state: Path | None = None
    stores: tuple[str, ...] = ()
    config: Path | None = None


def settings(context: typer.Context, state: Path | None, stores: Sequence[str] | None, **overrides: object) -> Settings:
    """The settings in force for a command, after a warning for each misspelt variable. InvalidRequest names what is
    wrong."""
    from streamer.settings import load

    given = flags(context, state, stores, **overrides)
    return load(file(context), **given)


def file(context: typer.Context, config: Path | None = None) -> Path | None:
    """The file of settings that was named: by `config`, or before the command's name."""
    return config if config is not None else (context.find_object(Given) or Given()).config


def flags(
    context: typer.Context, state: Path | None, stores: Sequence[str] | None, **overrides: object
) -> dict[str, Any]:
    """Settings by flags; None for one that was not given. Warns as `settings` does."""
    from streamer.settings import misspelt

    for name, meant in misspelt().items():
        say(f"warning: {name} is not a setting and is ignored: did you mean {meant}?")

    given = context.find_object(Given) or Given()
    chosen = state if state is not None else given.state
    if chosen is not None and not chosen.parts:
        raise InvalidRequest("--state is empty: name the directory of the embedded store", parameter="state")
    named = (*given.stores, *(stores or ()))
    return {"state": chosen, "stores": named or None, **overrides}


def work(
    context: typer.Context,
    state: Path | None,
    stores: Sequence[str] | None,
    command: Callable[[Service], Awaitable[T]],
    *,
    create: bool = False,
) -> T:
    """The result of `command(service)` with the settings in force, as `on` gives it."""
    return on(settings(context, state, stores), command, create=create)


def on(chosen: Settings, command: Callable[[Service], Awaitable[T]], *, create: bool = False) -> T:
    """The result of `command(service)`. At a signal it is cancelled, leaves its blocks, and Interrupted is raised.

    NotFound if there is no embedded store yet, unless `create`.
    """
    return _run(chosen, lambda: _served(chosen, command, create))


def storeless(chosen: Settings, command: Callable[[Service], Awaitable[T]]) -> T:
    """The result of `command(service)` where that needs no store. Signals as in `on`."""

    async def served() -> T:
        from streamer.service import storeless as opened

        async with opened(chosen) as service:
            return await command(service)

    return _run(chosen, served)


def alone(context: typer.Context, command: Callable[[], Awaitable[T]]) -> T:
    """The result of `command()`, which needs no settings and no stores. Signals as in `on`.

    Only a file of settings that was named is read, to say what is wrong with it: that of a service on this machine may
    be none of this user's business.
    """
    if file(context) is not None:
        return _run(settings(context, None, None), command)
    flags(context, None, None)  # warns
    return _run(None, command)


def _run(chosen: Settings | None, command: Callable[[], Awaitable[T]]) -> T:
    import anyio

    from streamer import log

    level, format = "error", "auto"
    if chosen is not None:
        level, format = chosen.log_level if "log_level" in chosen.model_fields_set else level, chosen.log_format
    # Without this, structlog's default writes to standard output: into the archive.
    log.configure(level, format)
    return anyio.run(_interruptible, command)


async def _served(chosen: Settings, command: Callable[[Service], Awaitable[T]], create: bool) -> T:
    from streamer.service import service

    async with service(chosen, create=create) as opened:
        opened.catalog.on_silent = _warn
        return await command(opened)


def _warn(store: Store, error: StreamerError) -> None:
    say(f"warning: store {store.name} could not be asked: {error}")


class _Outcome(Generic[T]):
    value: T
    error: BaseException | None = None
    signal: int | None = None


async def _interruptible(command: Callable[[], Awaitable[T]]) -> T:
    import anyio

    outcome: _Outcome[T] = _Outcome()
    # A signal that is ignored (nohup, a background job of a script) stays ignored.
    wanted = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    scope = anyio.CancelScope()

    async def watch() -> None:
        with anyio.open_signal_receiver(*wanted) as signals:
            listening.set()
            async for number in signals:
                if outcome.signal is not None:
                    # A second one: the way out itself hangs (a dead disk), so do the least and die of it.
                    for action in _last_actions:
                        action()
                    signal.signal(number, signal.SIG_DFL)
                    os.kill(os.getpid(), number)
                outcome.signal = number
                scope.cancel()

    listening = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        await listening.wait()
        with scope:
            try:
                outcome.value = await command()
            except Exception as error:
                outcome.error = single(error)
        tasks.cancel_scope.cancel()
    if outcome.signal is not None and (outcome.error is not None or scope.cancelled_caught):
        raise Interrupted(outcome.signal)
    if outcome.error is not None:
        raise outcome.error
    return outcome.value
