"""Stores in the layout of containers/storage, made by hand: to be broken, and for what no engine at hand makes."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import images
from support.unpacking import filtered

from streamer.stores.containers_storage.places import big_data
from streamer.tar import split

CREATED = "2024-01-02T03:04:05.678Z"


@dataclass
class Handmade:
    """`layers`, `images`, `containers` are what `save` writes into the lists; change them as a test needs it."""

    root: Path
    driver: str = "overlay"
    layers: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    containers: list[dict[str, Any]] = field(default_factory=list)

    def image(self, made: images.MadeImage, *names: str) -> str:
        """Adds an image with its layers and files; the ID of the store for it (hex digits)."""
        below = None
        for data in made.layers:
            below = self.layer(data, below)
        identity = images.encoded(made.data)
        manifest = {
            "schemaVersion": 2,
            "mediaType": images.OCI_MANIFEST,
            "config": {"mediaType": images.OCI_CONFIG, "digest": made.id, "size": len(made.data)},
            "layers": [],
        }
        data = json.dumps(manifest).encode()
        documents = {made.id: made.data, "manifest": data, f"manifest-{images.sha256(data)}": data}
        self.images.append(
            {
                "id": identity,
                "digest": images.sha256(data),
                "names": list(names),
                "layer": below,
                "big-data-names": list(documents),
                "created": CREATED,
            }
        )
        for key, content in documents.items():
            self._write(f"{self.driver}-images/{identity}/{big_data(key)}", content)
        return identity

    def layer(self, data: bytes, below: str | None) -> str:
        """Adds a layer, unless it is there; its ID."""
        diff = images.encoded(data)
        identity = diff if below is None else images.encoded(f"{below}+{diff}".encode())
        if any(each["id"] == identity for each in self.layers):
            return identity
        item = {"id": identity, "created": CREATED, "diff-digest": f"sha256:{diff}", "diff-size": len(data)}
        self.layers.append({**item, "parent": below} if below else item)
        folder = self.tree(identity)
        folder.mkdir(parents=True)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            members = [each for each in archive if ".wh." not in each.name]
            archive.extractall(folder, members, **filtered("fully_trusted"))
        recorded = io.BytesIO()
        writer = split.SplitWriter(recorded)
        for _ in split.record(images.Bytes(data), writer):
            pass
        writer.close()
        self._write(f"{self.driver}-layers/{identity}.tar-split.gz", recorded.getvalue())
        return identity

    def container(self, name: str, image: str, **more: Any) -> str:
        """Adds a container of an image with its layer; its ID."""
        identity = images.encoded(f"container {name}".encode())
        layer = images.encoded(f"layer of {name}".encode())
        found = next(each for each in self.images if each["id"] == image)
        self.layers.append({"id": layer, "created": CREATED, "parent": found["layer"], "names": [f"{name}-layer"]})
        self.tree(layer).mkdir(parents=True)
        metadata = json.dumps({"image-name": found["names"][0] if found["names"] else image, "name": name})
        item = {"id": identity, "names": [name], "image": image, "layer": layer, "metadata": metadata}
        self.containers.append({**item, "created": CREATED, **more})
        return identity

    def tree(self, layer: str) -> Path:
        """Where the files of a layer are."""
        return self.root / f"vfs/dir/{layer}" if self.driver == "vfs" else self.root / self.driver / layer / "diff"

    def save(self) -> Path:
        """Writes the lists; the graph root."""
        for kind in ("layers", "images", "containers"):
            data = json.dumps(getattr(self, kind)).encode()
            self._write(f"{self.driver}-{kind}/{kind}.json", data)
            self._write(f"{self.driver}-{kind}/{kind}.lock", b"")
        return self.root

    def _write(self, relative: str, data: bytes) -> None:
        path = self.root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_bytes(data)
        fresh.rename(path)
