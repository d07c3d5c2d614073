"""Documents and blobs out of the content store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.images import encoded, sha256

from streamer.errors import NotFound, SourceChanged, StoreDamaged
from streamer.oci.descriptor import Descriptor
from streamer.stores.containerd import content
from streamer.stores.containerd.api.content_pb2 import ReadContentRequest, ReadContentResponse
from streamer.stores.containerd.content import Content
from streamer.stores.containerd.methods import READ_CONTENT

MIB = 1 << 20


def holding(engine: Any, refusal: Callable[..., Exception], *blobs: bytes, **named: bytes) -> Content:
    """As containerd answers: at most `size` bytes from `offset`, in one message or several."""
    known = {sha256(blob): blob for blob in blobs} | {name.replace("_", ":"): blob for name, blob in named.items()}

    def read(question: ReadContentRequest) -> list[ReadContentResponse]:
        if question.digest not in known:
            raise refusal("NOT_FOUND")
        part = known[question.digest][question.offset : question.offset + question.size]
        half = len(part) // 2
        return [ReadContentResponse(offset=question.offset, data=part[:half]), ReadContentResponse(data=part[half:])]

    engine.on(READ_CONTENT, read)
    return Content(engine.client())


@pytest.mark.parametrize("size", [0, 1, 5000, MIB, MIB + 1])
def test_documents(engine: Any, refusal: Callable[..., Exception], size: int) -> None:
    data = bytes(size)
    found = holding(engine, refusal, data)
    assert found.document(sha256(data), 4 * MIB, "it") == data
    asked = len(engine.asked)
    assert found.document(sha256(data), 4 * MIB, "it") == data
    assert len(engine.asked) == asked


def test_documents_that_are_not_what_they_should_be(engine: Any, refusal: Callable[..., Exception]) -> None:
    digest = sha256(b"right")
    found = holding(engine, refusal, bytes(2 * MIB), **{digest.replace(":", "_"): b"wrong"})
    with pytest.raises(StoreDamaged, match=digest):
        found.document(digest, 100, "it")
    with pytest.raises(StoreDamaged, match="larger than 1048575 bytes"):
        found.document(sha256(bytes(2 * MIB)), MIB - 1, "it")
    with pytest.raises(NotFound):
        found.document(sha256(b"missing"), 100, "it")


def test_documents_are_kept_within_bounds(
    engine: Any, refusal: Callable[..., Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "CACHED", 10)
    found = holding(engine, refusal, b"11111", b"22222", b"33333")
    for data in (b"11111", b"22222", b"11111", b"33333", b"11111"):
        assert found.document(sha256(data), 10, "it") == data
    assert len(engine.asked) == 3
    found.document(sha256(b"22222"), 10, "it")  # the one that was not asked for lately had gone
    assert len(engine.asked) == 4


@pytest.mark.parametrize("size", [0, 1, MIB, 2 * MIB + 7])
def test_blobs_over_the_socket(engine: Any, refusal: Callable[..., Exception], size: int) -> None:
    data = bytes(size)
    blocks = list(holding(engine, refusal, data).blocks(Descriptor("", sha256(data), size), None, "it"))
    assert b"".join(blocks) == data
    assert all(0 < len(block) <= MIB for block in blocks)


def test_blobs_that_end_early(engine: Any, refusal: Callable[..., Exception]) -> None:
    found = holding(engine, refusal, b"short")
    with pytest.raises(SourceChanged, match="5 of 9"):
        list(found.blocks(Descriptor("", sha256(b"short"), 9), None, "it"))
    with pytest.raises(SourceChanged, match="gone"):
        list(found.blocks(Descriptor("", sha256(b"missing"), 9), None, "it"))


@pytest.mark.parametrize("there", ["the file", "another size", "a link", "a directory", "nothing"])
def test_blobs_from_files_where_they_are_seen(
    engine: Any, refusal: Callable[..., Exception], there: str, tmp_path: Path
) -> None:
    data = b"content"
    place = tmp_path / "blobs/sha256" / encoded(data)
    place.parent.mkdir(parents=True)
    if there == "the file":
        place.write_bytes(data)
    elif there == "another size":
        place.write_bytes(b"a container's own idea of this path")
    elif there == "a link":
        (tmp_path / "secret").write_bytes(b"1234567")
        place.symlink_to(tmp_path / "secret")
    elif there == "a directory":
        place.mkdir()
    found = holding(engine, refusal, data)
    assert b"".join(found.blocks(Descriptor("", sha256(data), len(data)), str(tmp_path), "it")) == data
    assert bool(engine.asked) == (there != "the file")
