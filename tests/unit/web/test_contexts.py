"""`POST /v1/contexts`: archives that pass through, texts, URLs; what is refused, and what breaks off."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from backports import zstd
from support import sites
from support.asking import problem
from support.clients import Client
from support.sites import Site

from streamer.context import addresses


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with sites.site(
        tmp_path_factory.mktemp("contexts"), fetch=addresses.parsed(["127.0.0.1"]), upload_timeout=3
    ) as made:
        yield made


def tar(*names: str, size: int = 10) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as out:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size, info.uid, info.gid, info.uname = size, 5, 6, "somebody"
            out.addfile(info, io.BytesIO(bytes(size)))
    return made.getvalue()


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        return {member.name: member for member in archive}


PACKED = {
    "none": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd.compress,
}


@pytest.mark.parametrize("packed", PACKED)
def test_archives(site: Site, packed: str) -> None:
    data = tar("Dockerfile", "a/b")
    answer = site.ask("/v1/contexts", "POST", body=PACKED[packed](data))  # type: ignore[operator]
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/x-tar"
    found = members(answer.body)
    assert {name: (each.uid, each.gid, each.size) for name, each in found.items()} == {
        "Dockerfile": (0, 0, 10),
        "a/b": (0, 0, 10),
    }
    kept = site.ask("/v1/contexts?owner=keep", "POST", body=PACKED[packed](data))  # type: ignore[operator]
    assert kept.body == data


def test_a_bare_dockerfile_and_compression(site: Site) -> None:
    answer = site.ask("/v1/contexts?compression=zstd&dockerfile=Other", "POST", body=b"FROM scratch\n")
    assert answer.headers["content-type"] == "application/zstd"
    assert members(zstd.decompress(answer.body)).keys() == {"Other"}


def test_texts(site: Site) -> None:
    body = json.dumps({"dockerfile": "FROM scratch\n", "files": {"a/b": "text", "é": ""}}).encode()
    found = members(site.ask("/v1/contexts", "POST", body=body, headers="Content-Type: application/json\r\n").body)
    assert {name: each.size for name, each in found.items()} == {"Dockerfile": 13, "a/b": 4, "é": 0}


def test_it_passes_while_it_comes(site: Site) -> None:
    """Nothing is kept: the answer begins long before the body has ended."""
    data = tar("Dockerfile", "big", size=8 << 20)
    with Client(site.port) as client:
        client.request("/v1/contexts?owner=keep", "POST", f"Content-Length: {len(data)}\r\n")
        client.send(data[: 4 << 20])
        assert client.head().status == 200
        sending = threading.Thread(target=client.send, args=(data[4 << 20 :],))
        sending.start()
        assert client._chunked() == (data, True)
        sending.join()


REFUSED = [
    (b"", 400, "invalid_request", "is empty"),
    (tar("../x"), None, "", ""),
    (gzip.compress(tar("a"))[:40], None, "", ""),
    (bytes(512) + b"x" * 600, None, "", ""),
]


@pytest.mark.parametrize(("body", "status", "code", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_context(site: Site, body: bytes, status: int | None, code: str, message: str) -> None:
    """What is found out after the answer began breaks it off: no clean end."""
    with Client(site.port) as client:
        client.request("/v1/contexts", "POST", f"Content-Length: {len(body)}\r\n")
        client.send(body)
        answer = client.answer()
    if status is None:
        assert answer.status in (200, 400)
        assert answer.status == 400 or not answer.complete
    else:
        assert (answer.status, problem(answer)["code"]) == (status, code)
        assert message in problem(answer)["detail"]


JSON = [
    ({}, 400, "give a source, or a dockerfile and files"),
    ({"files": {"../x": ""}}, 400, "leads out of the tree"),
    ({"files": {"a": "", "a/b": ""}}, 400, "below the file"),
    ({"source": "/etc"}, 400, "neither a git repository nor a URL"),
    ({"source": "-"}, 400, "neither a git repository nor a URL"),
    ({"source": "http://u:secret@10.0.0.1/x"}, 403, "10.0.0.1 is not a public address"),
    ({"source": "http://169.254.169.254/latest/meta-data"}, 403, "169.254.169.254 is not a public address"),
    ({"nonsense": 1}, 400, "nonsense"),
]


@pytest.mark.parametrize(("document", "status", "message"), JSON, ids=range(len(JSON)))
def test_what_cannot_be(site: Site, document: object, status: int, message: str) -> None:
    answer = site.ask(
        "/v1/contexts", "POST", body=json.dumps(document).encode(), headers="Content-Type: application/json\r\n"
    )
    assert answer.status == status
    assert message in problem(answer)["detail"]
    assert b"secret" not in answer.body


def test_a_service_that_fetches_nothing(tmp_path: Path) -> None:
    with sites.site(tmp_path / "state") as made:
        answer = made.ask(
            "/v1/contexts",
            "POST",
            body=b'{"source": "http://1.1.1.1/x.tar"}',
            headers="Content-Type: application/json\r\n",
        )
    assert answer.status == 403
    assert "the setting fetch allows it" in problem(answer)["detail"]


def test_a_sender_that_stalls_or_leaves(site: Site) -> None:
    data = tar("Dockerfile", "big", size=1 << 20)
    with Client(site.port) as client:
        client.request("/v1/contexts?owner=keep", "POST", f"Content-Length: {len(data)}\r\n")
        client.send(data[:600_000])
        began = time.monotonic()
        assert not client.answer().complete
        assert time.monotonic() - began < 60
    with Client(site.port) as client:
        client.request("/v1/contexts?owner=keep", "POST", f"Content-Length: {len(data)}\r\n")
        client.send(data[:600_000])
