"""The options of `streamer export`, one line each in its signature. `--help` reads this: nothing heavy is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from streamer.cli import options

_SERVICE = "From a running service"
_STORAGE = "Into object storage"

_LATEST = (1 << 33) - 1
"""The last second that a tar header's octal digits can tell."""


def _seconds(text: str) -> int:
    try:
        seconds = int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number of seconds") from None
    if not 0 <= seconds <= _LATEST:
        raise typer.BadParameter(f"{text!r} is not between 0 and {_LATEST}")
    return seconds


What: TypeAlias = Annotated[
    options.Kind,
    typer.Argument(
        metavar="KIND",
        help="layer: one layer, byte for byte. diff: a container's changes, as a layer. container: its whole file "
        "system. image: one or more saved images. rootfs: an image's flattened file system.",
        show_default=False,
    ),
]

Refs: TypeAlias = Annotated[
    list[str],
    typer.Argument(
        metavar="REF",
        help="A diff ID or chain ID; a container; images by name (without a tag: all tags) or ID.",
        show_default=False,
    ),
]

Profile: TypeAlias = Annotated[
    options.Profile,
    typer.Option(
        metavar="PROFILE", help="docker: as Docker writes archives. full: nanoseconds, every xattr, sparse files."
    ),
]

Include: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Only what matches (dockerignore). May be repeated.", show_default=False),
]

Exclude: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Not what matches (dockerignore). May be repeated.", show_default=False),
]

Mtime: TypeAlias = Annotated[
    int | None,
    typer.Option(
        metavar="SECONDS",
        parser=_seconds,
        help="No modification time later than this, in seconds since the epoch.",
        show_default=False,
    ),
]

Pause: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--pause/--no-pause",
        help="Of a container or diff: its engine pauses the container while it is read, so that no file is half "
        "written. Volumes are not part of an export, and not paused.",
        show_default=False,
    ),
]

Format: TypeAlias = Annotated[
    options.Format | None,
    typer.Option(
        metavar="FORMAT",
        help="Of saved images. oci, the default: OCI layout with manifest.json. docker-legacy: a directory per layer.",
        show_default=False,
    ),
]

Subtree: TypeAlias = Annotated[str | None, typer.Option(metavar="PATH", help="Only this subtree.", show_default=False)]

PartSize: TypeAlias = Annotated[
    int | None,
    typer.Option(
        metavar="MIB",
        min=5,
        max=4000,
        help="Into object storage: MiB that are sent at a time (also STREAMER_PART_SIZE; otherwise 16).",
        show_default=False,
        rich_help_panel=_STORAGE,
    ),
]

Concurrency: TypeAlias = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=64,
        help="Into object storage: parts made and sent at once (also STREAMER_UPLOAD_CONCURRENCY; otherwise 4).",
        show_default=False,
        rich_help_panel=_STORAGE,
    ),
]

DigestFirst: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--digest-first",
        help="Into object storage: read everything once more beforehand, so that the object's metadata has the "
        "digest also where it is not known.",
        rich_help_panel=_STORAGE,
    ),
]

From: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="URL",
        help="Download from the service at http://HOST:PORT, https://HOST:PORT or unix:PATH. Into a FILE, the same "
        "command goes on where an earlier one was broken off; lost connections are tried 8 times in a row. The digest "
        "is checked if the service can tell it.",
        show_default=False,
        rich_help_panel=_SERVICE,
    ),
]

TokenFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Show the service the token in FILE (also STREAMER_TOKEN_FILE).",
        show_default=False,
        readable=False,
        rich_help_panel=_SERVICE,
    ),
]

Authorities: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        metavar="FILE",
        help="Trust these authorities (PEM) instead of the system's.",
        show_default=False,
        readable=False,
        rich_help_panel=_SERVICE,
    ),
]

Certificate: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Show the service this certificate (PEM, with its key).",
        show_default=False,
        readable=False,
        rich_help_panel=_SERVICE,
    ),
]

Jobs: TypeAlias = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=16,
        help="Download so many parts of a FILE at once. Without it, one.",
        show_default=False,
        rich_help_panel=_SERVICE,
    ),
]

When: TypeAlias = Annotated[
    Literal["auto", "known", "unknown"] | None,
    typer.Option(
        metavar="WHEN",
        help="known: learn the length first, also of a running container (whose download still cannot be resumed). "
        "unknown: begin at once. auto, the default: known for all that stands still.",
        show_default=False,
        rich_help_panel=_SERVICE,
    ),
]

Unverified: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--no-verify",
        help="Do not ask the service for the digest of what was downloaded, which it may have to read once more.",
        rich_help_panel=_SERVICE,
    ),
]
