"""OCI layouts made by hand, whatever may be in them; `images.oci` is for those that are as most are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from support.images import COMPRESS, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, MadeImage

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
REF_NAME = "org.opencontainers.image.ref.name"
IMAGE_NAME = "io.containerd.image.name"


class Layout:
    """Blobs are written as they are made, `index.json` by `index`. `algorithm` is that of every digest."""

    def __init__(self, root: Path, algorithm: str = "sha256") -> None:
        self.root, self.algorithm = root, algorithm
        (root / "blobs" / algorithm).mkdir(parents=True)
        (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def path(self, descriptor: dict[str, Any]) -> Path:
        return self.root / "blobs" / str(descriptor["digest"]).replace(":", "/")

    def blob(self, data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        digest = f"{self.algorithm}:{hashlib.new(self.algorithm, data).hexdigest()}"
        made = {"mediaType": media_type, "digest": digest, "size": len(data), **more}
        self.path(made).write_bytes(data)
        return made

    def document(self, value: dict[str, Any], media_type: str, **more: Any) -> dict[str, Any]:
        return self.blob(
            json.dumps({"schemaVersion": 2, "mediaType": media_type, **value}).encode(), media_type, **more
        )

    def layers(self, made: MadeImage, media_type: str = OCI_LAYER) -> list[dict[str, Any]]:
        return [self.blob(COMPRESS[made.compression](data), f"{media_type}+{made.compression}") for data in made.layers]

    def image(
        self,
        made: MadeImage,
        media_type: str = OCI_MANIFEST,
        *,
        config_type: str = OCI_CONFIG,
        layers: list[dict[str, Any]] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """An image's manifest; `more` goes into its descriptor."""
        parts = layers if layers is not None else self.layers(made)
        value = {"config": self.blob(made.data, config_type), "layers": parts}
        return self.document(value, media_type, **more)

    def nested(self, *manifests: dict[str, Any], media_type: str = OCI_INDEX, **more: Any) -> dict[str, Any]:
        return self.document({"manifests": list(manifests)}, media_type, **more)

    def index(self, *manifests: Any, **more: Any) -> None:
        value = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(manifests), **more}
        (self.root / "index.json").write_text(json.dumps(value))


def tag(name: str) -> dict[str, str]:
    return {REF_NAME: name}


def platform(architecture: str, system: str = "linux") -> dict[str, str]:
    return {"os": system, "architecture": architecture}
