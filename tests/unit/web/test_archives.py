"""The archives: headers that are right or absent, HEAD that says what GET says, and what each option does."""

from __future__ import annotations

import base64
import bz2
import gzip
import hashlib
import io
import json
import lzma
import re
import tarfile
from collections.abc import Callable

import pytest
from backports import zstd
from support import images
from support.asking import problem, received
from support.clients import Answer, Client
from support.sites import BASE, ONE, PORT, TWO, Site

LAYER = f"/v1/layers/{TWO.diff_ids[0]}/archive"
BOX = "/v1/containers/box/archive"
DIFF = "/v1/containers/box/diff"
ROOTFS = "/v1/images/two/rootfs"
SAVED = "/v1/images/two/archive"
KNOWN = [LAYER, SAVED, "/v1/images/archive?name=two&name=team/app/one", f"{SAVED}?format=docker-legacy"]
UNKNOWN = [BOX, DIFF, ROOTFS, f"{LAYER}?exclude=nothing"]

DECODE: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda data: data,
    "gzip": gzip.decompress,
    "bzip2": bz2.decompress,
    "xz": lzma.decompress,
    "zstd": zstd.decompress,
}
TYPES = {
    "none": ("application/x-tar", ".tar"),
    "gzip": ("application/gzip", ".tar.gz"),
    "bzip2": ("application/x-bzip2", ".tar.bz2"),
    "xz": ("application/x-xz", ".tar.xz"),
    "zstd": ("application/zstd", ".tar.zst"),
}

with_mounts = pytest.mark.root


