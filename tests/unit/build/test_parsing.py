"""One line as an instruction."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from streamer.build.instruction import (
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
    OnBuild,
    Run,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from streamer.build.parsing import parse
from streamer.build.script import Line
from streamer.errors import InvalidRequest, StreamerError, Unsupported

S = 1_000_000_000

PARSED: dict[str, tuple[type[Instruction], dict[str, Any]]] = {
    "FROM a:1": (From, {"base": "a:1"}),
    "from --platform=linux/amd64 a As B.c": (From, {"base": "a", "name": "b.c", "platform": "linux/amd64"}),
    "ARG a": (Arg, {"arguments": (("a", None),)}),
    "ARG a=1 b= c": (Arg, {"arguments": (("a", "1"), ("b", ""), ("c", None))}),
    "ENV a b c": (Env, {"pairs": (("a", "b c"),)}),
    "ENV a=b 'c'=d": (Env, {"pairs": (("a", "b"), ("'c'", "d"))}),
    "LABEL a=b": (Label, {"pairs": (("a", "b"),)}),
    "MAINTAINER a  b": (Maintainer, {"name": "a  b"}),
    "COPY a b /c/": (Copy, {"sources": ("a", "b"), "destination": "/c/"}),
    'COPY ["a b", "c"]': (Copy, {"sources": ("a b",), "destination": "c"}),
    "COPY --from=0 --chown=a:b --chmod=644 a b": (
        Copy,
        {"sources": ("a",), "destination": "b", "origin": "0", "chown": "a:b", "chmod": "644"},
    ),
    "ADD --chown=1 http://x/y z": (Add, {"sources": ("http://x/y",), "destination": "z", "chown": "1"}),
    "WORKDIR a b": (Workdir, {"path": "a b"}),
    "USER a": (User, {"user": "a"}),
    "EXPOSE 90 80/udp": (Expose, {"ports": ("80/udp", "90")}),
    "VOLUME a  b": (Volume, {"paths": ("a", "b")}),
    'VOLUME [" a ", "b"]': (Volume, {"paths": ("a", "b")}),
    "STOPSIGNAL 9": (StopSignal, {"signal": "9"}),
    "CMD": (Cmd, {"command": {"words": (), "shell": True}}),
    "CMD []": (Cmd, {"command": {"words": (), "shell": False}}),
    "CMD a  'b'": (Cmd, {"command": {"words": ("a  'b'",), "shell": True}}),
    'ENTRYPOINT ["a", "b"]': (Entrypoint, {"command": {"words": ("a", "b"), "shell": False}}),
    'SHELL ["a"]': (Shell, {"words": ("a",)}),
    "HEALTHCHECK none": (Healthcheck, {"test": ("NONE",)}),
    "HEALTHCHECK --interval=1m30s --timeout=.5s --start-period=0s --retries=3 CMD a b": (
        Healthcheck,
        {"test": ("CMD-SHELL", "a b"), "interval": 90 * S, "timeout": S // 2, "retries": 3},
    ),
    'HEALTHCHECK --start-interval=2s cmd ["a", "b"]': (
        Healthcheck,
        {"test": ("CMD", "a", "b"), "start_interval": 2 * S},
    ),
    "ONBUILD  copy  a b ": (OnBuild, {"trigger": "copy  a b "}),
    "ONBUILD RUN --mount=type=cache x": (OnBuild, {"trigger": "RUN --mount=type=cache x"}),
    "RUN --mount=type=cache,target=/x y": (Run, {}),
    "RUN --anything": (Run, {}),
}


@pytest.mark.parametrize("text", PARSED)
def test_parsed(text: str) -> None:
    kind, expected = PARSED[text]
    parsed = parse(Line(7, text))
    assert type(parsed) is kind
    assert (parsed.line, parsed.code) == (7, text.strip())
    values = asdict(parsed)
    assert {name: values[name] for name in expected} == expected
    rest = {name: value for name, value in values.items() if name not in ("line", "code", *expected)}
    assert not any(rest.values()), rest


REFUSED: dict[str, type[StreamerError]] = {
    "FOO": InvalidRequest,
    "FROM": InvalidRequest,
    "FROM a b": InvalidRequest,
    "FROM a AS 1b": InvalidRequest,
    "FROM --x=y a": InvalidRequest,
    "ARG": InvalidRequest,
    "ARG =a": InvalidRequest,
    "ENV a": InvalidRequest,
    "ENV =a": InvalidRequest,
    "ENV --x=y a=b": InvalidRequest,
    "MAINTAINER": InvalidRequest,
    "COPY a": InvalidRequest,
    "COPY --from a b": InvalidRequest,
    "COPY --chown=1 --chown=1 a b": InvalidRequest,
    'COPY ["a", 1]': InvalidRequest,
    "COPY --link=true a b": Unsupported,
    "COPY --link a b": Unsupported,
    "COPY --parents a b": Unsupported,
    "COPY <<EOF /x": Unsupported,
    "COPY a <<-'END' /x/": Unsupported,
    "ADD --checksum=sha256:00 a b": Unsupported,
    "ADD --from=x a b": InvalidRequest,
    "VOLUME": InvalidRequest,
    'VOLUME [""]': InvalidRequest,
    "EXPOSE": InvalidRequest,
    "SHELL a": InvalidRequest,
    "SHELL []": InvalidRequest,
    "HEALTHCHECK": InvalidRequest,
    "HEALTHCHECK NONE x": InvalidRequest,
    "HEALTHCHECK CMD": InvalidRequest,
    "HEALTHCHECK CMD []": InvalidRequest,
    "HEALTHCHECK GET x": InvalidRequest,
    "HEALTHCHECK --interval=1 CMD x": InvalidRequest,
    "HEALTHCHECK --interval=-1s CMD x": InvalidRequest,
    "HEALTHCHECK --interval=10us CMD x": InvalidRequest,
    "HEALTHCHECK --retries=-1 CMD x": InvalidRequest,
    "HEALTHCHECK --retries=x CMD x": InvalidRequest,
    "ONBUILD": InvalidRequest,
    "ONBUILD FROM a": InvalidRequest,
    "ONBUILD onbuild ENV a=b": InvalidRequest,
    "ONBUILD MAINTAINER a": InvalidRequest,
    "ONBUILD FOO": InvalidRequest,
    "ONBUILD COPY --link a b": Unsupported,
}


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text: str) -> None:
    with pytest.raises(StreamerError) as caught:
        parse(Line(3, text))
    assert type(caught.value) is REFUSED[text]
    assert caught.value.details["line"] == 3
    assert str(caught.value).startswith("line 3: ")
