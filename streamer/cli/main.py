"""The commands by name, the options before them, and how a failure ends the process.

Nothing heavy is imported here or at the top of a command's module, so that `streamer --help` answers at once.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from streamer import __version__
from streamer.cli import build as building
from streamer.cli import config as configuration
from streamer.cli import context as context_
from streamer.cli import copy, doctor, export, listing, serve, store, token
from streamer.cli import sum as sums
from streamer.cli.complain import complain, say
from streamer.cli.emit import emit, escape_what_cannot_be_encoded, flush, translated
from streamer.cli.exit import OK, USAGE, Interrupted, ReaderLeft, epilog, status
from streamer.cli.help import Command, description, examples, untyped
from streamer.cli.options import Config, State, Stores
from streamer.cli.running import Given


class Commands(TyperGroup):
    """Turns whatever a command raises into one line and an exit code of `cli.exit`."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _ended(), translated():
            return super().make_context(*args, **kwargs)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            with redirect_stdout(sys.stderr):  # standard output is for what was asked for
                emit(ctx.get_help())
            ctx.exit(USAGE)
        return super().parse_args(ctx, args)

    def get_params(self, ctx: Any) -> list[Any]:
        return untyped(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        with _ended():
            return super().invoke(ctx)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs |= {"standalone_mode": False, "prog_name": "streamer"}
        escape_what_cannot_be_encoded()
        try:
            result = super().main(*args, **kwargs)
            code = result if isinstance(result, int) else OK
            flush()
        except typer.TyperException as error:
            code = _misused(error)
        except Exception as error:
            complain(error)
            code = status(error)
        _forget_output()
        sys.exit(code)


@contextmanager
def _ended() -> Iterator[None]:
    """What ends a command from outside is said as it is: Interrupted, ReaderLeft."""
    try:
        yield
    # Of both, typer would make exit codes of its own, without a word.
    except KeyboardInterrupt as error:
        raise Interrupted(signal.SIGINT) from error
    except BrokenPipeError as error:
        raise ReaderLeft from error
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # rich did
            raise ReaderLeft from error
        raise


def _misused(error: typer.TyperException) -> int:
    message = " ".join(error.format_message().split()).replace(": Value error, ", ": ")
    if near := getattr(error, "possibilities", None):
        message = f"{error.message}. Did you mean {' or '.join(map(repr, near))}?"
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "streamer"
    say(f"{message.rstrip('.')} (see `{command} --help`)")
    return USAGE


def _forget_output() -> None:
    """Keep the interpreter, on its way out, from writing once more to a pipe that nobody reads, and complaining."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)


app = typer.Typer(
    cls=Commands,
    name="streamer",
    epilog=epilog(),
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        emit(f"streamer {__version__}")
        raise typer.Exit


@app.callback()
def streamer(
    context: typer.Context,
    state: State = None,
    store: Stores = None,
    config: Config = None,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
    ] = False,
) -> None:
    """Stream container file systems as archives: layers, diffs, containers, images, root file systems.

    Works on the stores themselves; no server needs to run.
    """
    context.obj = Given(state, tuple(store or ()), config)


_COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "Look and export": {
        "ls": listing.ls,
        "changes": listing.changes,
        "export": export.export,
        "context": context_.context,
        "sum": sums.sum,
    },
    "Change the embedded store": {
        "import": store.import_,
        "build": building.build,
        "copy": copy.copy,
        "add": copy.add,
        "create": store.create,
        "mount": store.mount,
        "unmount": store.unmount,
        "commit": store.commit,
        "tag": store.tag,
        "rm": store.rm,
        "prune": store.prune,
    },
    "Run and check": {
        "serve": serve.serve,
        "token": token.token,
        "config": configuration.config,
        "doctor": doctor.doctor,
    },
}

for _panel, _commands in _COMMANDS.items():
    for _name, _command in _commands.items():
        _registered = app.command(
            _name, cls=Command, help=description(_command), epilog=examples(_name), rich_help_panel=_panel
        )
        _registered(_command)


def main() -> None:
    """Run the command line of this process; never returns."""
    _reserve_standard_descriptors()
    app()


def _reserve_standard_descriptors() -> None:
    """Started with 0, 1 or 2 closed, the next file opened would get that number: an archive would be written into the
    store's database. /dev/null opened the wrong way round takes the place, so that using it fails; what is printed for
    people goes nowhere."""
    for fd, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, flags)
    sys.stdin = sys.stdin or io.StringIO()
    sys.stdout = sys.stdout or io.StringIO()
    sys.stderr = sys.stderr or io.StringIO()
