"""An OCI layout, some of its layers compressed, with the contract's images; it has no containers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import images

from streamer.stores.base import Store
from streamer.stores.oci_layout.store import oci_layout

Remove = Callable[[str], Awaitable[object]]


@contextlib.asynccontextmanager
async def factory(folder: Path, request: pytest.FixtureRequest) -> AsyncIterator[tuple[Store, Remove]]:
    compressions = ("none", "gzip", "zstd")
    made = [
        replace(each, compression=compressions[number % len(compressions)])
        for number, each in enumerate(request.module.IMAGES)
    ]
    root = images.unpack_to(images.oci(*made), folder / "layout")

    async def remove(identity: str) -> None:
        erase(root, identity)

    yield oci_layout("layout", root), remove


def erase(root: Path, identity: str) -> None:
    """Takes an image out of `index.json`, and away what no other image needs."""
    index = json.loads((root / "index.json").read_bytes())
    kept = [each for each in index["manifests"] if _blob(root, each)["config"]["digest"] != identity]
    (root / "index.json").write_text(json.dumps({**index, "manifests": kept}))
    needed = set()
    for each in kept:
        manifest = _blob(root, each)
        needed |= {part["digest"] for part in (each, manifest["config"], *manifest["layers"])}
    for path in (root / "blobs").glob("*/*"):
        if f"{path.parent.name}:{path.name}" not in needed:
            path.unlink()


def _blob(root: Path, descriptor: dict[str, Any]) -> Any:
    return json.loads((root / "blobs" / descriptor["digest"].replace(":", "/")).read_bytes())
