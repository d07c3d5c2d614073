"""Whole files: stages, targets, labels, and what is refused before anything is made."""

from __future__ import annotations

import pytest

from streamer.build import dockerfile
from streamer.build.instruction import Env, Label, Run
from streamer.errors import InvalidRequest, LimitExceeded, NotFound, Unsupported

TWO = b"ARG a=1\nFROM x AS one\nENV a=b\nFROM one AS Two\nCOPY --from=one a b\nRUN y\n"


def test_stages() -> None:
    found = dockerfile.read(TWO)
    assert [argument.arguments for argument in found.arguments] == [(("a", "1"),)]
    assert [(stage.name, stage.origin.base, len(stage.instructions)) for stage in found.stages] == [
        ("one", "x", 1),
        ("two", "one", 2),
    ]
    assert found.steps == 6


def test_a_target_leaves_out_what_comes_behind() -> None:
    found = dockerfile.read(TWO)
    found.up_to("ONE").refuse_runs()
    assert found.up_to("ONE").steps == 3
    assert found.up_to("two") == found
    with pytest.raises(NotFound, match="Dockerfile has no stage 'three'"):
        found.up_to("three")


def test_run_is_refused_with_file_and_line() -> None:
    with pytest.raises(
        Unsupported, match=r"^sub/Dockerfile, line 6: 'RUN y' would have to run in a container"
    ) as caught:
        dockerfile.read(TWO, "sub/Dockerfile").refuse_runs()
    assert caught.value.details["line"] == 6


def test_labels_come_last_and_are_not_expanded() -> None:
    found = dockerfile.read(b"FROM x\nENV a=b").labelled({"z": "$a", "c": "d"})
    *_, first, second = found.stages[-1].instructions
    assert isinstance(first, Label) and isinstance(second, Label)
    assert (first.pairs, second.pairs) == ((("c", "d"),), (("z", "$a"),))
    assert first.literal and second.literal
    assert found.steps == 4


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", None),
        (b"# nothing\n", None),
        (b"ARG a\n", None),
        (b"\nENV a=b\nFROM x", 2),
        (b"FROM x AS a\nFROM y AS A", 2),
        (b"FROM x\nENV a \\\n=b\nFOO", 4),
    ],
)
def test_malformed(data: bytes, line: int | None) -> None:
    with pytest.raises(
        InvalidRequest, match="^Dockerfile: " if line is None else f"^Dockerfile, line {line}: "
    ) as caught:
        dockerfile.read(data)
    assert caught.value.details["file"] == "Dockerfile"
    assert caught.value.details.get("line") == line


def test_too_many_instructions() -> None:
    text = b"FROM x\n" + b"CMD\n" * 9_999
    assert dockerfile.read(text).steps == 10_000
    with pytest.raises(LimitExceeded, match="10000 instructions"):
        dockerfile.read(text + b"CMD\n")


def test_triggers() -> None:
    assert isinstance(dockerfile.trigger("ENV a=b"), Env)
    assert isinstance(dockerfile.trigger("RUN x"), Run)
    for text in ("", "ENV a=b\nENV c=d", "FROM x", "nothing"):
        with pytest.raises(InvalidRequest):
            dockerfile.trigger(text)
