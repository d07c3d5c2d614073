"""What one reading makes of names, platforms, blobs and containers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, cast

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from support import images
from support.images import Files, MadeImage, file, layer, sha256

from streamer.errors import Ambiguous, NotFound, StoreDamaged, Unsupported
from streamer.oci import config as configs
from streamer.stores.containerd.api.containers_pb2 import Container
from streamer.stores.containerd.api.images_pb2 import Image
from streamer.stores.containerd.api.snapshots_pb2 import ACTIVE, COMMITTED, Info
from streamer.stores.containerd.api.types_pb2 import Descriptor
from streamer.stores.containerd.engine import Engine
from streamer.stores.containerd.index import ContainerdIndex
from streamer.stores.containerd.listing import Listing
from streamer.stores.index import IndexedStore

MACHINE = configs.machine()
OTHER_MACHINE = "s390x"
BLOBS = "blobs/sha256/"


def made(text: str, *names: str, **options: Any) -> MadeImage:
    return images.image(layer(file("base")), layer(file(text)), names=names, **{"architecture": MACHINE, **options})


class Held:
    """A content store as a dictionary."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.images: list[Image] = []

    def add(self, files: Files, *names: str, without: Iterable[str] = ()) -> str:
        """The images of an OCI layout under these names, all but some blobs; the digest that they point at."""
        for path, data in files.items():
            if path.startswith(BLOBS) and path.removeprefix(BLOBS) not in [each[7:] for each in without]:
                self.blobs["sha256:" + path.removeprefix(BLOBS)] = cast("bytes", data)
        (entry,) = {
            each["digest"]: each for each in json.loads(cast("bytes", files["index.json"]))["manifests"]
        }.values()
        self.point(entry["digest"], entry["mediaType"], *names)
        return str(entry["digest"])

    def point(self, digest: str, media_type: str, *names: str) -> None:
        self.images += [
            Image(name=name, target=Descriptor(media_type=media_type, digest=digest, size=1)) for name in names
        ]

    def put(self, value: Any) -> dict[str, Any]:
        data = json.dumps(value).encode()
        self.blobs[sha256(data)] = data
        return {"mediaType": value.get("mediaType", ""), "digest": sha256(data), "size": len(data)}

    def several(self, *platforms: MadeImage, names: Iterable[str], without: Iterable[MadeImage] = ()) -> str:
        """One index of several images, some of whose blobs are not there."""
        entries = []
        for each in platforms:
            files = images.oci(each)
            (entry,) = json.loads(cast("bytes", files["index.json"]))["manifests"]
            entries.append({key: entry[key] for key in ("mediaType", "digest", "size")})
            if each not in without:
                self.add(files)
        index = self.put({"schemaVersion": 2, "mediaType": images.OCI_INDEX, "manifests": entries})
        self.point(index["digest"], images.OCI_INDEX, *names)
        return str(index["digest"])

    def document(self, digest: str, limit: int, what: str) -> bytes:
        return self.blobs[digest]

    def index(
        self,
        *,
        containers: Iterable[Container] = (),
        snapshots: Mapping[str, Mapping[str, Info]] | None = None,
        statuses: Mapping[str, str] | None = None,
    ) -> ContainerdIndex:
        sizes = {digest: len(data) for digest, data in self.blobs.items()}
        engine = Engine("s", "/s", "n", cast("Any", None), cast("Any", self), cast("Any", None))
        return ContainerdIndex(
            engine, Listing(self.images, sizes, snapshots or {}, list(containers), dict(statuses or {}))
        )

    def store(self, **more: Any) -> IndexedStore:
        async def read() -> ContainerdIndex:
            return self.index(**more)

        return IndexedStore("s", "containerd:/s#n", read)


@pytest.fixture
def held() -> Held:
    return Held()


def committed(image: MadeImage) -> dict[str, Info]:
    chain = images.chain_ids(image.diff_ids)
    return {key: Info(name=key, parent=below, kind=COMMITTED) for key, below in zip(chain, ["", *chain], strict=False)}


# Names


async def test_names(held: Held) -> None:
    image = made("x")
    digest = held.add(
        images.oci(image),
        "docker.io/shop/tool:1",
        f"docker.io/shop/tool@{sha256(b'somebody says so')}",
        image.id,
        "moby-dangling@" + sha256(b"x"),
        "any text / at ALL",
        "",
    )
    store = held.store()
    found = await store.image("shop/tool:1")
    assert [name.familiar for name in found.names] == ["shop/tool:1"]
    for text in (digest, digest[7:], image.id, f"shop/tool@{digest}", f"shop/tool:1@{digest}"):
        assert (await store.image(text)).id == image.id
    with pytest.raises(NotFound):
        await store.image("moby-dangling")
    assert len(await store.images()) == 1


async def test_an_image_for_several_platforms(held: Held) -> None:
    other, own = made("other", architecture=OTHER_MACHINE), made("own")
    index = held.several(other, own, names=["docker.io/library/x:1"])
    store = held.store()
    for text in ("x:1", index, f"x@{index}"):
        assert (await store.image(text)).id == own.id
    assert {image.id for image in await store.images()} == {own.id, other.id}
    assert [name.familiar for name in (await store.image(other.id)).names] == ["x:1"]


