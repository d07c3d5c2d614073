"""A file's content on its way into an archive: read, or as regions of the file where nobody writes to it any more."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer.changeset.change import Node
from streamer.errors import SourceChanged
from streamer.export.stored import Stored
from streamer.export.verify import verified
from streamer.tar.entry import Entry
from streamer.tar.region import LEAST, Chunk, Region

MIB = 1 << 20
DATA = random.Random(7).randbytes(3 * MIB + LEAST + 1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


def stored(path: Path, *, strict: bool = True, regions: bool = True, skip: int = 0) -> Stored:
    status = os.stat(path)
    node = Node(os.fsencode(path.name), os.fsencode(path.name), -1, status)
    entry = Entry(node.name, size=status.st_size)
    return Stored(os.open(path, os.O_RDONLY), entry, node, strict=strict, regions=regions, skip=skip)


def kinds(content: Iterator[Chunk]) -> list[tuple[type, int]]:
    return [(type(chunk), len(chunk)) for chunk in content]


@pytest.mark.parametrize(
    ("size", "skip", "expected"),
    [
        (LEAST - 1, 0, [(bytes, LEAST - 1)]),
        (LEAST, 0, [(Region, LEAST)]),
        (MIB + 1, 0, [(Region, MIB), (bytes, 1)]),
        (MIB + LEAST, 0, [(Region, MIB), (Region, LEAST)]),
        (2 * MIB, 512, [(Region, MIB), (Region, MIB - 512)]),
        (2 * MIB, 2 * MIB - 512, [(bytes, 512)]),
    ],
)
def test_what_is_worth_it_is_not_read(file: Path, size: int, skip: int, expected: list[tuple[type, int]]) -> None:
    os.truncate(file, size)
    content = stored(file, skip=skip)
    assert kinds(content) == expected
    content.close()
    for regions in (True, False):
        content = stored(file, regions=regions, skip=skip)
        assert b"".join(bytes(chunk) for chunk in content) == DATA[skip:size]
        content.close()


def test_slices_are_read(file: Path) -> None:
    content = stored(file)
    region = next(content)
    assert isinstance(region, Region)
    assert region[5:99] == DATA[5:99]
    assert region[:0] == b""
    content.close()


def test_a_file_with_holes_is_read(file: Path) -> None:
    os.truncate(file, 8 * MIB)
    content = stored(file)
    assert {kind for kind, _ in kinds(content)} == {bytes}
    content.close()


@pytest.mark.parametrize("strict", [True, False])
def test_a_file_that_is_written_to(file: Path, strict: bool) -> None:
    content = stored(file, strict=strict)
    region = next(content)
    with file.open("r+b") as opened:
        opened.write(b"?")
    assert isinstance(region, Region)
    if strict:
        for use in (region.settled, lambda: bytes(region), lambda: region[:1]):
            with pytest.raises(SourceChanged, match="written meanwhile"):
                use()
    else:
        assert bytes(region)[:1] == b"?"
    content.close()


def test_a_file_that_was_cut_short(file: Path) -> None:
    content = stored(file, strict=False)
    region = next(content)
    os.truncate(file, 1000)
    with pytest.raises(SourceChanged, match="it ends at byte 1000"):
        bytes(region)
    content.close()


@pytest.mark.parametrize("size", [None, 3 * MIB])
@pytest.mark.parametrize("digest", [None, "sha256:"])
def test_regions_pass_a_check_of_the_size_alone(file: Path, size: int | None, digest: str | None) -> None:
    """The last one is held back until everything is known to be right, so it is read; and what is hashed is read."""
    os.truncate(file, 3 * MIB)
    if digest is not None:
        digest += hashlib.sha256(DATA[: 3 * MIB]).hexdigest()
    content = stored(file)
    found, data = [], b""
    for chunk in verified(iter(content), "it", size, digest):
        found.append(type(chunk))
        data += bytes(chunk)
    content.close()
    assert data == DATA[: 3 * MIB]
    expected = {(None, None): [Region] * 3, (3 * MIB, None): [Region, Region, bytes]}
    assert found == expected.get((size, digest), [bytes] * 3)
