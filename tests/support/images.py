"""Image archives made by hand, for everything that takes images in: docker-archives, OCI archives, OCI layouts.

A layer is the bytes of a tar, made by `layer(...)` from members or by the test itself. Everything is in memory and
deterministic. To break something on purpose, change what `files(...)` gave before it is packed:

    files = oci(image(layer(file("a", b"x"))))
    files["index.json"] = b"{"
    archive = pack(files)
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backports import zstd

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda data: data,
    "gzip": lambda data: gzip.compress(data, 1, mtime=0),
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "zstd": zstd.compress,
}

_SUFFIX = {"none": "", "gzip": "+gzip", "zstd": "+zstd", "bzip2": "", "xz": ""}

_CREATED = "2024-01-02T03:04:05Z"

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def encoded(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# Members and layers

Member = tuple[tarfile.TarInfo, bytes]


def file(name: str, data: bytes = b"", **attributes: Any) -> Member:
    return _member(name, tarfile.REGTYPE, data, attributes)


def directory(name: str, **attributes: Any) -> Member:
    return _member(name, tarfile.DIRTYPE, b"", {"mode": 0o755, **attributes})


def symlink(name: str, target: str, **attributes: Any) -> Member:
    return _member(name, tarfile.SYMTYPE, b"", {"mode": 0o777, "linkname": target, **attributes})


def link(name: str, target: str, **attributes: Any) -> Member:
    return _member(name, tarfile.LNKTYPE, b"", {"linkname": target, **attributes})


def node(name: str, type: bytes = tarfile.CHRTYPE, major: int = 1, minor: int = 3) -> Member:
    return _member(name, type, b"", {"devmajor": major, "devminor": minor})


def whiteout(path: str) -> Member:
    head, slash, tail = path.rpartition("/")
    return file(f"{head}{slash}.wh.{tail}")


def opaque(path: str) -> Member:
    return file(f"{path}/.wh..wh..opq")


def _member(name: str, type: bytes, data: bytes, attributes: Mapping[str, Any]) -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode, info.mtime = type, len(data), 0o644, 1_700_000_000
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, data


def layer(*members: Member, format: int = tarfile.PAX_FORMAT, end: bytes = bytes(1024)) -> bytes:
    """A tar of exactly these members, in this order, names as surrogateescape; `end` is what follows the last one."""
    parts = []
    for info, data in members:
        parts += [info.tobuf(format, "utf-8", "surrogateescape"), data, bytes(-len(data) % 512)]
    return b"".join(parts) + end


# Images


@dataclass
class MadeImage:
    """One image: `layers` are tars, base first. `compression` is that of the blobs in archives."""

    layers: list[bytes]
    names: list[str] = field(default_factory=list)
    compression: str = "none"
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def diff_ids(self) -> list[str]:
        return [sha256(data) for data in self.layers]

    @property
    def data(self) -> bytes:
        """The configuration document; its digest is the image ID."""
        value = {
            "architecture": "amd64",
            "os": "linux",
            "created": _CREATED,
            "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
            "history": [{"created": _CREATED, "created_by": f"layer {n}"} for n in range(len(self.layers))],
        }
        return json.dumps({**value, **self.config}).encode()

    @property
    def id(self) -> str:
        return sha256(self.data)

    def blobs(self) -> list[bytes]:
        return [COMPRESS[self.compression](data) for data in self.layers]


def image(*layers: bytes, names: Iterable[str] = (), compression: str = "none", **config: Any) -> MadeImage:
    return MadeImage(list(layers), list(names), compression, dict(config))


def chain_ids(diff_ids: list[str]) -> list[str]:
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(sha256(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return chain


# Archives, first as files by name, then packed

Files = dict[str, "bytes | Link"]


@dataclass(frozen=True)
class Link:
    """A symlink inside the archive, as old dockers write for a layer that two images share."""

    target: str


def docker(*images: MadeImage) -> Files:
    """As `docker save` up to 24: a directory per layer (later ones a symlink to the first with the same content)."""
    files: Files = {}
    manifest = []
    first: dict[str, str] = {}
    for made in images:
        paths = []
        for number, (diff_id, blob) in enumerate(zip(made.diff_ids, made.blobs(), strict=True)):
            folder = encoded(f"{number} {made.id} {diff_id}".encode())
            path = f"{folder}/layer.tar"
            files[f"{folder}/VERSION"] = b"1.0"
            files[f"{folder}/json"] = json.dumps({"id": folder}).encode()
            files[path] = Link(f"../{first[diff_id]}") if diff_id in first else blob
            first.setdefault(diff_id, path)
            paths.append(path)
        files[f"{encoded(made.data)}.json"] = made.data
        manifest.append({"Config": f"{encoded(made.data)}.json", "RepoTags": made.names or None, "Layers": paths})
    files["manifest.json"] = json.dumps(manifest).encode()
    return files


def oci(*images: MadeImage, nested: bool = False) -> Files:
    """An OCI layout; `nested` puts every manifest behind an index of its own with a platform."""
    files: Files = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}

    def blob(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        files[f"blobs/sha256/{encoded(data)}"] = data
        return {"mediaType": media_type, "digest": sha256(data), "size": len(data), **more}

    listed = []
    for made in images:
        media_type = OCI_LAYER + _SUFFIX[made.compression]
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": blob(made.data, OCI_CONFIG),
            "layers": [blob(data, media_type) for data in made.blobs()],
        }
        descriptor = blob(json.dumps(manifest).encode(), OCI_MANIFEST)
        if nested:
            descriptor["platform"] = {"os": "linux", "architecture": json.loads(made.data)["architecture"]}
            inner = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor]}
            descriptor = blob(json.dumps(inner).encode(), OCI_INDEX)
        for name in made.names or [""]:
            annotations = {"io.containerd.image.name": name} if name else {}
            listed.append({**descriptor, "annotations": annotations} if annotations else descriptor)
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}
    files["index.json"] = json.dumps(index).encode()
    return files


def both(*images: MadeImage) -> Files:
    """As Docker 25 and later: an OCI layout and a manifest.json that points into it."""
    files = oci(*images)
    manifest = []
    for made in images:
        paths = [f"blobs/sha256/{encoded(data)}" for data in made.blobs()]
        config = f"blobs/sha256/{encoded(made.data)}"
        manifest.append({"Config": config, "RepoTags": made.names or None, "Layers": paths})
    files["manifest.json"] = json.dumps(manifest).encode()
    return files


def pack(files: Files, *, compression: str = "none", prefix: str = "", first: Iterable[str] = ()) -> bytes:
    """The files as one tar, sorted by name except that those of `first` come first; directories included."""
    order = [*first, *sorted(name for name in files if name not in set(first))]
    members: list[Member] = []
    seen: set[str] = set()
    for name in order:
        parts = name.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth])
            if folder not in seen:
                seen.add(folder)
                members.append(directory(f"{prefix}{folder}/"))
        content = files[name]
        if isinstance(content, Link):
            members.append(symlink(prefix + name, content.target))
        else:
            members.append(file(prefix + name, content))
    return COMPRESS[compression](layer(*members))


def unpack_to(files: Files, root: Path) -> Path:
    """The files as a directory, for OCI layouts."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Link):
            path.symlink_to(content.target)
        else:
            path.write_bytes(content)
    return root


# Sources


class Bytes:
    """A source that gives at most `most` bytes at a time, and remembers how far it was read."""

    def __init__(self, data: bytes, most: int = 1 << 20) -> None:
        self._file, self._most = io.BytesIO(data), most

    def read(self, n: int) -> bytes:
        return self._file.read(min(n, self._most))


class Broken(Bytes):
    """Fails with `error` after `good` bytes."""

    def __init__(self, data: bytes, good: int, error: BaseException) -> None:
        super().__init__(data[:good])
        self._error = error

    def read(self, n: int) -> bytes:
        data = super().read(n)
        if not data:
            raise self._error
        return data
