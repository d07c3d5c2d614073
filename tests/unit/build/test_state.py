"""What instructions make of a configuration. The texts and values were compared with those of Docker 20.10."""

from __future__ import annotations

from typing import Any

import pytest

from streamer.build import dockerfile
from streamer.build.arguments import Arguments
from streamer.build.runtime import PATH, of_image
from streamer.build.state import State
from streamer.errors import InvalidArchive, InvalidRequest

BASE: dict[str, Any] = {
    "config": {
        "Env": ["A=1"],
        "Entrypoint": ["/e"],
        "Cmd": ["c"],
        "Labels": {"old": "label"},
        "WorkingDir": "/w",
        "Healthcheck": {"Test": ["CMD", "x"], "Interval": 5_000_000_000},
        "Unknown": 1,
    }
}


def after(text: str, base: dict[str, Any] | None = None, **given: str) -> tuple[State, list[str]]:
    found = dockerfile.read(b"FROM x\n" + text.encode())
    state, told = State(of_image({} if base is None else base, "x"), Arguments(given)), []
    for instruction in found.stages[0].instructions:
        state, text = state.after(state.expanded(instruction, found.escape))
        told.append(text)
    return state, told


CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "env": ("ENV a=b c='d e'", {"Env": [PATH, "a=b", "c=d e"]}, "/bin/sh -c #(nop)  ENV a=b c=d e"),
    "env again": ("ENV PATH=/x:$PATH", {"Env": ["PATH=/x:" + PATH[5:]]}, f"/bin/sh -c #(nop)  ENV PATH=/x:{PATH[5:]}"),
    "label": ("LABEL b=1 a=2", {"Labels": {"a": "2", "b": "1"}}, "/bin/sh -c #(nop)  LABEL b=1 a=2"),
    "workdir": ("WORKDIR /a/../b", {"WorkingDir": "/a/../b"}, "/bin/sh -c #(nop) WORKDIR /a/../b"),
    "relative workdir": ("WORKDIR a/../b", {"WorkingDir": "/b"}, "/bin/sh -c #(nop) WORKDIR /b"),
    "user": ("USER a:b", {"User": "a:b"}, "/bin/sh -c #(nop)  USER a:b"),
    "expose": (
        "EXPOSE 90 7-8/UDP 127.0.0.1:81:82",
        {"ExposedPorts": {"7/udp": {}, "8/udp": {}, "82/tcp": {}, "90/tcp": {}}},
        "/bin/sh -c #(nop)  EXPOSE 127.0.0.1:81:82 7-8/UDP 90",
    ),
    "volume": ("VOLUME /b /a", {"Volumes": {"/a": {}, "/b": {}}}, "/bin/sh -c #(nop)  VOLUME [/b /a]"),
    "cmd": ("CMD a 'b'", {"Cmd": ["/bin/sh", "-c", "a 'b'"]}, '/bin/sh -c #(nop)  CMD ["/bin/sh" "-c" "a \'b\'"]'),
    "empty cmd": ("CMD", {"Cmd": ["/bin/sh", "-c"]}, '/bin/sh -c #(nop)  CMD ["/bin/sh" "-c"]'),
    "no cmd": ("CMD []", {"Cmd": []}, "/bin/sh -c #(nop)  CMD []"),
    "quotes": (
        'CMD ["é\\u0001\\t\\"", "\\u00a0\\ue000"]',
        {"Cmd": ['é\x01\t"', "\xa0\ue000"]},
        '/bin/sh -c #(nop)  CMD ["é\\x01\\t\\"" "\\u00a0\\ue000"]',
    ),
    "no entrypoint": ("ENTRYPOINT []", {"Entrypoint": None}, "/bin/sh -c #(nop)  ENTRYPOINT []"),
    "shell": ('SHELL ["/b", "-d"]', {"Shell": ["/b", "-d"]}, "/b -d #(nop)  SHELL [/b -d]"),
    "stop signal": ("STOPSIGNAL rtmin+3", {"StopSignal": "rtmin+3"}, "/bin/sh -c #(nop)  STOPSIGNAL rtmin+3"),
    "health check": (
        "HEALTHCHECK --interval=5m30s --timeout=1500ms --retries=3 CMD a",
        {
            "Healthcheck": {
                "Test": ["CMD-SHELL", "a"],
                "Interval": 330_000_000_000,
                "Timeout": 1_500_000_000,
                "Retries": 3,
            }
        },
        '/bin/sh -c #(nop)  HEALTHCHECK &{["CMD-SHELL" "a"] "5m30s" "1.5s" "0s" \'\\x03\'}',
    ),
    "no health check": (
        "HEALTHCHECK NONE",
        {"Healthcheck": {"Test": ["NONE"]}},
        '/bin/sh -c #(nop)  HEALTHCHECK &{["NONE"] "0s" "0s" "0s" \'\\x00\'}',
    ),
    "trigger": ("ONBUILD RUN  x ", {"OnBuild": ["RUN  x "]}, "/bin/sh -c #(nop)  ONBUILD RUN  x "),
    "argument": ("ARG a=$PATH b", {}, f"/bin/sh -c #(nop)  ARG a={PATH[5:]} b"),
    "maintainer": ("MAINTAINER a b", {}, "/bin/sh -c #(nop)  MAINTAINER a b"),
}


