"""The command line's entry: the commands by name, the options before them, and how a failure ends the process.

Nothing heavy is imported here or at the top of a command's module, so that `streamer --help` answers at once.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from streamer import __version__
from streamer.cli import doctor, export, listing, serve, store
from streamer.cli.complain import complain, say
from streamer.cli.emit import emit, flush
from streamer.cli.exit import OK, USAGE, ReaderLeft, epilog, status
from streamer.cli.options import State, Stores
from streamer.cli.running import Given


class Commands(TyperGroup):
    """Turns whatever a command raises into one line and an exit code of `cli.exit`."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _reader():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _reader():
            return super().invoke(ctx)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs |= {"standalone_mode": False, "prog_name": "streamer"}
        try:
            result = super().main(*args, **kwargs)
            code = result if isinstance(result, int) else OK
            flush()
        except typer.TyperException as error:
            code = _misused(error)
        except (Exception, KeyboardInterrupt) as error:
            complain(error)
            code = status(error)
        _forget_output()
        sys.exit(code)


@contextmanager
def _reader() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderLeft from error  # typer would make an exit code of its own of it
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # rich did
            raise ReaderLeft from error
        raise


def _misused(error: typer.TyperException) -> int:
    message = " ".join(error.format_message().split()).replace(": Value error, ", ": ")
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
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
    ] = False,
) -> None:
    """Stream container file systems as archives: layers, diffs, containers, images, root file systems.

    Works on the stores themselves; no server needs to run.
    """
    context.obj = Given(state, tuple(store or ()))


_EXPORTS, _STORE, _NODE = "Look and export", "Change the embedded store", "Run and check"

app.command(rich_help_panel=_EXPORTS)(listing.ls)
app.command(rich_help_panel=_EXPORTS)(listing.changes)
app.command(rich_help_panel=_EXPORTS)(export.export)
app.command("import", rich_help_panel=_STORE)(store.import_)
app.command(rich_help_panel=_STORE)(store.create)
app.command(rich_help_panel=_STORE)(store.mount)
app.command(rich_help_panel=_STORE)(store.unmount)
app.command(rich_help_panel=_STORE)(store.commit)
app.command(rich_help_panel=_STORE)(store.tag)
app.command(rich_help_panel=_STORE)(store.rm)
app.command(rich_help_panel=_NODE)(serve.serve)
app.command(rich_help_panel=_NODE)(doctor.doctor)


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
