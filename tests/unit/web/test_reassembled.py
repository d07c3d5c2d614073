"""A thousand random ranges of each kind of export, from a real store over HTTP, put together again: the archive.

Some ask with the tag of another version, or for several ranges at once, and get the whole of this one.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from support import images
from support.asking import received
from support.clients import Client
from support.images import directory, file, layer, symlink, whiteout
from support.sites import Site, site

from streamer.stores.local.store import LocalStore

pytestmark = pytest.mark.root

REQUESTS = 1000
PICK = random.Random(14)
TREE = layer(
    directory("d/"),
    *(file(f"d/f{number:03}", PICK.randbytes(PICK.randrange(4000))) for number in range(300)),
    file("d/large", PICK.randbytes(1_300_001)),
    symlink("d/link", "f000"),
    *(file("n" * 120 + str(number), PICK.randbytes(700)) for number in range(20)),
)
MADE = images.image(
    TREE, layer(file("d/f007", b"another"), whiteout("d/f008"), file("top", b"t" * 200_000)), names=["big"]
)

TARGETS = {
    "layer": f"/v1/layers/{MADE.diff_ids[0]}/archive",
    "layer without a file": f"/v1/layers/{MADE.diff_ids[0]}/archive?exclude=d/f001",
    "container": "/v1/containers/big/archive",
    "subtree": "/v1/containers/big/archive?path=d",
    "full profile": "/v1/containers/big/archive?profile=full",
    "diff": "/v1/containers/big/diff",
    "root file system": "/v1/images/big/rootfs",
    "saved image": "/v1/images/big/archive",
    "legacy image": "/v1/images/big/archive?format=docker-legacy",
}


async def filled(store: LocalStore) -> None:
    await store.import_archive(images.Bytes(images.pack(images.docker(MADE))))
    box = await store.create("big", name="big")
    assert box.snapshot.upper is not None
    upper = Path(os.fsdecode(box.snapshot.upper))
    (upper / "d").mkdir()
    for number in range(40, 90):
        (upper / f"d/f{number:03}").write_bytes(b"changed" * number)
    (upper / "new").write_bytes(PICK.randbytes(900_000))
    os.link(upper / "new", upper / "same")


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("big"), filled) as opened:
        yield opened


@pytest.mark.parametrize("kind", TARGETS)
def test_random_ranges_are_the_archive_again(big: Site, kind: str) -> None:
    target = TARGETS[kind]
    pick = random.Random(kind)
    whole = big.ask(target)
    assert whole.status == 200
    etag, size = whole.headers["etag"], int(whole.headers["content-length"])
    digest = hashlib.sha256(whole.body).digest()
    edges = sorted({0, size, *(pick.randrange(size) for _ in range(REQUESTS - 1))})
    spans = list(pairwise(edges))
    pick.shuffle(spans)
    made = bytearray(size)
    with Client(big.port) as client:
        for number, (start, stop) in enumerate(spans):
            odd = number % 20
            tag = '"another"' if odd == 7 else etag
            wanted = f"{start}-{stop - 1}"
            if odd == 11:
                wanted += f",{start}-"
            client.request(target, "GET", f"Range: bytes={wanted}\r\nIf-Range: {tag}\r\n")
            answer = received(client)
            assert answer.complete
            assert answer.headers["etag"] == etag
            if odd in (7, 11):
                assert answer.status == 200
                assert hashlib.sha256(answer.body).digest() == digest
                made[start:stop] = answer.body[start:stop]
            else:
                assert answer.status == 206
                assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
                made[start:stop] = answer.body
    assert hashlib.sha256(made).digest() == digest


@pytest.mark.parametrize("kind", ["container", "subtree", "full profile", "diff"])
def test_after_a_change_an_old_tag_gives_the_whole_new_archive(big: Site, kind: str) -> None:
    target = TARGETS[kind]
    before = big.ask(target)
    box = big.call(big.store.container, "big")
    assert box.snapshot.upper is not None
    place = Path(os.fsdecode(box.snapshot.upper)) / "d/f077"
    place.write_bytes(place.read_bytes()[::-1])  # as long as it was
    lines = f"Range: bytes=1000-2000\r\nIf-Range: {before.headers['etag']}\r\n"
    after = big.ask(target, headers=lines)
    assert after.status == 200
    assert after.headers["etag"] != before.headers["etag"]
    assert after.complete
    assert len(after.body) == len(before.body)
    assert after.body != before.body
    assert big.ask(target).body == after.body
    assert big.ask(target, headers=lines.replace(before.headers["etag"], after.headers["etag"])).status == 206
