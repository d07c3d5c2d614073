"""Options that several commands share, declared once. Nothing heavy is imported here: `--help` reads this.

Paths are `readable=False`: typer then leaves it to whoever opens the file to say why it cannot be read, as of one that
the environment names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

State: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="DIR",
        help="Where the embedded store lives (also STREAMER_STATE; otherwise /var/lib/streamer for root, "
        "~/.local/share/streamer for others).",
        show_default=False,
        readable=False,
        rich_help_panel="Stores",
    ),
]

Config: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Settings in TOML (also STREAMER_CONFIG; otherwise /etc/streamer/streamer.toml, if it is there). The "
        "environment wins over it, and flags over both; see `streamer config`.",
        show_default=False,
        readable=False,
        rich_help_panel="Settings",
    ),
]

Stores: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--store",
        metavar="NAME=KIND:LOCATION",
        help="A store to work with, instead of the one at --state and those of the engines found on this node; may be "
        "repeated. KIND:LOCATION is local:DIR, docker:DATAROOT[+SOCKET], containers-storage:GRAPHROOT[+RUNROOT], "
        "containerd:SOCKET or containerd:SOCKET#NAMESPACE, or oci-layout:DIR.",
        show_default=False,
        rich_help_panel="Stores",
    ),
]

FromStore: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--from-store",
        metavar="NAME",
        help="Look only in this one of the stores.",
        show_default=False,
        rich_help_panel="Stores",
    ),
]

Json: TypeAlias = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]

ContainerName: TypeAlias = Annotated[
    str, typer.Argument(metavar="CONTAINER", help="Name, ID, or a unique prefix of an ID.", show_default=False)
]

ImageName: TypeAlias = Annotated[
    str, typer.Argument(metavar="IMAGE", help="Name, ID, or a unique prefix of an ID.", show_default=False)
]

# The values of the enumerations in export.plan, export.image, tar.compression and stores.local; a test compares them.
# Importing those here would load every compressor for a `--help`.
Kind: TypeAlias = Literal["layer", "diff", "container", "image", "rootfs"]
Compression: TypeAlias = Literal["none", "gzip", "bzip2", "xz", "zstd"]
Profile: TypeAlias = Literal["docker", "full"]
Format: TypeAlias = Literal["oci", "docker-legacy"]
Owner: TypeAlias = Literal["keep", "root"]
ImportFormat: TypeAlias = Literal["auto", "docker-archive", "oci", "rootfs"]

Output: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE|-|URI",
        help="Where to write: a FILE, or an object as s3://BUCKET/KEY, gs://BUCKET/KEY, az://CONTAINER/KEY. Either "
        "appears only when it is complete. Without it, standard output.",
        show_default=False,
    ),
]

Method: TypeAlias = Annotated[
    Compression | None,
    typer.Option(
        metavar="METHOD",
        help="none, gzip, bzip2, xz or zstd. Without it, what the FILE's name says (.gz, .tgz, .zst …), else none.",
        show_default=False,
    ),
]

NoOverwrite: TypeAlias = Annotated[
    bool,
    typer.Option("--no-overwrite", help="Fail (exit code 4) if the FILE or object exists, instead of replacing it."),
]

CONTEXT = (
    "A directory, without what its .dockerignore leaves out; a git repository as URL#REF:SUBDIR; the URL of an archive "
    "or of a Dockerfile; or - for standard input: an archive in any compression, or a bare Dockerfile."
)
"""What a build context can be, for the help of those who take one."""
