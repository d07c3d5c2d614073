"""A store in memory over directories on disk: real snapshots, nothing else. For tests that are not about a store."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from streamer.errors import NotFound
from streamer.mounts.mount import Snapshot
from streamer.oci.reference import Reference
from streamer.stores.base import Container, Image, Layer, Listing


@dataclass
class DirectoryStore:
    name: str = "memory"
    location: str = "memory:"
    kept: list[Container] = field(default_factory=list)

    def add(self, name: str, upper: Path, *lowers: Path) -> Container:
        """A container over directories, topmost first."""
        below = tuple(bytes(lower) for lower in lowers)
        container = Container(
            store=self.name,
            id=(name.encode().hex() + "0" * 64)[:64],
            name=name,
            image="sha256:" + "0" * 64,
            image_name="image",
            created="2026-01-01T00:00:00Z",
            snapshot=Snapshot("overlay", below, upper=bytes(upper)),
            parent=Snapshot("overlay", below) if below else None,
        )
        self.kept.append(container)
        return container

    async def containers(self) -> Listing[Container]:
        return Listing(tuple(self.kept))

    async def images(self) -> Listing[Image]:
        return Listing(())

    async def layers(self) -> Listing[Layer]:
        return Listing(())

    async def named(self, repository: str) -> list[tuple[Reference, Image]]:
        return []

    async def container(self, reference: str) -> Container:
        for container in self.kept:
            if reference in (container.name, container.id):
                return container
        raise NotFound(f"there is no container {reference!r}")

    async def image(self, reference: str) -> Image:
        raise NotFound(f"there is no image {reference!r}")

    async def layer(self, digest: str) -> Layer:
        raise NotFound(f"there is no layer {digest!r}")
