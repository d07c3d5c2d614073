"""Runs a prepared Dockerfile: stage by stage, instruction by instruction, an image for each; from the cache where one
was made of the very same before."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

from streamer.build import progress, runtime, steps
from streamer.build.arguments import Arguments
from streamer.build.dockerfile import Dockerfile
from streamer.build.instruction import Add, Copy, Instruction, Volume, Workdir
from streamer.build.preparation import Origin, Prepared, placed
from streamer.build.progress import Say
from streamer.build.state import State
from streamer.build.steps import Step
from streamer.errors import ConsumerGone, InvalidRequest, StreamerError
from streamer.oci import digest as digests
from streamer.stores.base import Image


class Files(Protocol):
    """What one COPY or ADD takes, found and hashed but not read for copying."""

    @property
    def hash(self) -> str:
        """As history tells it: `file:…`, `dir:…`, `multi:…`."""
        ...

    @property
    def others(self) -> str:
        """What else decides about the layer, besides history's text and the configuration."""
        ...

    async def make(self, step: Step) -> Image:
        """The image with these files on its parent. All or nothing."""
        ...


class Workshop(Protocol):
    """What images are made in."""

    def files(
        self, instruction: Copy | Add, origin: Image | None, parent: Image | None, working_directory: str
    ) -> AbstractAsyncContextManager[Files]:
        """What an expanded instruction takes: from the context, or from the file system of `origin`."""
        ...

    async def mountable(self, image: Image | None, paths: Sequence[str]) -> None:
        """InvalidRequest for one where no volume could be mounted, since the image has a file there."""
        ...

    async def cached(self, key: str) -> Image | None:
        """The image that was made under this key, if it is still there."""
        ...

    async def make(self, step: Step, directory: str = "") -> Image:
        """The image of a step without files; with `directory`, if that is not there yet, as its layer."""
        ...

    async def keep(self, image: Image) -> str:
        """The ID of a new container from the image."""
        ...

    def chown(self, chown: str) -> str:
        """How history tells of `--chown`."""
        ...


@dataclass(frozen=True, slots=True)
class Options:
    """`cache`: whether images of earlier builds may be used. `keep`: whether a container of each step's image stays;
    `keep_failed`: whether one of the last step does if a later one fails."""

    cache: bool = True
    keep: bool = False
    keep_failed: bool = False


@dataclass(slots=True)
class _Result:
    """What a stage has come to."""

    image: Image | None
    state: State
    changed: bool = False
    """Whether this build made or found an image for it."""
    settled: bool = False
    """Whether its working directory is known to be there."""


