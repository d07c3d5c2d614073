"""Uploads of archives that are damaged, hostile or too large: each is refused by a status and by the name of what is
wrong, and leaves nothing; a good upload works at once.
"""

from __future__ import annotations

import logging
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import hostile, images
from support.asking import problem
from support.images import file, layer, link, symlink
from support.uploads import GOOD, GOOD_ARCHIVE, LARGE, LARGE_ARCHIVE, nothing_left

from streamer.web.problems import STATUS

LAYER = next(name for name, data in images.docker(LARGE).items() if data == LARGE.layers[0])


@pytest.fixture(params=[True, False], ids=["cancelling", "not-cancelling"])
def cancellation(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(autouse=True)
def no_tracebacks(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that a client does is worth a line of aiohttp's or asyncio's, let alone a traceback."""
    yield
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


def changed(name: str, content: bytes | images.Link | None) -> bytes:
    """A docker-archive one of whose files is another, or missing."""
    files = images.docker(LARGE)
    if content is None:
        del files[name]
    else:
        files[name] = content
    return images.pack(files)


IN_LAYER = LARGE_ARCHIVE.index(LARGE.layers[0]) + 5000
CONFIG = f"{LARGE.id[7:]}.json"
BLOB = f"blobs/sha256/{LARGE.diff_ids[0][7:]}"
HARMFUL = images.image(layer(file("a"), link("h", "../../etc/passwd")), names=["harmful:1"])

DAMAGED: dict[str, tuple[bytes, str, int, str, str]] = {
    # what is sent, query, status, code, what the answer names
    "nothing": (b"", "", 400, "invalid_archive", "truncated"),
    "text": (b"no archive at all\n" * 1000, "", 400, "invalid_archive", ""),
    "an empty tar": (layer(), "", 400, "invalid_archive", "empty"),
    "cut in a layer": (LARGE_ARCHIVE[: IN_LAYER + 7], "", 400, "invalid_archive", "truncated"),
    "cut at the end": (LARGE_ARCHIVE[:-1024], "", 400, "invalid_archive", "truncated"),
    "cut gzip": (images.COMPRESS["gzip"](LARGE_ARCHIVE)[:-4], "", 400, "invalid_archive", "truncated"),
    "cut zstd": (images.COMPRESS["zstd"](LARGE_ARCHIVE)[:-4], "", 400, "invalid_archive", "truncated"),
    "cut xz": (images.COMPRESS["xz"](GOOD_ARCHIVE)[:-4], "", 400, "invalid_archive", "truncated"),
    "cut bzip2": (images.COMPRESS["bzip2"](GOOD_ARCHIVE)[:-4], "", 400, "invalid_archive", "truncated"),
    "bit in a layer": (flipped(LARGE_ARCHIVE, IN_LAYER), "", 400, "digest_mismatch", LAYER),
    "bit in a gzip": (flipped(images.COMPRESS["gzip"](LARGE_ARCHIVE), 900_000), "", 400, "invalid_archive", ""),
    "bit in an OCI blob": (
        (lambda data: flipped(data, data.index(LARGE.layers[0]) + 5000))(images.pack(images.oci(LARGE))),
        "",
        400,
        "digest_mismatch",
        BLOB,
    ),
    "another layer": (changed(LAYER, layer(file("x"))), "", 400, "digest_mismatch", LAYER),
    "no layer": (changed(LAYER, None), "", 400, "invalid_archive", LAYER),
    "a layer that is a link outside": (changed(LAYER, images.Link("/etc/passwd")), "", 400, "invalid_archive", LAYER),
    "another configuration": (changed(CONFIG, LARGE.data + b" "), "", 400, "digest_mismatch", CONFIG),
    "no manifest": (changed("manifest.json", None), "?format=docker-archive", 400, "invalid_archive", "manifest.json"),
    "manifest is none": (changed("manifest.json", b"[" * 100_000), "", 400, "invalid_archive", "manifest.json"),
    "a layer that reaches outside": (images.pack(images.docker(HARMFUL)), "", 400, "invalid_archive", "h"),
    "a member outside": (layer(file("manifest.json"), file("../x")), "", 400, "invalid_archive", "../x"),
    "a member twice": (layer(file("manifest.json"), file("manifest.json")), "", 400, "invalid_archive", "manifest"),
    "a device among the members": (layer(file("manifest.json"), images.node("n")), "", 400, "invalid_archive", "n"),
    "a symlink for a manifest": (layer(symlink("manifest.json", "/etc/passwd")), "", 400, "invalid_archive", ""),
    "format of another archive": (LARGE_ARCHIVE, "?format=oci", 400, "invalid_archive", "oci-layout"),
    "unknown format": (LARGE_ARCHIVE, "?format=zip", 400, "invalid_request", "docker-archive, oci, rootfs"),
    "unknown parameter": (LARGE_ARCHIVE, "?tag=x", 400, "invalid_request", "'tag'"),
    "name that is none": (LARGE_ARCHIVE, "?name=UPPER", 400, "invalid_reference", "UPPER"),
    "empty name": (LARGE_ARCHIVE, "?name=", 400, "invalid_reference", "''"),
    "name with a digest": (LARGE_ARCHIVE, f"?name=a@{LARGE.id}", 400, "invalid_reference", "digest"),
    "one name for two images": (images.pack(images.docker(LARGE, GOOD)), "?name=x", 400, "invalid_request", "2 images"),
    "more than allowed": (layer(file("zeros", bytes(9 << 20))), "", 413, "limit_exceeded", ""),
    "a bomb": (images.COMPRESS["bzip2"](layer(file("zeros", bytes(9 << 20)))), "", 413, "limit_exceeded", ""),
    "a nested bomb": (
        images.pack(images.docker(images.image(layer(file("zeros", bytes(9 << 20))), compression="zstd"))),
        "",
        413,
        "limit_exceeded",
        "",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
async def test_damaged_archives(tmp_path: Path, cancellation: bool, name: str) -> None:
    data, query, status, code, named = DAMAGED[name]
    async with nothing_left(tmp_path / "state", cancellation=cancellation, max_import_bytes=8 << 20) as uploads:
        answer = await uploads.post(data, query)
        members = problem(answer)
        assert (answer.status, members["code"]) == (status, code), members
        assert named in members["detail"]
        assert str(uploads.state) not in members["detail"]


async def test_hostile_archives(tmp_path: Path, cancellation: bool) -> None:
    """Every odd archive that was ever met: refused by its status without a trace, or taken in."""
    async with nothing_left(tmp_path / "state", cancellation=cancellation) as uploads:
        for case in hostile.CASES:
            answer = await uploads.post(case.data, "?name=x&format=rootfs")
            if answer.status == 201:
                assert case.error is None, case.id
                await uploads.store.remove_image("x")
                continue
            members = problem(answer)
            assert answer.status in (400, 413, 422), (case.id, members)
            assert answer.status == STATUS[members["code"]]
            if case.error is not None:
                assert answer.status == STATUS[case.error.code], (case.id, members)
        await uploads.settled()


async def test_escaping_archives(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("untouched")
    async with nothing_left(tmp_path / "state") as uploads:
        for case in hostile.ESCAPES:
            answer = await uploads.post(case.data, "?name=x&format=rootfs")
            assert answer.status in (201, 400, 422), (case.id, answer)
            if answer.status == 201:
                await uploads.store.remove_image("x")
    assert sorted(os.listdir(tmp_path)) == ["outside", "state"]
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").read_text() == "untouched"


@pytest.mark.slow
async def test_a_real_bomb(tmp_path: Path) -> None:
    """512 MiB of zeros in 16 KiB of zstd, which no configured size forbids: the ratio does."""
    head = layer(file("zeros"), end=b"")[:512]
    done = subprocess.run(
        ["sh", "-c", "{ cat; head -c 536870912 /dev/zero; } | zstd -q -1"], input=head, capture_output=True, check=True
    )
    async with nothing_left(tmp_path / "state") as uploads:
        answer = await uploads.post(done.stdout, "?format=rootfs")
        assert (answer.status, problem(answer)["code"]) == (413, "limit_exceeded")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.mark.root
@pytest.mark.parametrize("form", ["docker-archive", "rootfs"])
async def test_a_full_disk(small: Path, cancellation: bool, form: str) -> None:
    data = layer(*(file(f"f{number}", random.Random(6).randbytes(200_000)) for number in range(40)))
    archive = images.pack(images.docker(images.image(data, names=["big:1"]))) if form == "docker-archive" else data
    async with nothing_left(small / "state", cancellation=cancellation) as uploads:
        answer = await uploads.post(archive, f"?format={form}")
        assert (answer.status, problem(answer)["code"]) == (507, "storage_full")
