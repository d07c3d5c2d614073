"""Steps: the image of one instruction, decided but not made, and what history tells of COPY and ADD."""

from __future__ import annotations

from dataclasses import dataclass

from streamer.build import changes, keys
from streamer.build.instruction import Add, Copy
from streamer.build.runtime import Runtime
from streamer.stores.base import Image


@dataclass(frozen=True, slots=True)
class Step:
    """The image of one instruction, decided: on `parent` (None: nothing), with this configuration, under this key."""

    parent: Image | None
    runtime: Runtime
    created_by: str
    author: str
    key: str


def decided(parent: Image | None, runtime: Runtime, created_by: str, author: str = "", files: str = "") -> Step:
    """The step on `parent`, whose ID goes into the configuration; `files` is what else decides about its files."""
    identity = parent.id if parent is not None else None
    config = runtime.having(Image=identity or "")
    return Step(parent, config, created_by, author, keys.key(identity, config, created_by, author, files))


def text(given: Copy | Add, runtime: Runtime, chown: str, hash: str) -> str:
    """What history says of an expanded COPY or ADD; `chown` is how it tells of the owner, empty without one."""
    name = "COPY" if isinstance(given, Copy) else "ADD"
    chmod = f"--chmod={given.chmod} " if given.chmod else ""
    return changes.made(runtime, f"{name} {chown}{chmod}{hash} in {given.destination} ")
