"""How an archive is cut: lengths that always suffice, and nothing lost between two chunks."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from streamer.errors import LimitExceeded, SourceFailed
from streamer.export.exporter import exporter
from streamer.export.plan import ExportPlan, Kind, Session
from streamer.sinks.base import Layout
from streamer.sinks.cutting import Cutter
from streamer.sinks.sizes import steps

MiB, GiB, TiB = 1 << 20, 1 << 30, 1 << 40
S3 = Layout(smallest=5 * MiB, largest=5 * GiB, most=10_000)


@pytest.mark.parametrize(
    ("wanted", "size", "step"),
    [
        (16 * MiB, 1, 16 * MiB),
        (16 * MiB, 10_000 * 16 * MiB, 16 * MiB),
        (16 * MiB, 10_000 * 16 * MiB + 1, 17 * MiB),
        (16 * MiB, 5 * TiB, 525 * MiB),
        (1, 100 * MiB, 5 * MiB),
    ],
)
def test_a_known_length(wanted: int, size: int, step: int) -> None:
    found = steps(wanted, size, S3)
    assert found.step == step
    assert {found.length(number) for number in (1, 1000, 10_000)} == {step}
    assert -(-size // step) <= S3.most


@pytest.mark.parametrize("wanted", [5 * MiB, 16 * MiB])
def test_an_unknown_length_fits_always(wanted: int) -> None:
    found = steps(wanted, None, S3)
    lengths = [found.length(number) for number in range(1, S3.most + 1)]
    assert max(lengths) <= S3.largest
    assert lengths == sorted(lengths)
    assert lengths[:900] == [wanted] * 900
    assert sum(lengths) >= 5 * TiB  # the longest object that S3 takes


def test_more_than_the_storage_takes() -> None:
    with pytest.raises(LimitExceeded):
        steps(16 * MiB, None, S3).length(10_001)
    with pytest.raises(LimitExceeded):
        steps(16 * MiB, 51 * TiB, S3).length(1)


def planned(pieces: list[bytes], error: Exception | None = None) -> ExportPlan:
    def chunks(_session: Session) -> Iterator[bytes]:
        yield from pieces
        if error is not None:
            raise error

    return ExportPlan(Kind.CONTAINER, "container x", "x", chunks)


@pytest.mark.parametrize("size", [1, 7, 100, 1000, 5000])
async def test_parts_put_together_are_the_stream(size: int) -> None:
    chance = random.Random(size)
    pieces = [chance.randbytes(chance.randrange(1, 300)) for _ in range(20)]
    parts = []
    async with exporter() as exports, exports.open(planned(pieces)) as stream:
        cutter = Cutter(stream)
        while not cutter.exhausted:
            parts.append(await cutter.take(memoryview(bytearray(size))))
    assert b"".join(parts) == b"".join(pieces)
    assert {len(part) for part in parts[:-1]} <= {size}
    assert 0 < len(parts[-1]) <= size


async def test_the_last_part_is_not_taken_before_the_stream_ended_well() -> None:
    plan = planned([b"x" * 10, b"y" * 10], SourceFailed("gone"))
    async with exporter() as exports, exports.open(plan) as stream:
        cutter = Cutter(stream)
        assert await cutter.take(memoryview(bytearray(10))) == b"x" * 10
        with pytest.raises(SourceFailed):
            await cutter.take(memoryview(bytearray(10)))
