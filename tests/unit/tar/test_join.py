"""Archives put together again: byte for byte, any span of them, and never from a file that is not what it was."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from support.hostile import CASES, Case
from support.splits import assembled, blockwise, recorded, whole
from support.tarbytes import END, header, member, pax

from streamer.errors import SourceChanged, StoreDamaged
from streamer.tar import join
from streamer.tar.records import File, length

GIVEN = {"whole": whole, "in blocks": lambda contents: blockwise(contents, 4)}


@pytest.mark.parametrize("case", [case for case in CASES if case.error is None], ids=lambda case: case.id)
def test_every_archive_comes_back_byte_for_byte(case: Case) -> None:
    file, contents = recorded(case.data)
    assert assembled(file, contents) == case.data
    file.seek(0)
    assert length(file) == len(case.data)


def test_small_pieces_are_joined_and_large_ones_passed() -> None:
    large = b"l" * (1 << 20)
    data = b"".join(member(b"%d" % number, b"c" * 100) for number in range(3000)) + member(b"large", large) + END
    file, contents = recorded(data)
    chunks = list(join.assemble(file, whole(contents)))
    assert b"".join(chunks) == data
    assert all(len(chunk) >= 256 << 10 for chunk in chunks[:3])
    assert any(chunk is contents[-1] for chunk in chunks)
    assert len(chunks) < 20


# Spans

SOME = (
    pax((b"path", b"p" * 150))
    + member(b"cut", b"hello world")
    + header(b"empty")
    + header(b"d/", type=b"5")
    + member(b"d/even", b"e" * 512)
    + member(b"d/odd", b"o" * 513)
    + END
    + b"behind the end"
)


@pytest.mark.parametrize("given", GIVEN)
def test_spans_with_every_edge(given: str) -> None:
    file, contents = recorded(SOME)
    edges = sorted(
        {0, len(SOME), *(SOME.find(content) + n for content in contents if content for n in (0, len(content)))}
    )
    near = sorted({edge + n for edge in edges for n in (-1, 0, 1, 3) if 0 <= edge + n <= len(SOME)})
    for start in near:
        assert assembled(file, contents, start, given=GIVEN[given]) == SOME[start:]
        for stop in near:
            assert assembled(file, contents, start, stop, GIVEN[given]) == SOME[start:stop], (start, stop)


def test_one_byte_at_every_place() -> None:
    file, contents = recorded(SOME)
    assert b"".join(assembled(file, contents, at, at + 1) for at in range(len(SOME))) == SOME


def test_what_lies_behind_the_end_is_nothing() -> None:
    file, contents = recorded(SOME)
    assert assembled(file, contents, len(SOME) - 3, len(SOME) + 3) == SOME[-3:]
    assert assembled(file, contents, len(SOME) + 1) == b""


def test_only_the_files_in_the_span_are_asked_for_and_only_their_bytes() -> None:
    file, contents = recorded(b"".join(member(b"f%d" % number, b"%d" % number * 1024) for number in range(5)) + END)
    asked = []

    def content(found: File, start: int, stop: int) -> Iterator[bytes]:
        asked.append((found.name, start, stop))
        return iter([contents[found.number][start:stop]])

    size = 512 + 1024
    # Who gets the last byte of a file has had all of it compared.
    for start, stop, expected in (
        (0, 512, []),
        (size + 512 + 24, 3 * size + 512 + 1, [(b"f1", 0, 1024), (b"f2", 0, 1024), (b"f3", 0, 1)]),
        (size + 512 + 24, 2 * size - 1, [(b"f1", 24, 1023)]),
        (2 * size - 1, 2 * size, [(b"f1", 0, 1024)]),
        (2 * size, 2 * size + 512, []),
        (2 * size + 600, 2 * size + 600, []),
        (5 * size, None, []),
    ):
        asked.clear()
        file.seek(0)
        list(join.assemble(file, content, start, stop))
        assert asked == expected


def test_records_behind_the_span_are_not_read() -> None:
    file, contents = recorded(member(b"f", b"x" * 600) + b"".join(member(b"g%d" % n, b"y") for n in range(9999)) + END)
    cut = io.BytesIO(file.getvalue()[:-100])
    assert assembled(cut, contents, 0, 700)[512:] == b"x" * 188
    with pytest.raises(StoreDamaged):
        assembled(cut, contents)


# Files that are not what they were


WRONG = [
    ([b"hello worle"], "another content"),
    ([b"hello ", b"worle"], "another content"),
    ([b"hello worle", b""], "another content"),
    ([b"hello worl"], "1 of its 11 bytes too few"),
    ([], "too few"),
    ([b""], "too few"),
    ([b"hello world!"], "more than"),
    ([b"hello world", b"!"], "more than"),
]


@pytest.mark.parametrize(("blocks", "words"), WRONG)
@pytest.mark.parametrize("span", [(0, None), (512, 512 + 11)])
def test_a_content_that_is_not_what_it_was(blocks: list[bytes], words: str, span: tuple[int, int | None]) -> None:
    file, _ = recorded(member(b"d/f\n", b"hello world") + END)
    closed = []

    def content(found: File, start: int, stop: int) -> Iterator[bytes]:
        try:
            yield from blocks
        finally:
            closed.append(True)

    with pytest.raises(SourceChanged, match=words) as raised:
        list(join.assemble(file, content, *span))
    assert raised.value.details == {"member": "d/f\\n"}
    assert closed == [True]


@pytest.mark.parametrize(("blocks", "words"), WRONG)
@pytest.mark.parametrize("span", [(0, None), (0, 515), (515, 518), (522, None)])
def test_a_whole_content_is_checked_wherever_the_span_cuts_it(
    blocks: list[bytes], words: str, span: tuple[int, int | None]
) -> None:
    file, _ = recorded(member(b"f", b"hello world") + END)
    with pytest.raises(SourceChanged, match=words):
        list(join.assemble(file, lambda *_: b"".join(blocks), *span))


@pytest.mark.parametrize(
    ("blocks", "words"), [([b"lo w"], "1 of its 11 bytes too few"), ([b"lo wor"], "more than its 8 bytes"), ([], "few")]
)
def test_the_part_of_a_content_has_its_size(blocks: list[bytes], words: str) -> None:
    file, _ = recorded(member(b"f", b"hello world") + END)
    with pytest.raises(SourceChanged, match=words):
        list(join.assemble(file, lambda *_: iter(blocks), 512 + 3, 512 + 8))


def test_parts_of_a_content_that_is_another_do_not_all_end_well() -> None:
    file, _ = recorded(member(b"f", b"hello world") + END)

    def part(start: int, stop: int) -> bytes:
        file.seek(0)
        found = join.assemble(file, lambda _, first, last: iter([b"HELLO world"[first:last]]), start, stop)
        return b"".join(found)

    assert part(512, 520) == b"HELLO wo"  # nobody could know yet
    with pytest.raises(SourceChanged, match="another content"):
        part(520, 523)


def test_an_abandoned_assembly_closes_its_content() -> None:
    large = b"x" * (1 << 20)
    file, _ = recorded(member(b"f", large * 2) + END)
    closed = []

    def content(found: File, start: int, stop: int) -> Iterator[bytes]:
        try:
            yield large
            yield large
        finally:
            closed.append(True)

    stream = join.assemble(file, content)
    while len(next(stream)) < len(large):
        pass
    assert not closed
    stream.close()
    assert closed == [True]
    assert not file.closed
