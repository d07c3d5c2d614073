"""One reading of a containerd as `stores.index.Index`: names, images, containers and layers by their IDs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from streamer.errors import InvalidReference, NotFound, StoreDamaged, StreamerError
from streamer.oci import digest as digests
from streamer.oci import media
from streamer.oci import reference as references
from streamer.oci.descriptor import Descriptor
from streamer.oci.reference import Reference
from streamer.stores import base
from streamer.stores.containerd import containers as own
from streamer.stores.containerd import layers as layer_records
from streamer.stores.containerd.api.containers_pb2 import Container
from streamer.stores.containerd.api.images_pb2 import Image
from streamer.stores.containerd.engine import Engine
from streamer.stores.containerd.layers import Place
from streamer.stores.containerd.listing import Listing
from streamer.stores.containerd.platforms import Broken, Platform, platforms

_DANGLING = "moby-dangling@"
"""What dockerd names an image whose names were all given to others."""
_WITHOUT_TASK = "created"


class ContainerdIndex:
    """See `stores.index.Index`. Everything is read when it is made, but the containers' mounts."""

    def __init__(self, engine: Engine, listing: Listing) -> None:
        self._engine = engine
        self._listing = listing
        self._platforms: dict[str, list[Platform]] = {}
        self._broken: dict[str, StreamerError] = {}
        self._names: dict[Reference, list[str]] = {}
        self._aliases: dict[str, list[str]] = {}
        self._by_name: dict[str, list[str]] = {}
        self._layers: dict[str, tuple[str, str]] = {}
        self._blobs: dict[str, list[Descriptor]] = {}
        self._tops: dict[str, list[str]] = {}
        for image in listing.images:
            self._add(image)
        self._tagged: dict[str, list[Reference]] = {}
        for name, identities in self._names.items():
            for identity in identities if name.tag and not name.digest else ():
                self._tagged.setdefault(identity, []).append(name)
        self._containers = {each.id: each for each in sorted(listing.containers, key=self._order) if each.snapshot_key}

    @property
    def names(self) -> Mapping[Reference, Collection[str]]:
        return self._names

    @property
    def images(self) -> Collection[str]:
        return {**self._platforms, **self._broken}.keys()

    @property
    def broken(self) -> Collection[str]:
        """Those of the images that cannot be read."""
        return self._broken.keys()

    @property
    def aliases(self) -> Mapping[str, Collection[str]]:
        return self._aliases

    @property
    def containers(self) -> Mapping[str, Collection[str]]:
        return {identity: own.names(each.labels) or (identity,) for identity, each in self._containers.items()}

    @property
    def layers(self) -> Mapping[str, str]:
        return {chain_id: diff_id for chain_id, (diff_id, _) in self._layers.items()}

    def image(self, identity: str) -> base.Image:
        if identity not in self._platforms:
            raise self._broken[identity]
        # Of several manifests of one configuration the first whose blobs are all there.
        found = sorted(self._platforms[identity], key=lambda each: not self._complete(each))[0]
        return base.Image(
            store=self._engine.store,
            config=found.config,
            names=tuple(self._tagged.get(identity, ())),
            layers=tuple(
                self._layer(chain_id, self._described(descriptor))
                for chain_id, descriptor in zip(
                    digests.chain_ids(found.config.diff_ids), found.manifest.layers, strict=True
                )
            ),
            manifest=found.data if self._complete(found) else None,
        )

    def container(self, identity: str) -> base.Container:
        found = self._containers[identity]
        status = self._listing.statuses.get(identity, _WITHOUT_TASK)
        return own.record(self._engine, found, status, self._image_of(found))

    def layer(self, chain_id: str) -> base.Layer:
        return self._layer(chain_id, None)

    # Images

    def _add(self, image: Image) -> None:
        target = Descriptor(image.target.media_type, image.target.digest, image.target.size)
        what = f"image {image.name[:300]!r} of store {self._engine.store}"
        if not digests.is_digest(target.digest):
            return  # containerd itself refuses these
        found = platforms(target, self._document, what)
        for each in found:
            if isinstance(each, Broken):
                self._broken[each.digest] = each.error
            else:
                self._add_platform(each)
        identities = [each.config.id if isinstance(each, Platform) else each.digest for each in found]
        if not found:
            identities = self._absent(target, what)
        self._by_name[image.name] = _united(identities)
        self._alias(target.digest, found)
        self._add_names(image.name, target, identities, found)

    def _absent(self, target: Descriptor, what: str) -> list[str]:
        """An image of which nothing can be read is told as such, unless it is there and no image at all."""
        if target.digest in self._listing.blobs and target.media_type not in media.INDEXES:
            return []
        error = StoreDamaged(f"{what} has no manifest and configuration in the content store, for no platform")
        self._broken[target.digest] = error
        return [target.digest]

    def _add_platform(self, platform: Platform) -> None:
        config = platform.config
        known = self._platforms.setdefault(config.id, [])
        if all(each.digest != platform.digest for each in known):
            known.append(platform)
        self._add_alias(platform.digest, config.id)
        below = ""
        for chain_id, diff_id, blob in zip(
            digests.chain_ids(config.diff_ids), config.diff_ids, platform.manifest.layers, strict=True
        ):
            self._layers[chain_id] = (diff_id, below)
            candidates = self._blobs.setdefault(diff_id, [])
            if self._usable(blob) and blob not in candidates:
                candidates.append(blob)
            below = chain_id
        tops = self._tops.setdefault(below, [])
        if config.id not in tops:
            tops.append(config.id)

    def _alias(self, digest: str, found: Iterable[Platform | Broken]) -> None:
        """An index means the image for this machine, where it has one."""
        images = [each for each in found if isinstance(each, Platform)]
        for each in [each for each in images if each.own] or images:
            self._add_alias(digest, each.config.id)

    def _add_alias(self, digest: str, identity: str) -> None:
        known = self._aliases.setdefault(digest, [])
        if identity not in known and digest != identity:
            known.append(identity)

    def _add_names(
        self, text: str, target: Descriptor, identities: Iterable[str], found: Iterable[Platform | Broken]
    ) -> None:
        # Kubernetes gives images a further name that is their ID.
        if text.startswith(_DANGLING) or digests.is_digest(text) or not identities:
            return
        try:
            name = references.parse(text)
        except InvalidReference:
            return  # containerd takes any text for a name
        self._names[name] = _united([*self._names.get(name, ()), *identities])
        for digest, ids in [
            (target.digest, identities),
            *((each.digest, [each.config.id]) for each in found if isinstance(each, Platform)),
        ]:
            pinned = Reference(name.repository, None, digest)
            self._names[pinned] = _united([*self._names.get(pinned, ()), *ids])

    def _document(self, digest: str, limit: int, what: str) -> bytes:
        if digest not in self._listing.blobs:
            raise NotFound(f"blob {digest} of {what} is not in the content store")
        return self._engine.content.document(digest, limit, what)

    # Layers

    def _layer(self, chain_id: str, blob: Descriptor | None) -> base.Layer:
        """With that blob of several that have its content."""
        diff_id, parent = self._layers[chain_id]
        if blob is None:
            # An uncompressed one has the length of the tar.
            blob = min(self._blobs[diff_id], key=lambda each: each.digest != diff_id, default=None)
        snapshotter = self._listing.unpacked(chain_id)
        place = Place(snapshotter, chain_id, parent) if snapshotter is not None else None
        return layer_records.record(self._engine, diff_id, chain_id, blob, place)

    def _described(self, blob: Descriptor) -> Descriptor | None:
        return blob if self._usable(blob) else None

    def _usable(self, blob: Descriptor) -> bool:
        """Whether the blob is there, and an archive: it may have been discarded once unpacked, or never pulled."""
        kind = blob.media_type
        return self._listing.blobs.get(blob.digest) == blob.size and "tar" in kind and "encrypted" not in kind

    def _complete(self, platform: Platform) -> bool:
        return all(self._usable(blob) for blob in platform.manifest.layers)

    # Containers

    def _order(self, container: Container) -> tuple[bool, int, int, str]:
        """Names of Kubernetes' containers are given again after a restart: running ones first, then the newest."""
        running = self._listing.statuses.get(container.id) in ("running", "paused", "pausing")
        return not running, -container.created_at.seconds, -container.created_at.nanos, container.id

    def _image_of(self, container: Container) -> str:
        """The image that has the container's name for it and, since names move, the layers that it stands on."""
        named = self._by_name.get(container.image, [])
        known = self._listing.snapshots.get(container.snapshotter, {})
        key = container.snapshot_key
        seen: set[str] = set()
        while key in known and key not in self._layers and key not in seen:
            seen.add(key)
            key = known[key].parent
        standing = self._tops.get(key, [])
        both = [identity for identity in named if identity in standing]
        return next(iter([*both, *standing]), "")


def _united(identities: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(identities))
