"""Files of a layer that this process may not read: said as what it is, and not as if the source had changed."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from support import images, leaks
from support.images import directory, file, layer

from streamer.errors import NotPermitted
from streamer.stores.assembly import assembly, trees
from streamer.stores.base import Reading
from streamer.stores.local.store import LocalStore

MEMBERS = (directory("etc/"), file("etc/passwd", b"root"), file("etc/big", b"big" * (1 << 20)), file("twice", b"1"))
PLAIN = images.image(layer(*MEMBERS), names=["plain:1"])
REPLACED = images.image(layer(*MEMBERS, file("twice", b"2")), names=["replaced:1"])
"""One of its files lies in `kept`."""


@contextmanager
def somebody() -> Iterator[None]:
    """As a user who may do nothing special; for all threads of this process."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@asynccontextmanager
async def stored(image: images.MadeImage) -> AsyncIterator[tuple[Path, Reading]]:
    """The directory of the image's layer, somewhere everybody may go, and how the embedded store reads it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        async with LocalStore.open(Path(place, "store"), name="mine") as store:
            await store.import_archive(images.Bytes(images.pack(images.docker(image))))
            found = next(iter(await store.images())).layers[0]
            for folder, _, names in os.walk(place):
                os.chmod(folder, 0o755)
                for name in names:
                    os.chmod(os.path.join(folder, name), 0o644)
            assert found.assemble is not None
            yield Path(os.fsdecode(found.snapshot.layers[0])).parent, found.assemble


CLOSED = {
    "a small file": ("diff/etc/passwd", "etc/passwd"),
    "a large file": ("diff/etc/big", "etc/big"),
    "a folder": ("diff/etc", "etc/passwd"),
    "the root": ("diff", "etc/passwd|diff"),
    "the records": ("tar-split.json.gz", "tar-split.json.gz"),
    "all of it": (".", "the directory"),
}
OURS = {
    **CLOSED,
    "what later members replaced": ("kept", "kept"),
    "one of what they replaced": ("kept/3", "twice"),
    "where files lie": ("places.json", "places.json"),
}


def refused(read: Reading, closed: Path, named: str) -> None:
    mode, before = closed.stat().st_mode, leaks.held()
    with somebody():
        assert b"".join(read())
    os.chmod(closed, 0)
    with somebody(), pytest.raises(NotPermitted) as raised:
        list(read())
    said = str(raised.value)
    assert re.match(rf"({named}) of layer \w+ of store mine may not be read: ", said), said
    assert "CAP_DAC_READ_SEARCH" in said
    assert "/tmp" not in said
    os.chmod(closed, mode)
    with somebody():
        assert b"".join(read())
    assert leaks.held().beyond(before) == []


@pytest.mark.root
@pytest.mark.parametrize("case", OURS)
async def test_what_the_embedded_store_may_not_read(case: str) -> None:
    async with stored(REPLACED) as (place, read):
        name, named = OURS[case]
        if name == "places.json":
            (place / name).touch(0o644)
        refused(read, place / name, named)


@pytest.mark.root
@pytest.mark.parametrize("case", CLOSED)
async def test_what_other_stores_may_not_read(case: str) -> None:
    """Docker and containers/storage keep a layer's files as they were unpacked, all under their own names."""
    async with stored(PLAIN) as (place, _):
        what, (name, named) = "layer 1 of store mine", CLOSED[case]
        diff, records = os.fsencode(place / "diff"), os.fsencode(place / "tar-split.json.gz")
        refused(assembly(records, trees(diff, what), what), place / name, named)
