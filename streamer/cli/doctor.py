"""`streamer doctor`: what this process can do on this machine, each finding with what follows from it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from streamer.cli.emit import emit
from streamer.cli.exit import OK, UNEXPECTED, status
from streamer.cli.options import Json, State, Stores
from streamer.cli.running import on, settings
from streamer.cli.table import size
from streamer.errors import NotFound, StreamerError

if TYPE_CHECKING:
    from streamer.service import Service
    from streamer.settings import Settings


@dataclass(frozen=True, slots=True)
class Finding:
    """`name` is stable and for programs; `follows` is for people. `needed`: without it core use does not work."""

    group: str
    name: str
    ok: bool
    needed: bool
    follows: str


_CAPABILITIES = (
    # (number, name, what it is good for, what follows without it); numbers of linux/capability.h
    (21, "CAP_SYS_ADMIN", "overlays can be mounted, trusted.* attributes read and written",
     "no overlay of root's stores can be mounted and no layer of one read or written"),
    (2, "CAP_DAC_READ_SEARCH", "files of every owner and mode can be read",
     "an export fails at the first file that this user may not read"),
    (1, "CAP_DAC_OVERRIDE", "files can be written whatever their mode",
     "an import can be refused in a directory whose mode forbids writing"),
    (0, "CAP_CHOWN", "imported files get the owners that the archive gives them",
     "imported files belong to this user on disk"),
    (3, "CAP_FOWNER", "modes and times of everybody's files can be set",
     "modes and times can only be set on this user's own files"),
    (27, "CAP_MKNOD", "devices and whiteouts of imported layers are made",
     "imported layers are kept without their devices on disk"),
    (31, "CAP_SETFCAP", "file capabilities of imported layers are set",
     "imported layers are kept without file capabilities on disk"),
)  # fmt: skip

_LEGEND = "ok: works; no: streamer does without, as described; missing: needed"

_NO_UPPER = frozenset({"overlay", "nfs", "nfs4", "cifs", "smb3", "vfat", "exfat", "9p", "ceph", "fuse", "fuseblk"})
"""File systems that cannot carry an overlay's upper directory."""


def doctor(context: typer.Context, as_json: Json = False, state: State = None, store: Stores = None) -> None:
    """Report kernel features, privileges and stores, each with what follows from it.

    Exit code 0 if everything needed for core use works, else 1.

    Mounting overlays is needed for root's stores only: an ordinary user's own are read without.
    """
    chosen = settings(context, state, store)
    embedded = _embedded(chosen)
    found = [*_program(), *_kernel(), *_privileges()]
    if embedded is not None:
        found += _state(embedded)
    found += _opened(chosen)
    if chosen.discover and not chosen.stores:
        found += _closed()
    if as_json:
        import json

        emit(json.dumps([asdict(one) for one in found], indent=2))
    else:
        _print(found)
    raise typer.Exit(OK if all(one.ok for one in found if one.needed) else UNEXPECTED)


def _program() -> Iterator[Finding]:
    from aiohttp.http_parser import HttpRequestParser

    from streamer import native

    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("program", "python", sys.version_info >= (3, 11), True, f"Python {version}; 3.11 and later will do.")
    compiled = HttpRequestParser.__module__.endswith("_http_parser")
    yield Finding(
        "program",
        "http-parser",
        compiled,
        True,
        "aiohttp has its C parser."
        if compiled
        else "aiohttp lacks its C parser and `streamer serve` refuses to start: install aiohttp from a wheel.",
    )
    yield Finding(
        "program",
        "inner-loop",
        native.available(),
        False,
        "File systems are read by the compiled inner loop."
        if native.available()
        else "The compiled inner loop is missing, and file system exports are several times slower: install streamer "
        "where there is a C compiler (cc).",
    )


def _kernel() -> Iterator[Finding]:
    from streamer.mounts.diagnosis import findings

    for one in findings():
        # Root's stores carry trusted.* marks. An ordinary user can seldom mount, and does most without.
        needed = one.name == "overlay" and os.geteuid() == 0
        yield Finding("kernel", one.name, one.ok, needed, one.follows)


def _privileges() -> Iterator[Finding]:
    effective = _effective()
    for number, name, good, bad in _CAPABILITIES:
        ok = bool(effective >> number & 1)
        yield Finding("privileges", name, ok, False, f"{good[0].upper()}{good[1:]}." if ok else f"Without it, {bad}.")


