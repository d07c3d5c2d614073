"""Medians, ratios, percentiles."""

from __future__ import annotations

import pytest

from bench.stats import Spread, percentile, ratio, spread


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0], Spread(3.0, 3.0, 3.0, 1)),
        ([3.0, 1.0, 2.0], Spread(2.0, 1.0, 3.0, 3)),
        ([4.0, 1.0, 2.0, 3.0], Spread(2.5, 1.0, 4.0, 4)),
        ([1.0, 1.0, 1.0, 1.0, 100.0], Spread(1.0, 1.0, 100.0, 5)),
    ],
)
def test_spread(values: list[float], expected: Spread) -> None:
    assert spread(values) == expected


def test_nothing_was_measured() -> None:
    with pytest.raises(ValueError, match="nothing"):
        spread([])
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 0.99)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([1.0, 2.0, 9.0], [4.0], 0.5),
        ([1.0], [1.0, 2.0, 3.0], 0.5),
        ([], [1.0], None),
        ([1.0], [], None),
        ([1.0], [0.0], None),
    ],
)
def test_ratio_is_median_by_median(ours: list[float], theirs: list[float], expected: float | None) -> None:
    assert ratio(ours, theirs) == expected


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.01, 1), (0.5, 50), (0.501, 51), (0.99, 99), (0.991, 100), (1.0, 100)]
)
def test_percentile_is_the_nearest_rank(share: float, expected: float) -> None:
    assert percentile([float(value) for value in range(100, 0, -1)], share) == expected
