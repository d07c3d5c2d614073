"""What every stage of a Dockerfile is built on, looked up and checked before anything is made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from streamer.build import runtime
from streamer.build.arguments import Arguments
from streamer.build.dockerfile import Dockerfile, Stage, refused_run, trigger
from streamer.build.expansion import expand
from streamer.build.instruction import Copy, From, Instruction, OnBuild, Run
from streamer.build.parsing import located
from streamer.errors import InvalidRequest, NotFound, StreamerError, Unsupported
from streamer.oci import config as configs
from streamer.stores.base import Image

SCRATCH = "scratch"
"""The base that is no image."""

LookUp: TypeAlias = Callable[[str], Awaitable[Image]]
"""Finds an image by its name or ID. NotFound, Ambiguous, InvalidReference, Forbidden."""
Origin: TypeAlias = "Image | int | None"
"""An image, the number of an earlier stage, or nothing at all."""

_ARCHITECTURES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A stage whose bases are known. `triggers` come before its own instructions; `origins` are what `--from` names."""

    stage: Stage
    base: Origin
    triggers: tuple[Instruction, ...] = ()
    origins: Mapping[str, Origin] = field(default_factory=dict)


def outer(dockerfile: Dockerfile, given: Mapping[str, str]) -> Arguments:
    """The arguments as they stand before the first FROM. InvalidRequest with the line."""
    arguments = Arguments(given)
    for each in dockerfile.arguments:
        try:
            for name, default in each.arguments:
                values = arguments.values()
                default = None if default is None else expand(default, values, dockerfile.escape)
                arguments = arguments.with_outer(expand(name, values, dockerfile.escape), default)
        except StreamerError as error:
            raise placed(error, dockerfile.name, each.line) from None
    return arguments


async def prepared(dockerfile: Dockerfile, arguments: Arguments, look_up: LookUp) -> tuple[Prepared, ...]:
    """Every stage with its bases. What is wrong raises with file and line: NotFound and whatever else looking up an
    image raises, Unsupported for a RUN of the file or of a base's triggers, and for another platform."""
    dockerfile.refuse_runs()
    found: list[Prepared] = []
    for stage in dockerfile.stages:
        try:
            found.append(await _stage(dockerfile, stage, found, arguments, look_up))
        except StreamerError as error:
            raise placed(error, dockerfile.name, stage.origin.line) from None
    return tuple(found)


def placed(error: StreamerError, name: str, line: int) -> StreamerError:
    """The same error with the file and line that it is about; for what is in no file (line 0) as it is."""
    if "file" in error.details or not line:
        return error
    error = located(error, line)
    return type(error)(f"{name}, {error}", **{**error.details, "file": name})


async def _stage(
    dockerfile: Dockerfile, stage: Stage, before: Sequence[Prepared], arguments: Arguments, look_up: LookUp
) -> Prepared:
    base = await _base(stage.origin, before, arguments, dockerfile.escape, look_up)
    triggers: list[Instruction] = []
    for text in _triggers(base, before):
        parsed = trigger(text)
        if isinstance(parsed, Run):
            origin = f"the trigger of {stage.origin.base} "
            raise refused_run(dockerfile.name, stage.origin.line, parsed, origin)
        triggers.append(parsed)
    origins: dict[str, Origin] = {}
    for each in (*triggers, *stage.instructions):
        if isinstance(each, Copy) and each.origin and each.origin not in origins:
            try:
                origins[each.origin] = await _origin(each.origin, before, look_up)
            except StreamerError as error:
                raise placed(error, dockerfile.name, stage.origin.line if each in triggers else each.line) from None
    return Prepared(stage, base, tuple(triggers), origins)


async def _base(origin: From, before: Sequence[Prepared], arguments: Arguments, escape: str, look_up: LookUp) -> Origin:
    values = arguments.outer_values()
    name = expand(origin.base, values, escape)
    if not name:
        raise InvalidRequest(f"FROM {origin.base} names no image: its variables are empty")
    platform = expand(origin.platform, values, escape)
    base: Origin = _named(name, before)
    if base is None and name != SCRATCH:
        base = await look_up(name)
    if platform:
        _check_platform(platform, base)
    return base


async def _origin(name: str, before: Sequence[Prepared], look_up: LookUp) -> Origin:
    stage = _named(name, before)
    if stage is None and name.isascii() and name.isdigit():
        if int(name[:9]) >= len(before):
            raise NotFound(f"there is no stage {name[:20]} before this one to copy from")
        stage = int(name)
    if stage is None and name == SCRATCH:
        raise InvalidRequest(f"--from={SCRATCH} names nothing that has files")
    return await look_up(name) if stage is None else stage


def _named(name: str, before: Sequence[Prepared]) -> int | None:
    """The number of the stage with this name."""
    return next((number for number, each in enumerate(before) if each.stage.name == name.lower()), None)


def _triggers(base: Origin, before: Sequence[Prepared]) -> Sequence[str]:
    if base is None:
        return ()
    if isinstance(base, int):
        return [each.trigger for each in before[base].stage.instructions if isinstance(each, OnBuild)]
    return runtime.of_image(base.config.value, f"the configuration of image {base.id}").strings("OnBuild")


def _check_platform(platform: str, base: Origin) -> None:
    system, architecture = "linux", configs.machine()
    if isinstance(base, Image):
        system, architecture = base.config.os or system, base.config.architecture or architecture
    first, _, rest = platform.lower().partition("/")
    wanted = (first, rest.partition("/")[0]) if rest else (first, architecture) if first == system else (system, first)
    if (wanted[0], _ARCHITECTURES.get(wanted[1], wanted[1])) != (system, architecture):
        raise Unsupported(f"--platform={platform[:100]} is not what the base is for: {system}/{architecture}")
