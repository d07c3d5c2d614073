"""Archives made of anything: the strict reader refuses them, or reads what tarfile reads too."""

from __future__ import annotations

import io
import tarfile

from hypothesis import given, settings
from hypothesis import strategies as st
from support import hostile, tarbytes
from support.hostile import CASES
from support.tarbytes import END, GNU, POSIX

from streamer.errors import StreamerError
from streamer.tar.reader import Limits, Reader

LIMITS = Limits(entries=200, total=1 << 22)
NAME = st.sampled_from([b"a", b"b/", b"../x", b"d/e", b"n" * 100, b"\xff", b"", b"a\0b"])
NUMBER = st.one_of(
    st.integers(0, 1100),
    st.sampled_from([b"", b"zz", b"-1", b" 12 ", b"\x80" + bytes(10) + b"\x01", b"\xff" * 12, b"7" * 11]),
)
TYPE = st.sampled_from([b"0", b"\0", b"1", b"2", b"5", b"6", b"7", b"S", b"V", b"x", b"g", b"L", b"K"])
KEY = st.sampled_from(
    [b"path", b"size", b"linkpath", b"mtime", b"comment", b"uid"]
    + [b"GNU.sparse." + key for key in (b"name", b"realsize", b"size", b"major", b"minor", b"map", b"numblocks")]
)
VALUE = st.sampled_from([b"0", b"1", b"3", b"512", b"1024", b"p/q", b"", b"x\0y", b"-5", b"1.5", b"0,512"])


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    size = draw(NUMBER)
    if isinstance(size, bytes) and len(size) > 12:
        size = size[:12]
    return tarbytes.header(
        draw(NAME),
        type=draw(TYPE),
        size=size,
        mode=draw(st.sampled_from([0, 0o644, b"zz", b"100644 \0"])),
        magic=draw(st.sampled_from([POSIX, POSIX, GNU])),
        link=draw(st.sampled_from([b"", b"a", b"/"])),
    )


PARTS = st.one_of(
    headers(),
    st.builds(lambda name, content: tarbytes.member(name, content), NAME, st.binary(max_size=1100)),
    st.builds(
        lambda pairs, kind: tarbytes.pax(*pairs, type=kind),
        st.lists(st.tuples(KEY, VALUE), max_size=4),
        st.sampled_from([b"x", b"x", b"g"]),
    ),
    st.builds(tarbytes.long, st.sampled_from([b"L", b"K"]), NAME),
    st.sampled_from([bytes(512), b"\n" * 512, tarbytes.member(b"inner", b"content")]),
    st.sampled_from([case.data.removesuffix(END) for case in CASES if len(case.data) < 1 << 14 and not case.differs]),
)


def read(data: bytes) -> list[tuple[bytes, int]] | None:
    """Names and stored sizes, or None where refused; anything but a StreamerError fails the test."""
    found = []
    try:
        reader = Reader(io.BytesIO(data), limits=LIMITS)
        for entry in reader:
            found.append((entry.name.rstrip(b"/"), sum(map(len, reader.content()))))
            assert found[-1][1] == entry.stored
    except StreamerError as error:
        assert "\n" not in str(error)
        return None
    return found


def read_by_tarfile(data: bytes) -> list[bytes] | None:
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as file:
            return [info.name.encode("utf-8", "surrogateescape").rstrip(b"/") for info in file]
    except tarfile.ReadError as error:
        # A global header right before the end, as git makes of an empty tree, is too much for it.
        assert str(error) == "end of file header"
        return None


@settings(max_examples=300)
@given(st.lists(PARTS, max_size=5).map(b"".join))
def test_one_reading_or_none(parts: bytes) -> None:
    data = parts + END
    found = read(data)
    if found is not None:
        assert read_by_tarfile(data) in (None, [name for name, _ in found])


@given(st.binary(max_size=2000))
def test_noise_is_refused(noise: bytes) -> None:
    assert read(noise) is None or noise[:1024] == END
    read(noise + END)


@settings(max_examples=300)
@given(st.sampled_from(CASES).filter(lambda case: len(case.data) < 1 << 14), st.data())
def test_one_flipped_byte(case: hostile.Case, data: st.DataObject) -> None:
    if not case.data:
        return
    damaged = bytearray(case.data)
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    read(bytes(damaged))


@settings(max_examples=200)
@given(st.sampled_from(CASES).filter(lambda case: 512 <= len(case.data) < 1 << 14), st.data())
def test_a_changed_header_with_a_right_checksum(case: hostile.Case, data: st.DataObject) -> None:
    damaged = bytearray(case.data)
    block = 512 * data.draw(st.integers(0, len(damaged) // 512 - 1))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[block + data.draw(st.integers(0, 511))] = data.draw(
            st.sampled_from([0, 0x20, 0x2F, 0x30, 0x37, 0x80, 0xFF])
        )
    damaged[block : block + 512] = tarbytes.signed(bytes(damaged[block : block + 512]))
    read(bytes(damaged))
