"""Bases of stages: looked up and checked before anything is made."""

from __future__ import annotations

import json

import pytest

from streamer.build import dockerfile
from streamer.build.instruction import Copy, Label
from streamer.build.preparation import Prepared, outer, prepared
from streamer.errors import InvalidRequest, NotFound, StreamerError, Unsupported
from streamer.oci import config as configs
from streamer.stores.base import Image


def image(*triggers: str, architecture: str = "amd64") -> Image:
    document = {"os": "linux", "architecture": architecture, "config": {"OnBuild": list(triggers)}}
    return Image("local", configs.parse(json.dumps(document).encode()), (), ())


IMAGES = {
    "base": image(),
    "arm": image(architecture="arm64"),
    "trigger": image("LABEL a=b", "COPY --from=base /x /y"),
    "runs": image("LABEL a=b", "RUN make\tit"),
    "broken": image("LABEL a"),
}


class Store:
    """Images by name, and which of them were asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, reference: str) -> Image:
        self.asked.append(reference)
        if reference not in IMAGES:
            raise NotFound(f"there is no image {reference!r} in the store")
        return IMAGES[reference]


async def prepare(text: str, **given: str) -> tuple[Prepared, ...]:
    found = dockerfile.read(text.encode())
    return await prepared(found, outer(found, given), Store())


async def test_bases() -> None:
    stages = await prepare("FROM base AS One\nFROM scratch\nFROM one\nCOPY --from=0 a b\nCOPY --from=arm a b\nCOPY a b")
    assert [stage.base for stage in stages] == [IMAGES["base"], None, 0]
    assert stages[2].origins == {"0": 0, "arm": IMAGES["arm"]}


async def test_arguments_of_bases() -> None:
    text = "ARG tag=se\nARG name=ba$tag\nFROM --platform=$p $name"
    assert (await prepare(text))[0].base == IMAGES["base"]
    assert (await prepare(text, name="arm"))[0].base == IMAGES["arm"]


async def test_triggers() -> None:
    (stage,) = await prepare("FROM trigger")
    assert [type(each) for each in stage.triggers] == [Label, Copy]
    assert stage.origins == {"base": IMAGES["base"]}


async def test_triggers_of_an_earlier_stage_only_once() -> None:
    stages = await prepare("FROM trigger AS a\nONBUILD LABEL c=d\nFROM a AS b\nFROM b")
    assert [len(stage.triggers) for stage in stages] == [2, 1, 0]


REFUSED: dict[str, tuple[str, type[StreamerError], str]] = {
    "no image": ("FROM base\nFROM nothing", NotFound, r"Dockerfile, line 2: there is no image 'nothing'"),
    "no name": ("ARG a\nFROM $a", InvalidRequest, r"Dockerfile, line 2: FROM \$a names no image"),
    "run": ("FROM base\nENV a=b\nRUN x", Unsupported, r"Dockerfile, line 3: 'RUN x' would have to run"),
    "run of a trigger": ("\nFROM runs", Unsupported, r"line 2: the trigger of runs 'RUN make\\tit' would"),
    "run of a stage's trigger": (
        "FROM base AS a\nONBUILD RUN x\nFROM a",
        Unsupported,
        r"Dockerfile, line 3: the trigger",
    ),
    "broken trigger": ("FROM broken", InvalidRequest, r"Dockerfile, line 1: LABEL"),
    "own stage": ("FROM base AS a\nCOPY --from=0 a b", NotFound, r"Dockerfile, line 2: there is no stage 0"),
    "own name": ("FROM base AS a\nCOPY --from=a a b", NotFound, r"Dockerfile, line 2: there is no image 'a'"),
    "later stage": ("FROM base\nCOPY --from=1 a b\nFROM base", NotFound, r"Dockerfile, line 2: there is no stage 1"),
    "no image to copy from": ("FROM base\nCOPY --from=no a b", NotFound, r"Dockerfile, line 2: there is no image 'no'"),
    "scratch": ("FROM base\nCOPY --from=scratch a b", InvalidRequest, r"Dockerfile, line 2: --from=scratch"),
    "platform": (
        "FROM --platform=linux/arm64 base",
        Unsupported,
        r"line 1: --platform=linux/arm64 is not .* linux/amd64",
    ),
    "architecture": ("FROM --platform=amd64 arm", Unsupported, "arm64"),
    "system": ("FROM --platform=windows/amd64 base", Unsupported, "linux/amd64"),
    "argument": ("ARG a='b\nFROM base", InvalidRequest, r"Dockerfile, line 1: cannot expand"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refused(name: str) -> None:
    text, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message) as caught:
        await prepare(text)
    assert type(caught.value) is kind
    assert caught.value.details["file"] == "Dockerfile"


@pytest.mark.parametrize("platform", ["linux/amd64", "linux", "amd64", "LINUX/x86_64", "linux/amd64/v1"])
async def test_the_same_platform(platform: str) -> None:
    assert (await prepare(f"FROM --platform={platform} base"))[0].base == IMAGES["base"]


async def test_a_run_is_refused_before_any_image_is_looked_up() -> None:
    found, store = dockerfile.read(b"FROM nothing\nRUN x"), Store()
    with pytest.raises(Unsupported):
        await prepared(found, outer(found, {}), store)
    assert store.asked == []