def entries(data: bytes) -> dict[str, tarfile.TarInfo]:
    """What Python reads in a tar, in order."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {info.name: info for info in archive}


def content(data: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        file = archive.extractfile(name)
        assert file is not None
        return file.read()


def filename(answer: Answer) -> str:
    found = re.fullmatch(r'attachment; filename="([A-Za-z0-9._-]+)"', answer.headers["content-disposition"])
    assert found is not None, answer.headers
    return found[1]


@pytest.mark.parametrize("target", [*KNOWN, *(pytest.param(target, marks=with_mounts) for target in UNKNOWN)])
@pytest.mark.parametrize("compression", TYPES)
def test_head_says_what_get_says(site: Site, target: str, compression: str) -> None:
    target += ("&" if "?" in target else "?") + f"compression={compression}"
    head = site.ask(target, "HEAD")
    answer = site.ask(target)
    assert head.status == answer.status == 200
    assert answer.complete
    chunked = answer.headers.pop("transfer-encoding", None)
    for each in (head, answer):
        each.headers.pop("date")
        each.headers.pop("x-request-id")
    assert head.headers == answer.headers
    length = answer.headers.get("content-length")
    assert (length is None) == (chunked is not None)
    assert (length is not None) == (compression == "none")
    assert length in (None, str(len(answer.body)))
    media_type, suffix = TYPES[compression]
    assert answer.headers["content-type"] == media_type
    assert filename(answer).endswith(suffix)
    assert answer.headers["accept-ranges"] == ("bytes" if compression == "none" else "none")
    assert ("etag" in answer.headers) == (compression == "none")
    assert answer.headers["cache-control"] == ("private, no-cache" if compression == "none" else "no-store")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["server"].startswith("streamer/")
    assert "aiohttp" not in answer.headers["server"]
    assert not {"content-encoding", "last-modified"} & answer.headers.keys()


@pytest.mark.parametrize("target", [LAYER, SAVED, *(pytest.param(target, marks=with_mounts) for target in UNKNOWN)])
def test_compressed_bodies_decode_to_the_same_archive(site: Site, target: str) -> None:
    plain = site.get(target)
    for compression, decode in DECODE.items():
        glue = "&" if "?" in target else "?"
        assert decode(site.get(f"{target}{glue}compression={compression}")) == plain, compression


def test_a_layer_comes_out_as_it_went_in(site: Site) -> None:
    for made in (ONE, TWO):
        for diff_id, chain, data in zip(made.diff_ids, images.chain_ids(made.diff_ids), made.layers, strict=True):
            for name in (diff_id, chain, chain[:30], diff_id.removeprefix("sha256:"), diff_id.replace(":", "%3A")):
                answer = site.ask(f"/v1/layers/{name}/archive")
                assert answer.body == data
                assert answer.headers["content-length"] == str(len(data))
                digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
                assert answer.headers["repr-digest"] == f"sha-256=:{digest}:"
                assert filename(answer) == f"layer-{diff_id[7:19]}.tar"


def test_a_digest_is_absent_where_it_is_not_that_of_the_body(site: Site) -> None:
    for option in ("compression=gzip", "exclude=late", "mtime=1", "profile=full", "path=etc"):
        assert "repr-digest" not in site.ask(f"{LAYER}?{option}", "HEAD").headers
    assert "repr-digest" not in site.ask(SAVED, "HEAD").headers


NAMES = {
    "two.tar": ["/v1/images/two/archive", "/v1/images/archive?name=two"],
    "images.tar": ["/v1/images/archive?name=two&name=team/app/one:1"],
    "team-app-one-1.tar": ["/v1/images/team/app/one:1/archive", "/v1/images/team%2Fapp%2Fone%3A1/archive"],
    "localhost-5000-with-port-v1.tar.zst": ["/v1/images/localhost:5000/with/port:v1/archive?compression=zstd"],
    "two-rootfs.tar": ["/v1/images/two/rootfs"],
    "box.tar": [BOX],
    "box-diff.tar.xz": [f"{DIFF}?compression=xz"],
}


@pytest.mark.parametrize("name", NAMES)
def test_file_names(site: Site, name: str) -> None:
    for target in NAMES[name]:
        assert filename(site.ask(target, "HEAD")) == name


@pytest.mark.parametrize(
    "spelled",
    [
        "team/app/one:1",
        "team%2Fapp%2Fone:1",
        "team%2fapp/one%3A1",
        "docker.io/team/app/one:1",
        "index.docker.io/team/app/one:1",
        "%74eam/app/one:1",
    ],
)
def test_names_with_slashes_however_spelled(site: Site, spelled: str) -> None:
    same = site.get("/v1/images/archive?name=team/app/one:1")
    assert site.get(f"/v1/images/{spelled}/archive") == same
    assert site.get(f"/v1/images/archive?name={spelled}") == same
    assert site.ask(f"/v1/images/{spelled}/rootfs", "HEAD").status == 200


def test_names_with_a_port(site: Site) -> None:
    for spelled in ("localhost:5000/with/port:v1", "localhost%3A5000%2Fwith%2Fport%3Av1"):
        assert tags(site.get(f"/v1/images/{spelled}/archive")) == [["localhost:5000/with/port:v1"]]


def manifest(archive: bytes) -> list[dict[str, list[str]]]:
    found: list[dict[str, list[str]]] = json.loads(content(archive, "manifest.json"))
    return found


def tags(archive: bytes) -> list[list[str]]:
    return [sorted(item["RepoTags"] or []) for item in manifest(archive)]


def test_a_name_without_tag_is_all_its_tags(site: Site) -> None:
    assert tags(site.get("/v1/images/team/app/one/archive")) == [["team/app/one:1", "team/app/one:2.0"]]
    assert tags(site.get("/v1/images/team/app/one:2.0/archive")) == [["team/app/one:2.0"]]


@pytest.mark.parametrize("reference", [ONE.id, ONE.id.removeprefix("sha256:"), ONE.id[7:19], ONE.id[:30]])
def test_an_id_is_the_image_without_names(site: Site, reference: str) -> None:
    archive = site.get(f"/v1/images/{reference}/archive")
    assert tags(archive) == [[]]
    assert "repositories" not in entries(archive)


def test_several_images_share_their_layers(site: Site) -> None:
    archive = site.get("/v1/images/archive?name=two&name=team/app/one&name=two:latest&name=localhost:5000/with/port:v1")
    assert tags(archive) == [["two:latest"], ["team/app/one:1", "team/app/one:2.0"], ["localhost:5000/with/port:v1"]]
    found = entries(archive)
    assert len(found) == len(set(found))
    for made in (ONE, TWO, PORT):
        for diff_id, data in zip(made.diff_ids, made.layers, strict=True):
            assert content(archive, f"blobs/sha256/{diff_id[7:]}") == data
    assert archive.count(BASE) == 1
    assert {"oci-layout", "index.json", "repositories"} <= found.keys()


def test_docker_legacy(site: Site) -> None:
    archive = site.get("/v1/images/archive?name=two&name=team/app/one&format=docker-legacy")
    found = entries(archive)
    assert not any(name.startswith(("blobs", "oci-layout", "index.json")) for name in found)
    assert tags(archive) == [["two:latest"], ["team/app/one:1", "team/app/one:2.0"]]
    assert archive.count(BASE) == 1
    for item, made in zip(manifest(archive), (TWO, ONE), strict=True):
        assert item["Config"] == f"{made.id[7:]}.json"
        assert [content(archive, path) for path in item["Layers"]] == made.layers
        for path in item["Layers"]:
            assert {f"{path[:64]}/VERSION", f"{path[:64]}/json"} <= found.keys()
    assert json.loads(content(archive, "repositories")).keys() == {"two", "team/app/one"}


def test_the_store_may_be_named(site: Site) -> None:
    for target in (LAYER, SAVED, BOX, "/v1/images", "/v1/containers", "/v1/layers"):
        assert site.ask(f"{target}?store=local", "HEAD" if "archive" in target else "GET").status == 200
    assert site.get(f"{LAYER}?store=local") == BASE


def test_http_1_0_gets_what_has_a_length(site: Site) -> None:
    with Client(site.port) as client:
        client.request(LAYER, version="1.0")
        assert received(client).body == BASE
    with Client(site.port) as client:
        client.request(f"{LAYER}?compression=gzip", version="1.0")
        assert problem(received(client))["code"] == "http_version"


def test_one_connection_serves_many_requests(site: Site) -> None:
    with Client(site.port) as client:
        for target, method in [(LAYER, "GET"), ("/nothing", "GET"), (SAVED, "HEAD"), (f"{LAYER}?x", "GET")] * 5:
            client.request(target, method)
            assert received(client, method).status in (200, 404, 400)
        client.request(LAYER)
        assert received(client).body == BASE


@with_mounts
def test_what_a_container_holds(site: Site) -> None:
    found = entries(site.get(BOX))
    assert {"etc", "etc/a", "etc/b", "late", "new", "two", "raw-\udcff"} <= found.keys()
    assert "link" not in found
    assert content(site.get(BOX), "etc/a") == b"changed"


@with_mounts
def test_what_a_diff_holds(site: Site) -> None:
    assert sorted(entries(site.get(DIFF))) == [".wh.link", "etc", "etc/a", "new", "raw-\udcff"]


@with_mounts
def test_what_changed(site: Site) -> None:
    answer = site.ask("/v1/containers/box/changes")
    assert answer.headers["content-type"] == "application/json"
    assert filename(answer) == "box-changes.json"
    assert sorted(json.loads(answer.body), key=lambda change: change["path"]) == [
        {"path": "/etc", "kind": "C"},
        {"path": "/etc/a", "kind": "C"},
        {"path": "/link", "kind": "D"},
        {"path": "/new", "kind": "A"},
        {"path": "/raw-\ufffd", "kind": "A", "path_base64": base64.b64encode(b"/raw-\xff").decode()},
    ]


OPTIONS: list[tuple[str, str, set[str]]] = [
    (ROOTFS, "include=etc", {"etc", "etc/a", "etc/b"}),
    (ROOTFS, "include=late&include=two", {"late", "two"}),
    (ROOTFS, "exclude=etc&exclude=l*", {"two"}),
    (ROOTFS, "exclude=**&exclude=!late", {"late"}),
    (ROOTFS, "exclude=*%20", set()),
    (ROOTFS, "path=etc", {"etc", "etc/a", "etc/b"}),
    (ROOTFS, "path=/etc/a", {"a"}),
    (ROOTFS, "path=%2Fetc%2Fa", {"a"}),
    (ROOTFS, "path=link", {"link"}),
    (ROOTFS, "path=./etc/./a", {"a"}),
    (ROOTFS, "path=../../etc", {"etc", "etc/a", "etc/b"}),
    (BOX, "path=raw-%FF", {"raw-\udcff"}),
    (BOX, "include=raw-%FF", {"raw-\udcff"}),
    (BOX, "include=raw-?", {"raw-\udcff"}),
    (DIFF, "path=etc", {"etc", "etc/a"}),
    (DIFF, "include=new", {"new"}),
    (DIFF, "exclude=etc&exclude=raw*&exclude=link", {"new"}),
    (LAYER, "include=late", {"late"}),
    (LAYER, "path=etc/a", {"etc/a"}),
]


@with_mounts
@pytest.mark.parametrize(("target", "query", "expected"), OPTIONS, ids=[f"{row[0]}?{row[1]}" for row in OPTIONS])
def test_options_narrow_what_is_sent(site: Site, target: str, query: str, expected: set[str]) -> None:
    assert entries(site.get(f"{target}?{query}")).keys() == expected


@with_mounts
def test_modification_times_are_clamped(site: Site) -> None:
    for target in (ROOTFS, LAYER):
        plain, clamped = entries(site.get(target)), entries(site.get(f"{target}?mtime=1700000000"))
        assert plain.keys() == clamped.keys()
        assert (plain["etc/a"].mtime, plain["late"].mtime) == (1_600_000_000, 1_900_000_000)
        assert (clamped["etc/a"].mtime, clamped["late"].mtime) == (1_600_000_000, 1_700_000_000)


@with_mounts
def test_the_full_profile_keeps_nanoseconds(site: Site) -> None:
    assert entries(site.get(f"{BOX}?profile=docker"))["new"].mtime % 1 == 0
    assert entries(site.get(f"{BOX}?profile=full"))["new"].mtime % 1 != 0