@dataclass(slots=True)
class Builder:
    """One build. `build` once."""

    dockerfile: Dockerfile
    workshop: Workshop
    options: Options
    say: Say
    _number: int = 1
    _results: list[_Result] = field(default_factory=list)

    async def build(self, stages: Sequence[Prepared], arguments: Arguments) -> Image:
        """The image of the last stage. Errors name file and line; images of the steps before one stay in the cache."""
        for number in self.dockerfile.gaps:
            await self._tell(f"[Warning] line {number} is continued over an empty line")
        for each in self.dockerfile.arguments:
            await self._step(each)
        for stage in stages:
            arguments = replace(arguments, used=arguments.used | await self._stage(stage, arguments.for_stage()))
        if unused := arguments.unused():
            await self._tell(f"[Warning] One or more build-args [{' '.join(unused)}] were not consumed")
        image = self._results[-1].image
        if image is None:
            raise InvalidRequest(f"{self.dockerfile.name} makes no image: its last stage has nothing but FROM scratch")
        await self._tell(f"Successfully built {digests.short(image.id)}")
        return image

    async def _stage(self, prepared: Prepared, arguments: Arguments) -> frozenset[str]:
        """Adds the result of a stage; the names of arguments that were used in it."""
        origin = prepared.stage.origin
        await self._step(origin)
        result = self._begun(prepared.base, arguments)
        self._results.append(result)
        if prepared.triggers:
            count = len(prepared.triggers)
            await self._tell(f"# Executing {count} build trigger{'s' if count > 1 else ''}")
            for each in prepared.triggers:
                await self._instruction(replace(each, line=origin.line), result, prepared.origins)
        await self._arrow(result)
        for each in prepared.stage.instructions:
            await self._step(each)
            await self._instruction(each, result, prepared.origins)
            await self._arrow(result)
        if result.image is not None:
            await self.say(progress.built(result.image.id))
        return frozenset(result.state.arguments.used)

    def _begun(self, base: Origin, arguments: Arguments) -> _Result:
        if isinstance(base, int):
            before = self._results[base]
            config = runtime.begun(before.state.runtime.having(OnBuild=None))
            return _Result(before.image, State(config, arguments))
        if base is None:
            return _Result(None, State(runtime.begun(runtime.EMPTY), arguments))
        found = runtime.of_image(base.config.value, f"the configuration of image {base.id}")
        return _Result(base, State(found.having(OnBuild=None), arguments))

    async def _instruction(self, given: Instruction, result: _Result, origins: Mapping[str, Origin]) -> None:
        failure: StreamerError | None = None
        try:
            expanded = result.state.expanded(given, self.dockerfile.escape)
            if isinstance(expanded, (Copy, Add)):
                await self._files(expanded, result, origins)
            else:
                await self._change(expanded, result)
        except ConsumerGone:
            raise
        except StreamerError as error:
            failure = error
        if self.options.keep if failure is None else self.options.keep_failed and result.changed:
            await self._keep(result)
        if failure is not None:
            raise placed(failure, self.dockerfile.name, given.line) from failure

    async def _keep(self, result: _Result) -> None:
        if result.image is not None:
            container = await self.workshop.keep(result.image)
            await self._tell(f" ---> Keeping container {container[:12]}")

    async def _change(self, given: Instruction, result: _Result) -> None:
        """An instruction that changes the configuration only. As in Docker, every WORKDIR, and whatever comes first in
        a stage, makes the working directory besides."""
        state, created_by = result.state.after(given)
        directory = "" if result.settled and not isinstance(given, Workdir) else state.runtime.working_directory
        if isinstance(given, Volume):
            await self.workshop.mountable(result.image, given.paths)
        step = steps.decided(result.image, state.runtime, created_by, state.author)
        image = await self._cached(step)
        if image is None:
            image = await self.workshop.make(step, directory)
        result.image, result.state, result.changed, result.settled = image, state, True, True

    async def _files(self, given: Copy | Add, result: _Result, origins: Mapping[str, Origin]) -> None:
        state = result.state
        async with self._taken(given, result, origins) as files:
            chown = self.workshop.chown(given.chown) if given.chown else ""
            text = steps.text(given, state.runtime, chown, files.hash)
            step = steps.decided(result.image, state.runtime, text, state.author, files.others)
            image = await self._cached(step)
            result.image = await files.make(step) if image is None else image
        result.changed = True

    @asynccontextmanager
    async def _taken(self, given: Copy | Add, result: _Result, origins: Mapping[str, Origin]) -> AsyncIterator[Files]:
        name = given.origin if isinstance(given, Copy) else ""
        origin = origins[name] if name else None
        if isinstance(origin, int):
            origin = self._results[origin].image
            if origin is None:
                raise InvalidRequest(f"stage {name} has no files to copy")
        async with self.workshop.files(given, origin, result.image, result.state.runtime.working_directory) as files:
            yield files

    async def _cached(self, step: Step) -> Image | None:
        if not self.options.cache:
            return None
        image = await self.workshop.cached(step.key)
        if image is not None:
            await self._tell(" ---> Using cache")
        return image

    async def _step(self, given: Instruction) -> None:
        await self._tell(f"Step {self._number}/{self.dockerfile.steps} : {given.code}")
        self._number += 1

    async def _arrow(self, result: _Result) -> None:
        await self._tell(f" ---> {digests.short(result.image.id) if result.image is not None else ''}")

    async def _tell(self, text: str) -> None:
        await self.say(progress.stream(text))
