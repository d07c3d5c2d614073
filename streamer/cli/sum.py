"""`streamer sum`: the TarSum of an archive in a file or on standard input."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from streamer.cli.complain import printable
from streamer.cli.emit import emit
from streamer.cli.options import Json
from streamer.cli.running import alone

if TYPE_CHECKING:
    from streamer.tar.source import Source
    from streamer.tar.sum import Sums, Version

_READ = 1 << 20


def sum(
    context: typer.Context,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="A tar archive, compressed or not; - is standard input.", show_default=False
        ),
    ],
    version: Annotated[
        Literal["tarsum", "tarsum.v1", "tarsum.dev"],
        typer.Option(help="Which TarSum: `tarsum` counts times of modification, the others extended attributes."),
    ] = "tarsum.v1",
    algorithm: Annotated[str, typer.Option(metavar="NAME", help="Any digest that Python's hashlib knows.")] = "sha256",
    files: Annotated[bool, typer.Option("--files", help="The sum of each member as well, in their order.")] = False,
    as_json: Json = False,
) -> None:
    """Print an archive's TarSum: the same for the same files, whatever their order and compression.

    Of a compressed archive it is the sum of what is inside.
    """
    from streamer.tar.sum import Version, check_algorithm

    check_algorithm(algorithm)
    sums = alone(context, partial(_read, file, Version(version), algorithm))
    if as_json:
        members = [
            {"name": printable(each.name.decode("utf-8", "surrogateescape")), "sum": each.sum} for each in sums.files
        ]
        emit(json.dumps({"sum": sums.sum(), **({"files": members} if files else {})}, indent=2))
        return
    emit(sums.sum())
    if files:
        for each in sums.files:
            emit(f"{each.sum}  {printable(each.name.decode('utf-8', 'surrogateescape'))}")


async def _read(file: str, version: Version, algorithm: str) -> Sums:
    import anyio.to_thread

    from streamer.cli.importing import about
    from streamer.cli.progress import progress
    from streamer.cli.source import source, stopping
    from streamer.errors import InvalidRequest

    with source(file) as opened:
        if isinstance(opened, Path):
            raise InvalidRequest(f"{file} is a directory: name an archive")
        with progress(file, opened.size) as advance:
            async with stopping(opened):
                with about(file):
                    return await anyio.to_thread.run_sync(summed, _Counted(opened, advance), version, algorithm)


def summed(archive: Source, version: Version, algorithm: str) -> Sums:
    """The sums of a whole archive, whatever its compression. InvalidArchive, LimitExceeded, Unsupported."""
    from streamer.tar.compression import decompressed
    from streamer.tar.source import Limits
    from streamer.tar.sum import Summing

    _, plain = decompressed(archive, limits=Limits())
    summing = Summing(plain, version, algorithm)
    while summing.read(_READ):
        pass
    return summing.sums


class _Counted:
    """A source that tells how many bytes were read of it so far."""

    def __init__(self, source: Source, advance: Callable[[int], None]) -> None:
        self._source, self._advance, self._count = source, advance, 0

    def read(self, size: int, /) -> bytes:
        part = self._source.read(size)
        self._count += len(part)
        self._advance(self._count)
        return part
