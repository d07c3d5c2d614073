"""Docker data-roots made by hand: for what no engine would write, and where no engine is needed.

root = DockerRoot(tmp_path / "docker").add(images.image(layer(file("a")), names=["a:1"]))
root.container("web", "a:1", Running=True, Pid=1)
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from support import images
from support.images import MadeImage

from streamer.tar import split


class DockerRoot:
    """A data-root of the graph driver overlay2 below `path`. Layers hold files, directories and symbolic links only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.image = path / "image/overlay2"
        self.layerdb = self.image / "layerdb"
        self.overlay = path / "overlay2"
        self.names = self.image / "repositories.json"
        for each in (self.image / "imagedb/content/sha256", self.layerdb / "sha256", self.overlay / "l"):
            each.mkdir(parents=True)
        (path / "containers").mkdir()
        self._chains: dict[str, str | None] = {}

    def add(self, *made: MadeImage) -> DockerRoot:
        repositories = json.loads(self.names.read_text())["Repositories"] if self.names.exists() else {}
        for each in made:
            self.config(each.id).write_bytes(each.data)
            parent = None
            for chain, diff_id, data in zip(images.chain_ids(each.diff_ids), each.diff_ids, each.layers, strict=True):
                self._layer(chain, diff_id, parent, data)
                parent = chain
            self._chains[each.id] = parent
            for name in each.names:
                repositories.setdefault(name.rpartition(":")[0], {})[name] = each.id
        self.names.write_text(json.dumps({"Repositories": repositories}))
        return self

    def container(self, name: str, made: MadeImage, *files: str, **state: Any) -> str:
        """The ID of a container whose writable directory holds empty files of these names."""
        identity = images.encoded(name.encode())
        mounts = self.layerdb / "mounts" / identity
        mounts.mkdir(parents=True)
        mount = images.encoded(b"mount of " + identity.encode())
        (mounts / "mount-id").write_text(mount)
        (mounts / "init-id").write_text(f"{mount}-init")
        chain = self._chains[made.id]
        if chain is not None:
            (mounts / "parent").write_text(chain)
        self._tree(f"{mount}-init", self.cache(chain) if chain else None)
        diff = self._tree(mount, f"{mount}-init")
        for each in files:
            (diff / each).write_bytes(b"")
        folder = self.path / "containers" / identity
        folder.mkdir()
        self.write_config(
            identity,
            ID=identity,
            Name=f"/{name}",
            Image=made.id,
            Driver="overlay2",
            Created="2024-01-02T03:04:05.6Z",
            Config={"Image": (made.names or [made.id])[0]},
            State={"StartedAt": "2024-01-02T03:04:05.6Z", **state},
        )
        return identity

    def write_config(self, identity: str, **config: Any) -> None:
        path = self.path / "containers" / identity / "config.v2.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**known, **config}))

    def config(self, identity: str) -> Path:
        return self.image / "imagedb/content/sha256" / identity.removeprefix("sha256:")

    def layer(self, chain: str) -> Path:
        return self.layerdb / "sha256" / chain.removeprefix("sha256:")

    def cache(self, chain: str) -> str:
        return (self.layer(chain) / "cache-id").read_text()

    def diff(self, chain: str) -> Path:
        return self.overlay / self.cache(chain) / "diff"

    def _layer(self, chain: str, diff_id: str, parent: str | None, data: bytes) -> None:
        folder = self.layer(chain)
        if folder.exists():
            return
        folder.mkdir()
        cache = images.encoded(b"cache of " + chain.encode())
        (folder / "cache-id").write_text(cache)
        (folder / "diff").write_text(diff_id)
        if parent is not None:
            (folder / "parent").write_text(parent)
        with (folder / "tar-split.json.gz").open("wb") as file:
            writer = split.SplitWriter(file)
            for _ in split.record(io.BytesIO(data), writer, terminated=False):
                pass
            writer.close()
        _unpack(data, self._tree(cache, self.cache(parent) if parent else None))

    def _tree(self, identity: str, below: str | None) -> Path:
        folder = self.overlay / identity
        (folder / "diff").mkdir(parents=True)
        link = hashlib.md5(identity.encode()).hexdigest().upper()[:26]
        (folder / "link").write_text(link)
        (self.overlay / "l" / link).symlink_to(f"../{identity}/diff")
        if below is not None:
            lower = self.overlay / below / "lower"
            further = [lower.read_text()] if lower.exists() else []
            (folder / "lower").write_text(":".join([f"l/{(self.overlay / below / 'link').read_text()}", *further]))
        return folder / "diff"


def _unpack(data: bytes, target: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            path = target / member.name
            if path.name.startswith(".wh."):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if member.isdir():
                path.mkdir(exist_ok=True)
            elif member.issym():
                path.symlink_to(member.linkname)
            else:
                content = archive.extractfile(member)
                path.write_bytes(content.read() if content else b"")
