"""Tables, bars and the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import results, run, table
from bench.bars import BARS, Figure, judged, verdict
from bench.measure import Row, Sample
from bench.table import Section, markdown, timings
from bench.works import WORKS

MiB = 1 << 20


def row(name: str, *seconds: float, **more: object) -> Row:
    samples = [Sample(each, 0.01, 512 * MiB, 1.0, 64 * MiB) for each in seconds]
    return Row(name, samples=samples, **more)  # type: ignore[arg-type]


def test_timings() -> None:
    ours = row("ours", 1.0, 2.0, 3.0, variant="default")
    theirs = row("theirs", 4.0, against={"default": "ours", "other": "absent"})
    section = timings("T", [ours, theirs])
    assert section.columns[-2:] == ["streamer ÷ this, default", "streamer ÷ this, other"]
    assert section.rows == [
        ["ours", "3", "2.000 (1.000–3.000)", "10.0", "512.0", "2.00", "64", "0", "–", "–"],
        ["theirs", "1", "4.000 (4.000–4.000)", "10.0", "512.0", "2.00", "64", "0", "0.50", "–"],
    ]


def test_timings_of_another_basis_and_of_one_that_failed() -> None:
    failed = Row("peer", against={"": "ours"}, failed="it is\nbroken")
    section = timings("T", [row("ours", 1.0), failed], ["said"], basis=1024 * MiB)
    assert section.rows[0][5] == "1.00"
    assert section.rows[1] == ["peer", "0", *["–"] * 7]
    assert section.remarks == ["said", "peer: left out, it is\nbroken"]
    assert "- peer: left out, it is broken\n" in markdown(section)


def test_markdown_keeps_its_columns() -> None:
    section = Section("T", ["", "b"], [["a|b", "two\nlines"]], [])
    assert markdown(section) == "### T\n\n|  | b |\n| --- | ---: |\n| a\\|b | two lines |\n\n"


def test_a_section_without_rows_is_what_it_remarks() -> None:
    assert markdown(Section("T", [], [], ["why"])) == "### T\n\n- why\n"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("container-docker", 0.5, "reached"),
        ("container-docker", 0.6, "**missed** by 20 %"),
        ("first-byte", 3.0, "reached"),
        ("stalled-memory", 500.0, "**missed** by 100 %"),
    ],
)
def test_verdict(name: str, value: float, expected: str) -> None:
    assert verdict(next(bar for bar in BARS if bar.name == name), value) == expected


def test_every_bar_is_in_the_table_and_every_variant() -> None:
    rows = judged([Figure("outline", 0.31), Figure("loop", 51.0, "x"), Figure("loop", 1.0, "y")])
    assert len(rows) == len(BARS) + 1
    assert [row[2:] for row in rows if row[0].startswith("answer of")] == [
        ["x", "50 ms", "51.0 ms", "**missed** by 2 %"],
        ["y", "50 ms", "1.0 ms", "reached"],
    ]
    assert sum(row[-1] == "not measured" for row in rows) == len(BARS) - 2


def test_reports_are_kept_for_each_work_and_notes_are_appended(tmp_path: Path) -> None:
    section = table.Section("Big files", ["", "s"], [["a", "1"]], [])
    results.keep(tmp_path, results.Report([section], [Figure("big-nginx", 1.0)], [row("a", 1.0)], "big", "c1", "now"))
    results.keep(tmp_path, results.Report([], [Figure("outline", 2.0)], [], "outline", "c2", "then"))
    found = results.kept(tmp_path, list(WORKS))
    assert [each.work for each in found] == ["outline", "big"]
    assert found[1].sections == [section]
    page = results.page(found, {"CPU": "fast"}, ["podman: not installed"], "## What the profile shows\n\nProse.\n")
    for part in ("| CPU | fast |", "Left out: podman: not installed.", "### Big files", "at commit c1.", "**missed**"):
        assert part in page
    assert page.endswith("Prose.\n")


@pytest.mark.parametrize(
    ("arguments", "works", "runs"),
    [
        ([], list(WORKS), 5),
        (["--quick"], list(WORKS), 2),
        (["--runs", "7", "--quick"], list(WORKS), 7),
        (["--only", "big, container"], ["container", "big"], 5),
    ],
)
def test_options(arguments: list[str], works: list[str], runs: int) -> None:
    chosen = run.options(arguments)
    assert (chosen.only, chosen.runs, chosen.keep) == (works, runs, True)


@pytest.mark.parametrize("arguments", [["--only", "bigger"], ["--only", ","], ["--runs", "0"], ["--runs", "x"]])
def test_wrong_options(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        run.options(arguments)
    assert error.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