def _effective() -> int:
    with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    return 0


def _embedded(chosen: Settings) -> Path | None:
    """The embedded store's directory, None where only other stores are named."""
    from streamer.stores import location

    if not chosen.stores:
        return chosen.state.absolute()
    named = [location.parse(item) for item in chosen.stores]
    return next((Path(each.place).absolute() for each in named if each.kind == location.LOCAL), None)


def _state(path: Path) -> Iterator[Finding]:
    present = next(
        each for each in (path, *path.parents) if os.path.exists(each)
    )  # Path.exists would raise where it may not look
    usable = present.is_dir() and os.access(present, os.W_OK | os.X_OK)
    if present == path:
        follows = (
            f"{path} is there and can be written."
            if usable
            else f"{path} cannot be written: choose another with --state."
        )
    elif usable:
        follows = f"{path} is not there yet; the first import makes it."
    else:
        follows = f"{path} cannot be made in {present}: choose another with --state."
    yield Finding("stores", "state", usable, True, follows)
    kind = _file_system(present)
    carries = kind.partition(".")[0] not in _NO_UPPER
    follows = f"It is on {kind}, " + (
        "which can carry containers."
        if carries
        else "which cannot carry an overlay's upper: containers cannot be mounted."
    )
    yield Finding("stores", "file-system", carries, False, follows)
    free = shutil.disk_usage(present).free
    enough = free >= 1 << 30
    yield Finding(
        "stores", "free-space", enough, False, f"{size(free)} are free" + ("." if enough else ": imports may not fit.")
    )


def _file_system(path: Path) -> str:
    """The type of the file system that a directory is on, as the kernel names it."""
    from streamer.mounts import mountinfo

    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    found = (os.fsdecode(each.kind) for each in mountinfo.seen() if each.device == wanted.encode())
    return next(found, "an unknown file system")


def _opened(chosen: Settings) -> Iterator[Finding]:
    """Every store opened, as any command would, and counted."""

    async def command(service: Service) -> list[Finding]:
        lines = []
        for each in service.catalog.stores():
            # A store that was only found on the node is not needed for those that answer.
            needed = each is service.embedded or bool(chosen.stores)
            try:
                images, containers, layers = await each.images(), await each.containers(), await each.layers()
            except StreamerError as error:
                follows = f"{each.name} ({each.location}) cannot be read: {error} (exit code {status(error)})."
                lines.append(Finding("stores", "store", False, needed, follows))
                continue
            counts = f"images {len(images)}, containers {len(containers)}, layers {len(layers)}"
            damaged = [*images.damaged, *containers.damaged, *layers.damaged]
            follows = f"{each.name} ({each.location}) opens; {counts}" + (
                f"; {len(damaged)} cannot be read, the first: {damaged[0].error}" if damaged else "."
            )
            lines.append(Finding("stores", "store", not damaged, needed, follows))
        return lines

    try:
        yield from on(chosen, command)
    except StreamerError as error:
        if isinstance(error, NotFound) and not chosen.stores:
            return  # nothing is here yet, which is no fault
        yield Finding("stores", "store", False, True, f"It cannot be opened: {error} (exit code {status(error)}).")


def _closed() -> Iterator[Finding]:
    """Stores that are on this node and not served to this user."""
    import anyio

    from streamer.discovery import discover
    from streamer.opening import node

    for each, why in anyio.run(discover, node()).closed:
        yield Finding("stores", "store", False, False, f"{each.name} ({each.text}) is not served: {why}.")


def _print(found: Sequence[Finding]) -> None:
    if not sys.stdout.isatty():
        for one in found:
            emit("\t".join((one.group, _word(one), one.name, one.follows)))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for group in dict.fromkeys(one.group for one in found):
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        for one in found:
            if one.group == group:
                style = "green" if one.ok else "bold red" if one.needed else "yellow"
                table.add_row(Text(f"  {_word(one)}", style), Text(one.name), Text(one.follows))
        console.print(Text(group, "bold"))
        console.print(table)
    console.print(Text(_LEGEND, "dim"))


def _word(finding: Finding) -> str:
    return "ok" if finding.ok else "missing" if finding.needed else "no"