@pytest.mark.parametrize("name", CASES)
def test_one_instruction(name: str) -> None:
    text, expected, told = CASES[name]
    before, _ = after("")
    state, texts = after(text)
    assert texts == [told]
    assert state.runtime.document() == {**before.runtime.document(), **expected}


def test_a_base_gives_what_it_has() -> None:
    state, _ = after("LABEL new=1", BASE)
    document = state.runtime.document()
    assert "Unknown" not in document
    assert document["Env"] == ["A=1", PATH]
    assert document["Labels"] == {"new": "1", "old": "label"}
    assert (document["Entrypoint"], document["Cmd"], document["WorkingDir"]) == (["/e"], ["c"], "/w")
    assert BASE["config"]["Labels"] == {"old": "label"}


COMMANDS = {
    "ENTRYPOINT a": (["/bin/sh", "-c", "a"], None),
    'ENTRYPOINT ["a"]\nCMD b': (["a"], ["/bin/sh", "-c", "b"]),
    'CMD ["b"]\nENTRYPOINT ["a"]': (["a"], ["b"]),
    'CMD []\nENTRYPOINT ["a"]': (["a"], None),
    'CMD\nENTRYPOINT ["a"]': (["a"], None),
    'SHELL ["s"]\nCMD b': (["/e"], ["s", "b"]),
}


@pytest.mark.parametrize("text", COMMANDS)
def test_an_entrypoint_takes_the_command_of_the_base_away(text: str) -> None:
    document = after(text, BASE)[0].runtime.document()
    assert (document["Entrypoint"], document["Cmd"]) == COMMANDS[text]


def test_a_health_check_has_the_times_of_the_one_before() -> None:
    document = after("HEALTHCHECK --timeout=1s CMD y", BASE)[0].runtime.document()
    assert document["Healthcheck"] == {"Test": ["CMD-SHELL", "y"], "Interval": 5_000_000_000, "Timeout": 1_000_000_000}


ARGUMENTS: dict[str, tuple[dict[str, str], str]] = {
    "ARG x=1\nLABEL l=$x": ({}, "1"),
    "ARG x=1\nLABEL l=$x ": ({"x": "2"}, "2"),
    "LABEL l=$x": ({"x": "2"}, ""),
    "ARG x\nLABEL l=$x": ({}, ""),
    "ARG x\nENV x=3\nLABEL l=$x": ({"x": "2"}, "3"),
    "ENV x=3\nARG x=1\nLABEL l=$x": ({"x": "2"}, "3"),
    "LABEL l=$HTTP_PROXY": ({"HTTP_PROXY": "p"}, "p"),
    "LABEL l=$http_proxy": ({}, ""),
    "ENV x=1 y=$x\nLABEL l=$x$y": ({}, "1"),
    "ARG x=1\nARG y=${x}2\nLABEL l=$y": ({}, "12"),
}


@pytest.mark.parametrize("text", ARGUMENTS)
def test_arguments(text: str) -> None:
    given, expected = ARGUMENTS[text]
    assert after(text, **given)[0].runtime.document()["Labels"] == {"l": expected}


def test_arguments_that_nothing_names() -> None:
    state, _ = after("ARG x", x="1", y="2", HTTP_PROXY="3", a="4")
    assert state.arguments.unused() == ["a", "y"]


def test_arguments_before_the_first_stage() -> None:
    arguments = Arguments({"b": "given"}).with_outer("a", "1").with_outer("b", "2").with_outer("c", None)
    assert arguments.outer_values() == {"a": "1", "b": "given"}
    stage = arguments.for_stage()
    assert stage.values() == {}
    assert stage.with_inner("a", None).with_inner("b", "own").values() == {"a": "1", "b": "given"}
    assert stage.with_inner("a", "own").values() == {"a": "own"}


@pytest.mark.parametrize(
    "text",
    ["WORKDIR $UNSET", "STOPSIGNAL FOO", "STOPSIGNAL 0", "EXPOSE 80-70", "EXPOSE 65536", "EXPOSE 80/ip", "EXPOSE a:80",
     "EXPOSE 1-3:5-6", "VOLUME $UNSET", "ENV $UNSET=x", "LABEL a='b"],
)  # fmt: skip
def test_values_that_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        after(text)


@pytest.mark.parametrize(
    "config",
    [
        [1],
        {"Env": "A=1"},
        {"Env": [1]},
        {"Labels": {"a": 1}},
        {"User": 1},
        {"Volumes": []},
        {"OnBuild": {}},
        {"Cmd": [None]},
    ],
)
def test_a_base_that_makes_no_sense(config: Any) -> None:
    with pytest.raises(InvalidArchive, match="base"):
        of_image({"config": config}, "the base")
