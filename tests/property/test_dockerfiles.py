"""Whatever comes as a Dockerfile is read or refused by name, soon; and reading what was read again changes nothing."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from streamer.build import dockerfile
from streamer.build.arguments import Arguments
from streamer.build.expansion import expand, expand_words
from streamer.build.instruction import Add, Copy, Run
from streamer.build.matching import compiled, replaced, without_prefix, without_suffix
from streamer.build.preparation import outer
from streamer.build.runtime import EMPTY, begun
from streamer.build.state import State
from streamer.errors import StreamerError

NAMES = "FROM ARG ENV LABEL COPY ADD RUN CMD ENTRYPOINT EXPOSE VOLUME USER WORKDIR SHELL STOPSIGNAL HEALTHCHECK ONBUILD"
PIECES = st.sampled_from(
    [
        *NAMES.split(),
        *(
            "MAINTAINER",
            "from",
            "As",
            "NONE",
            "--from=x",
            "--interval=1s",
            "--",
            "--x",
            "# escape=`",
            "#",
            "\n",
            " ",
            "\t",
        ),
        *(
            "\\\n",
            "\\",
            "`",
            "'",
            '"',
            "$",
            "${",
            "}",
            "$A",
            "${A:-",
            ":+x}",
            "=",
            "a=b",
            "a",
            "[",
            "]",
            '["a", "b"]',
            "é",
        ),
        *("80", "1-3/udp", "SIGKILL", "/x", "..", "<<EOF", "\0", "\r\n", "\x85", "#/%*?"),
    ]
)
TEXTS = st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=40).map(lambda parts: "".join(parts).encode()))
FILES = st.lists(st.lists(PIECES, max_size=8).map(" ".join), max_size=8).map(
    lambda lines: "\n".join(["FROM x", *lines]).encode()
)
VALUES = {"A": "1 2", "B": "", "é": "[*?]"}


@given(TEXTS | FILES)
def test_read_or_refused(data: bytes) -> None:
    with suppress(StreamerError):
        found = dockerfile.read(data)
        assert found.steps == len(found.arguments) + sum(1 + len(stage.instructions) for stage in found.stages)


@given(FILES)
def test_carried_out_or_refused(data: bytes) -> None:
    with suppress(StreamerError):
        found = dockerfile.read(data)
        state = State(begun(EMPTY), outer(found, {"A": "1"}).for_stage())
        for each in found.stages[0].instructions:
            expanded = state.expanded(each, found.escape)
            if not isinstance(expanded, (Add, Copy, Run)):
                state, told = state.after(expanded)
                assert " #(nop) " in told
        assert state.runtime.document() == State(state.runtime, Arguments({})).runtime.document()


@given(st.text(alphabet="aA${}:-+?#%/'\"\\ é[]*1", max_size=40))
def test_expanded_or_refused(text: str) -> None:
    with suppress(StreamerError):
        whole, words = expand(text, VALUES), expand_words(text, VALUES)
        assert "".join(words).replace(" ", "") == whole.replace(" ", "")


@given(st.text(alphabet="ab*?", max_size=6), st.text(alphabet="ab", max_size=10), st.booleans())
def test_patterns_take_away_what_matches(pattern: str, value: str, longest: bool) -> None:
    parts = compiled(pattern)
    prefix, suffix = without_prefix(value, parts, longest), without_suffix(value, parts, longest)
    assert value.endswith(prefix) and value.startswith(suffix)
    if longest:
        assert len(prefix) <= len(without_prefix(value, parts, False))
        assert len(suffix) <= len(without_suffix(value, parts, False))
    if replaced(value, parts, "", True) != value:
        assert len(replaced(value, parts, "", False)) < len(value)
