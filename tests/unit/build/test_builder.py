"""The order in which things are done, said and remembered; what images really are, tests of the whole show."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from streamer.build import dockerfile
from streamer.build.builder import Builder, Options
from streamer.build.instruction import Add, Copy
from streamer.build.preparation import outer, prepared
from streamer.build.progress import Line
from streamer.build.steps import Step
from streamer.errors import InvalidRequest, NotFound, StreamerError
from streamer.oci import config as configs
from streamer.stores.base import Image


def image(number: int, config: Mapping[str, Any]) -> Image:
    document = {"os": "linux", "architecture": "amd64", "config": config, "number": number}
    return Image("local", configs.parse(json.dumps(document).encode()), (), ())


@dataclass
class Taken:
    shop: Shop
    hash: str
    others: str = ""

    async def make(self, step: Step) -> Image:
        return await self.shop.make(step, "files")


@dataclass
class Shop:
    """Remembers steps in place of making files."""

    base: Mapping[str, Any] = field(default_factory=dict)
    made: list[tuple[Step, str, Image]] = field(default_factory=list)
    cache: dict[str, Image] = field(default_factory=dict)
    taken: list[tuple[tuple[str, ...], str | None, str]] = field(default_factory=list)
    kept: list[Image] = field(default_factory=list)
    content: str = "file:0"
    said: list[str] = field(default_factory=list)

    async def look_up(self, reference: str) -> Image:
        if reference != "base":
            raise NotFound(f"there is no image {reference}")
        return image(0, self.base)

    @asynccontextmanager
    async def files(
        self, instruction: Copy | Add, origin: Image | None, parent: Image | None, working_directory: str
    ) -> AsyncIterator[Taken]:
        if instruction.sources == ("missing",):
            raise NotFound("missing is not in the context")
        self.taken.append((instruction.sources, origin.id if origin else None, working_directory))
        yield Taken(self, self.content)

    async def cached(self, key: str) -> Image | None:
        return self.cache.get(key)

    async def make(self, step: Step, directory: str = "") -> Image:
        made = image(len(self.made) + 1, step.runtime.document())
        self.made.append((step, directory, made))
        self.cache[step.key] = made
        return made

    async def keep(self, image: Image) -> str:
        self.kept.append(image)
        return f"container{len(self.kept)}"

    def chown(self, chown: str) -> str:
        return f"--chown={chown} "


async def build(
    shop: Shop, text: str, options: Options | None = None, **given: str
) -> tuple[Image, list[str], list[str]]:
    """The image, what was said and the images that were told of."""
    found = dockerfile.read(text.encode())
    arguments = outer(found, given)
    lines: list[Line] = []

    async def say(line: Line) -> None:
        lines.append(line)

    builder = Builder(found, shop, options or Options(), say)
    try:
        made = await builder.build(await prepared(found, arguments, shop.look_up), arguments)
    finally:
        said = "".join(line.get("stream", "") for line in lines).splitlines()
        shop.said = said
    return made, said, [line["aux"]["ID"] for line in lines if "aux" in line]


async def test_what_is_said() -> None:
    shop = Shop()
    made, said, told = await build(shop, "ARG x=1\nFROM base\nENV a=b\nCOPY --chown=7 f /g", given="1")
    ids = [each.id.removeprefix("sha256:")[:12] for _, _, each in shop.made]
    base = (await shop.look_up("base")).id.removeprefix("sha256:")[:12]
    assert said == [
        "Step 1/4 : ARG x=1",
        "Step 2/4 : FROM base",
        f" ---> {base}",
        "Step 3/4 : ENV a=b",
        f" ---> {ids[0]}",
        "Step 4/4 : COPY --chown=7 f /g",
        f" ---> {ids[1]}",
        "[Warning] One or more build-args [given] were not consumed",
        f"Successfully built {ids[1]}",
    ]
    assert told == [made.id]
    assert [step.created_by for step, _, _ in shop.made] == [
        "/bin/sh -c #(nop)  ENV a=b",
        "/bin/sh -c #(nop) COPY --chown=7 file:0 in /g ",
    ]


async def test_each_step_is_made_on_the_one_before() -> None:
    shop = Shop()
    await build(shop, "FROM base\nENV a=b\nCOPY f /g\nMAINTAINER me\nLABEL c=d\nFROM scratch\nCOPY f /g")
    parents = [step.parent.id if step.parent else None for step, _, _ in shop.made]
    images = [made.id for _, _, made in shop.made]
    assert parents == [(await shop.look_up("base")).id, *images[:3], None]
    assert [step.runtime.document()["Image"] for step, _, _ in shop.made] == [parent or "" for parent in parents]
    assert [step.author for step, _, _ in shop.made] == ["", "", "me", "me", ""]


async def test_working_directories() -> None:
    shop = Shop({"WorkingDir": "/w"})
    await build(shop, "FROM base\nCOPY f .\nENV a=b\nENV c=d\nWORKDIR x\nUSER u\nCOPY f g\nWORKDIR /y")
    assert [directory for _, directory, _ in shop.made] == ["files", "/w", "", "/w/x", "", "files", "/y"]
    assert [place for _, _, place in shop.taken] == ["/w", "/w/x"]


async def test_stages() -> None:
    shop = Shop({"Env": ["A=1"], "OnBuild": ["ENV B=2", "COPY t /t"]})
    text = "FROM base AS one\nLABEL l=$A$B\nONBUILD LABEL m=n\nFROM one\nCOPY --from=0 f /\nCOPY --from=one f /"
    made, said, told = await build(shop, text)
    assert "# Executing 2 build triggers" in said and "# Executing 1 build trigger" in said
    config = made.config.value["config"]
    assert config["Labels"] == {"l": "12", "m": "n"}
    assert config["OnBuild"] is None
    first = told[0]
    assert shop.taken == [(("t",), None, ""), (("f",), first, ""), (("f",), first, "")]
    assert told[1] == made.id


async def test_the_cache() -> None:
    shop = Shop()
    text = "FROM base\nARG v\nENV a=$v\nCOPY f /g\nLABEL b=c"
    first, said, _ = await build(shop, text, v="1")
    assert " ---> Using cache" not in said
    again, said, _ = await build(shop, text, v="1")
    assert again == first
    assert said.count(" ---> Using cache") == 4
    for change in ({"v": "2"}, {"v": "1", "content": "file:1"}, {"v": "1", "text": text.replace("b=c", "b=d")}):
        shop.content = change.get("content", "file:0")
        count = len(shop.made)
        other, _, _ = await build(shop, change.get("text", text), v=change["v"])
        assert other != first
        assert 0 < len(shop.made) - count < 4


async def test_without_the_cache() -> None:
    shop = Shop()
    await build(shop, "FROM base\nENV a=b")
    _, said, _ = await build(shop, "FROM base\nENV a=b", Options(cache=False))
    assert " ---> Using cache" not in said
    assert len(shop.made) == 2


async def test_a_health_check_is_part_of_the_key() -> None:
    """CVE-2024-24557: an image of a base that differs only in what history does not tell must not be found."""
    shop = Shop({"Healthcheck": {"Test": ["CMD", "a"]}})
    first, _, _ = await build(shop, "FROM base\nENV a=b")
    shop.base = {"Healthcheck": {"Test": ["CMD", "b"]}}
    second, _, _ = await build(shop, "FROM base\nENV a=b")
    assert first.config.value["config"] != second.config.value["config"]


FAILURES = {
    "FROM base\nENV a=b\nCOPY missing /x": (NotFound, "Dockerfile, line 3: missing is not", 1),
    "FROM base\nCOPY missing /x": (NotFound, "Dockerfile, line 2: missing is not", 0),
    "FROM base\nENV a=b\n\nSTOPSIGNAL $x": (InvalidRequest, "Dockerfile, line 4: there is no signal", 1),
    "FROM scratch": (InvalidRequest, "Dockerfile makes no image", 0),
    "FROM scratch AS a\nFROM base\nCOPY --from=a x /": (InvalidRequest, "Dockerfile, line 3: stage a has no files", 0),
}


@pytest.mark.parametrize("text", FAILURES)
async def test_failures(text: str) -> None:
    kind, message, kept = FAILURES[text]
    shop = Shop()
    with pytest.raises(StreamerError, match=message) as caught:
        await build(shop, text, Options(keep_failed=True))
    assert type(caught.value) is kind
    assert shop.kept == [made for _, _, made in shop.made][:kept]


async def test_containers_are_kept_when_asked_for() -> None:
    shop = Shop()
    _, said, _ = await build(shop, "FROM base\nENV a=b\nCOPY f /g", Options(keep=True))
    assert shop.kept == [made for _, _, made in shop.made]
    assert [line for line in said if "Keeping" in line] == [
        " ---> Keeping container container1",
        " ---> Keeping container container2",
    ]
