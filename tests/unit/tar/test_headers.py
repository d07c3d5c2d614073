"""Headers told from tar-split records alone: those of the archive itself, numbered as the records are."""

from __future__ import annotations

import gzip
import io
import tracemalloc

import pytest
from support.splits import recorded
from support.tarbytes import END, header, member, old_sparse, pax

from streamer.errors import StoreDamaged
from streamer.tar.headers import headers
from streamer.tar.reader import Reader
from streamer.tar.records import File, records
from streamer.tar.split import SplitWriter

ARCHIVES = {
    "nothing": END,
    "files and directories": header(b"d/", type=b"5", mode=0o2750, uid=33) + member(b"d/f", b"x" * 1300) + END,
    "a link, a hard link, an empty file": header(b"s", type=b"2", link=b"t")
    + header(b"e")
    + header(b"h", type=b"1", link=b"e")
    + END,
    "an extended header": pax((b"uid", b"3000000"), (b"path", b"n" * 300)) + member(b"short", b"abc") + END,
    "content that looks like a header": member(b"a", header(b"inside", uid=9) + END) + member(b"b", b"y") + END,
    "a sparse file": old_sparse(b"s", [(512, 512)], 4096, b"x" * 512) + member(b"b", b"y", uid=3) + END,
    "no end": member(b"a", b"x" * 512),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_as_in_the_archive(name: str) -> None:
    data = ARCHIVES[name]
    file = io.BytesIO()
    if name == "no end":
        writer = SplitWriter(file)
        writer.segment(data[:512])
        writer.file(b"a", 512, bytes(8))
        writer.close()
        file.seek(0)
    else:
        file, _ = recorded(data)
    expected = list(Reader(io.BytesIO(data), terminated=False))
    assert list(headers(file)) == expected
    file.seek(0)
    names = [record.name for _, record in records(file) if isinstance(record, File)]
    assert names == [entry.name for entry in expected]


def test_content_costs_no_memory() -> None:
    file = io.BytesIO()
    writer = SplitWriter(file)
    size = 1 << 30
    writer.segment(header(b"large", size=size))
    writer.file(b"large", size, bytes(8))
    writer.segment(header(b"next", uid=7) + END)
    writer.close()
    file.seek(0)
    tracemalloc.start()
    try:
        found = [(entry.name, entry.size, entry.uid) for entry in headers(file)]
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == [(b"large", size, 0), (b"next", 0, 7)]
    assert most < 8 << 20


DAMAGED = {
    "no records": b"",
    "no gzip": b"no gzip",
    "cut": recorded(ARCHIVES["files and directories"])[0].getvalue()[:-9],
    "no header": gzip.compress(b'{"type":2,"payload":"' + b"QUFB" * 200 + b'","position":0}\n'),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage(name: str) -> None:
    with pytest.raises(StoreDamaged):
        list(headers(io.BytesIO(DAMAGED[name])))
