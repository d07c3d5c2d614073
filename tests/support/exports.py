"""Whole exports in one call, for tests that are about the bytes and not about the stream."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from streamer.export.exporter import exporter
from streamer.export.plan import ExportPlan
from streamer.mounts.mount import Snapshot
from streamer.stores.base import Container


async def body(plan: ExportPlan) -> bytes:
    """Everything a plan sends, through an exporter of its own."""
    async with exporter() as opened, opened.open(plan) as stream:
        return b"".join([chunk async for chunk in stream])


def container(*layers: bytes | str | Path, below: Sequence[bytes] = (), name: str = "c") -> Container:
    """A container of no store: one directory as it is, or several as an overlay (topmost first) above `below`."""
    directories = tuple(layer if isinstance(layer, bytes) else bytes(Path(layer)) for layer in layers)
    driver = "directory" if len(directories) == 1 and not below else "overlay"
    return Container(
        store="none",
        id=name.encode().hex().ljust(64, "0"),
        name=name,
        image="",
        image_name="",
        created="",
        snapshot=Snapshot(driver, (*directories, *below)),
        parent=Snapshot(driver, tuple(below)) if below else None,
    )