async def test_an_index_for_other_machines_only(held: Held) -> None:
    one, two = made("1", architecture=OTHER_MACHINE), made("2", architecture="ppc64le")
    index = held.several(one, two, names=["docker.io/library/x:1"])
    store = held.store()
    assert (await store.image("x:1")).id == one.id
    with pytest.raises(Ambiguous):
        await store.image(index)


async def test_platforms_that_were_not_pulled(held: Held) -> None:
    own = made("own")
    held.several(made("other", architecture=OTHER_MACHINE), own, names=["x:1"], without=[])
    (absent,) = [digest for digest, data in held.blobs.items() if OTHER_MACHINE.encode() in data]
    del held.blobs[absent]
    listing = await held.store().images()
    assert ([image.id for image in listing], listing.damaged) == ([own.id], ())


async def test_attestations_and_artifacts_are_no_images(held: Held) -> None:
    own = made("own")
    digest = held.add(images.oci(own))
    unknown = held.add(images.oci(made("attestation", architecture="unknown", os="unknown")))
    entries = [
        {"mediaType": images.OCI_MANIFEST, "digest": digest, "size": len(held.blobs[digest])},
        {"mediaType": images.OCI_MANIFEST, "digest": unknown, "size": len(held.blobs[unknown])},
        {
            "mediaType": images.OCI_MANIFEST,
            "digest": sha256(b"not even there"),
            "size": 5,
            "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
        },
    ]
    index = held.put({"schemaVersion": 2, "mediaType": images.OCI_INDEX, "manifests": entries})
    held.point(index["digest"], images.OCI_INDEX, "docker.io/library/x:1")
    config = {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": sha256(b"{}"), "size": 2}
    chart = held.put({"schemaVersion": 2, "mediaType": images.OCI_MANIFEST, "config": config, "layers": []})
    held.point(chart["digest"], images.OCI_MANIFEST, "docker.io/library/chart:1")
    listing = await held.store().images()
    assert ([image.id for image in listing], listing.damaged) == ([own.id], ())


# Damage


@pytest.mark.parametrize("broken", ["manifest", "config", "not an object", "layers", "no config"])
async def test_what_is_damaged_hides_no_other(held: Held, broken: str) -> None:
    good, bad = made("good"), made("bad")
    held.add(images.oci(good), "docker.io/library/good:1")
    digest = held.add(images.oci(bad), "docker.io/library/bad:1")
    manifest = json.loads(held.blobs[digest])
    if broken == "manifest":
        held.blobs[digest] = held.blobs[digest][:-5]
    elif broken == "config":
        held.blobs[bad.id] = b'{"rootfs": {"diff_ids": ["../../etc"]}}'
    elif broken == "not an object":
        held.blobs[digest] = b"[]"
    elif broken == "layers":
        held.blobs[digest] = json.dumps({**manifest, "layers": manifest["layers"][:1]}).encode()
    elif broken == "no config":
        del held.blobs[bad.id]
    listing = await held.store().images()
    assert [image.id for image in listing] == [good.id]
    (damaged,) = listing.damaged
    assert isinstance(damaged.error, StoreDamaged)
    assert digest in str(damaged.error) or bad.id in str(damaged.error)
    assert damaged.names == ("bad:1",)
    with pytest.raises(StoreDamaged):
        await held.store().image("bad:1")
    assert (await held.store().image("good:1")).id == good.id


async def test_one_platform_is_damaged(held: Held) -> None:
    own, other = made("own"), made("other", architecture=OTHER_MACHINE)
    held.several(other, own, names=["docker.io/library/x:1"])
    held.blobs[other.id] = b"{"
    listing = await held.store().images()
    assert [image.id for image in listing] == [own.id]
    assert len(listing.damaged) == 1
    assert (await held.store().image("x:1")).id == own.id


async def test_nothing_of_an_image_is_there(held: Held) -> None:
    target = sha256(b"not pulled")
    held.point(target, images.OCI_INDEX, "docker.io/library/x:1")
    held.point("sha256:../../etc/passwd", images.OCI_INDEX, "docker.io/library/y:1")
    listing = await held.store().images()
    assert [each.id for each in listing.damaged] == [target]
    with pytest.raises(StoreDamaged, match="content store"):
        await held.store().image("x:1")
    with pytest.raises(NotFound):
        await held.store().image("y:1")


async def test_indexes_in_indexes_end(held: Held) -> None:
    inner: dict[str, Any] = {"mediaType": images.OCI_MANIFEST, "digest": sha256(b"x"), "size": 1}
    for _ in range(9):
        inner = held.put({"schemaVersion": 2, "mediaType": images.OCI_INDEX, "manifests": [inner]})
    held.point(inner["digest"], images.OCI_INDEX, "docker.io/library/x:1")
    (damaged,) = (await held.store().images()).damaged
    assert "nested too deeply" in str(damaged.error)


# Layers and blobs


def test_what_is_kept_of_layers(held: Held) -> None:
    plain, packed = made("plain"), made("packed", compression="gzip")
    held.add(images.oci(plain), "a:1")
    held.add(images.oci(packed), "b:1")
    index = held.index(snapshots={"overlayfs": {}, "native": committed(plain)})
    for layer_, data in zip(index.image(plain.id).layers, plain.layers, strict=True):
        assert (layer_.size, layer_.blob is not None, layer_.hold is not None) == (len(data), True, True)
    base, top = index.image(packed.id).layers
    assert (base.size, top.size) == (None, None)
    assert (base.hold is not None, top.hold is not None) == (True, False)
    with pytest.raises(Unsupported, match="not unpacked"):
        top.held()
    # Of a layer by itself the blob is chosen that is its tar, so that its length is known.
    assert index.layer(base.chain_id).size == len(packed.layers[0])
    assert index.image(packed.id).manifest == next(
        data for data in held.blobs.values() if data.startswith(b"{") and b"+gzip" in data
    )


@pytest.mark.parametrize("how", ["discarded", "cut", "encrypted", "not a tar"])
def test_blobs_that_are_of_no_use(held: Held, how: str) -> None:
    image = made("x")
    digest = held.add(images.oci(image), "a:1")
    blob = image.diff_ids[1]
    if how == "discarded":
        del held.blobs[blob]
    elif how == "cut":
        held.blobs[blob] = held.blobs[blob][:100]
    else:
        manifest = json.loads(held.blobs[digest])
        kinds = {"encrypted": images.OCI_LAYER + "+encrypted", "not a tar": "application/vnd.nydus.blob.v1"}
        manifest["layers"][1]["mediaType"] = kinds[how]
        held.blobs[digest] = json.dumps(manifest).encode()
    index = held.index(snapshots={"overlayfs": committed(image)})
    found = index.image(image.id)
    base, top = found.layers
    assert base.blob is not None
    assert (top.blob, top.assemble, top.size) == (None, None, None)
    assert top.hold is not None
    assert found.manifest is None
    assert index.layer(top.chain_id) == top


def test_of_several_manifests_the_one_that_is_whole(held: Held) -> None:
    packed, plain = made("x", compression="gzip"), made("x")
    held.add(images.oci(packed), "a:1", without=[sha256(packed.blobs()[1])])
    digest = held.add(images.oci(plain), "b:1")
    index = held.index()
    assert index.image(plain.id).manifest == held.blobs[digest]
    assert {name.familiar for name in index.image(plain.id).names} == {"a:1", "b:1"}


# Containers


def container(identity: str, image: str = "", created: int = 0, **labels: str) -> Container:
    return Container(
        id=identity,
        image=image,
        snapshotter="overlayfs",
        snapshot_key=identity,
        created_at=Timestamp(seconds=created),
        labels={key.replace("__", "/").replace("_", "."): value for key, value in labels.items()},
    )


def test_names_of_containers(held: Held) -> None:
    pod = {"io_kubernetes_pod_name": "web-0", "io_kubernetes_pod_namespace": "shop"}
    index = held.index(
        containers=[
            container("plain"),
            container("1" * 64, nerdctl__name="box"),
            container("2" * 64, io_kubernetes_container_name="app", **pod),
            container("3" * 64, **pod),
            Container(id="of-a-graph-driver"),
        ]
    )
    assert {identity[:5]: tuple(names) for identity, names in index.containers.items()} == {
        "plain": ("plain",),
        "11111": ("box",),
        "22222": ("app_web-0_shop",),
        "33333": ("POD_web-0_shop",),
    }


def test_a_name_means_the_container_that_runs(held: Held) -> None:
    pod = {"io_kubernetes_pod_name": "p", "io_kubernetes_container_name": "c"}
    index = held.index(
        containers=[
            container("old", created=1, **pod),
            container("new", created=3, **pod),
            container("runs", created=2, **pod),
        ],
        statuses={"runs": "running", "new": "stopped"},
    )
    assert list(index.containers) == ["runs", "new", "old"]


def test_the_image_of_a_container(held: Held) -> None:
    """By what it stands on: a name may have moved to another image since."""
    before, now = made("before"), made("now")
    held.add(images.oci(before), "docker.io/library/old:1")
    held.add(images.oci(now), "docker.io/library/x:1")
    top = images.chain_ids(before.diff_ids)[-1]
    snapshots = {
        **committed(before),
        "c": Info(name="c", parent="c-init", kind=ACTIVE),
        "c-init": Info(name="c-init", parent=top, kind=COMMITTED),
        "loop": Info(name="loop", parent="loop", kind=ACTIVE),
        "none": Info(name="none", kind=ACTIVE),
    }
    index = held.index(snapshots={"overlayfs": snapshots})
    found = {each: index._image_of(container(each, "docker.io/library/x:1")) for each in ("c", "loop", "none", "?")}
    assert found == {"c": before.id, "loop": "", "none": "", "?": ""}
