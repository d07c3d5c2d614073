"""`docker-legacy`: the archive that `docker save` wrote up to version 24, a directory per layer.

`<config>.json`, and for each layer `<v1 ID>/` with `VERSION`, `json` and `layer.tar`; then `manifest.json` and
`repositories`. The v1 ID is the digest of the layer's v1 configuration with its chain ID and its parent's v1 ID.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from streamer.errors import Unsupported
from streamer.export.saved import Saved, Selected, Sizes, created_ns, directory, document, layer_file, link
from streamer.oci import digest as digests
from streamer.oci import document as documents
from streamer.oci.manifest import SavedImage
from streamer.stores.base import Layer

_EPOCH = "1970-01-01T00:00:00Z"
_NO_CONFIG: dict[str, Any] = {
    "Hostname": "",
    "Domainname": "",
    "User": "",
    "AttachStdin": False,
    "AttachStdout": False,
    "AttachStderr": False,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Env": None,
    "Cmd": None,
    "Image": "",
    "Volumes": None,
    "WorkingDir": "",
    "Entrypoint": None,
    "OnBuild": None,
    "Labels": None,
}
_V1_FIELDS = (
    "comment",
    "created",
    "container",
    "container_config",
    "docker_version",
    "author",
    "config",
    "architecture",
    "variant",
    "os",
)


def tars(images: Iterable[Selected]) -> list[Layer]:
    """The layers whose tars the archive holds: all of them."""
    return [layer for item in images for layer in item.image.layers]


def members(images: Sequence[Selected], sizes: Sizes) -> list[Saved]:
    """Every member in order; `sizes` has the lengths of `tars`. Unsupported for an image without layers, which this
    format cannot express."""
    saved: list[Saved] = []
    written: set[str] = set()
    tars: dict[str, str] = {}
    items: list[SavedImage] = []
    repositories: dict[str, dict[str, str]] = {}
    for item in images:
        image, when = item.image, created_ns(item.image)
        if not image.layers:
            raise Unsupported(f"cannot save image {digests.short(image.id)} as docker-legacy: it has no layers")
        parent = ""
        paths = []
        for position, layer in enumerate(image.layers):
            top = position == len(image.layers) - 1
            v1 = _v1(image.config.value if top else None)
            parent_id, parent = parent, _v1_id(v1, layer.chain_id, parent)
            path = f"{parent}/layer.tar"
            paths.append(path)
            if parent in written:
                continue
            written.add(parent)
            saved.append(directory(f"{parent}/", when))
            saved.append(document(f"{parent}/VERSION", b"1.0", when))
            saved.append(
                document(
                    f"{parent}/json",
                    _sorted({**v1, "id": parent, **({"parent": parent_id} if parent_id else {}), "os": "linux"}),
                    when,
                )
            )
            known = tars.setdefault(layer.diff_id, path)
            if known == path:
                saved.append(layer_file(path, layer, sizes.get(layer.diff_id, 0), when))
            else:
                saved.append(link(path, f"../{known}", when))
        config = f"{digests.encoded(image.id)}.json"
        saved.append(document(config, image.config.data, when))
        for tag in item.tags:
            repositories.setdefault(tag.familiar_repository, {})[tag.tag or "latest"] = parent
        items.append(SavedImage(config, tuple(paths), tuple(tag.familiar for tag in item.tags)))
    saved.append(document("manifest.json", documents.dumps([each.value() for each in items]) + b"\n"))
    if repositories:
        saved.append(document("repositories", documents.dumps(repositories) + b"\n"))
    return saved


def _v1(config: dict[str, Any] | None) -> dict[str, Any]:
    """A v1 image configuration: the top layer carries the image's own, those below it an empty one."""
    if config is None:
        return {"created": _EPOCH, "container_config": _NO_CONFIG}
    v1 = {key: config[key] for key in _V1_FIELDS if config.get(key) not in (None, "")}
    v1.setdefault("container_config", _NO_CONFIG)
    v1.setdefault("created", _EPOCH)
    return v1


def _v1_id(v1: dict[str, Any], chain_id: str, parent: str) -> str:
    value = {**v1, "layer_id": chain_id}
    if parent:
        value["parent"] = f"sha256:{parent}"
    return digests.encoded(digests.digest(_sorted(value)))


def _sorted(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
