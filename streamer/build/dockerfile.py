"""A whole Dockerfile: its stages, checked as far as a file by itself can be before anything is looked up or made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from streamer.build import parsing, script
from streamer.build.instruction import Arg, From, Instruction, Label, Run
from streamer.errors import InvalidRequest, LimitExceeded, NotFound, StreamerError, Unsupported

MAX_INSTRUCTIONS = 10_000


@dataclass(frozen=True, slots=True)
class Stage:
    origin: From
    instructions: tuple[Instruction, ...]

    @property
    def name(self) -> str:
        """In lower case; empty if it has none."""
        return self.origin.name


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """`arguments` stand before the first stage. `gaps` are the lines whose continuation has an empty line inside."""

    name: str
    escape: str
    arguments: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    gaps: tuple[int, ...] = ()

    @property
    def steps(self) -> int:
        """How many instructions there are."""
        return len(self.arguments) + sum(1 + len(stage.instructions) for stage in self.stages)

    def up_to(self, target: str) -> Dockerfile:
        """The same without the stages after the one of this name. NotFound if there is none."""
        for number, stage in enumerate(self.stages):
            if stage.name and stage.name == target.lower():
                return replace(self, stages=self.stages[: number + 1])
        raise NotFound(f"{self.name} has no stage {target[:100]!r} to build", parameter="target")

    def labelled(self, labels: Mapping[str, str]) -> Dockerfile:
        """The same with these labels set at the end of the last stage, by name."""
        added = tuple(
            Label(line=0, code=f"LABEL {name}={value}", pairs=((name, value),), literal=True)
            for name, value in sorted(labels.items())
        )
        *before, last = self.stages
        return replace(self, stages=(*before, replace(last, instructions=last.instructions + added)))

    def refuse_runs(self) -> None:
        """Unsupported, with its line, for the first RUN."""
        for stage in self.stages:
            for instruction in stage.instructions:
                if isinstance(instruction, Run):
                    raise refused_run(self.name, instruction.line, instruction)


def read(data: bytes, name: str = "Dockerfile") -> Dockerfile:
    """The Dockerfile of these bytes, called `name` in messages. InvalidRequest, Unsupported or LimitExceeded, with
    `details["file"]` and `details["line"]`. A RUN is none of these: see `refuse_runs`."""
    try:
        text = script.read(data)
        instructions = [parsing.parse(line, text.escape) for line in text.lines]
        arguments, stages = _stages(instructions)
    except StreamerError as error:
        _raise(error, name)
    return Dockerfile(name, text.escape, arguments, stages, text.gaps)


def trigger(text: str) -> Instruction:
    """The one instruction that an ONBUILD recorded. InvalidRequest if it is not one."""
    lines = script.read(text.encode()).lines
    if len(lines) != 1:
        raise InvalidRequest(f"the trigger {text[:200]!r} is not one instruction")
    instruction = parsing.parse(lines[0])
    if isinstance(instruction, From):
        raise InvalidRequest("FROM cannot be a trigger of ONBUILD")
    return instruction


def refused_run(file: str, line: int, instruction: Instruction, origin: str = "") -> Unsupported:
    """What is said of a RUN that this line leads to; `origin` is where it is written, if not there."""
    shown = instruction.code if len(instruction.code) <= 100 else instruction.code[:97] + "..."
    return Unsupported(
        f"{file}, line {line}: {origin}{shown!r} would have to run in a container, and streamer runs none; "
        "nothing was built",
        file=file,
        line=line,
    )


def _stages(instructions: Sequence[Instruction]) -> tuple[tuple[Arg, ...], tuple[Stage, ...]]:
    if len(instructions) > MAX_INSTRUCTIONS:
        raise LimitExceeded(f"it has more than {MAX_INSTRUCTIONS} instructions", limit=MAX_INSTRUCTIONS)
    arguments: list[Arg] = []
    stages: list[tuple[From, list[Instruction]]] = []
    names: set[str] = set()
    for each in instructions:
        if isinstance(each, From):
            if each.name in names:
                raise InvalidRequest(f"line {each.line}: there is a stage {each.name!r} already", line=each.line)
            names |= {each.name} - {""}
            stages.append((each, []))
        elif stages:
            stages[-1][1].append(each)
        elif isinstance(each, Arg):
            arguments.append(each)
        else:
            raise InvalidRequest(f"line {each.line}: a FROM has to come first", line=each.line)
    if not stages:
        raise InvalidRequest("there is no FROM in it" if instructions else "it has no instructions")
    return tuple(arguments), tuple(Stage(origin, tuple(inner)) for origin, inner in stages)


def _raise(error: StreamerError, name: str) -> NoReturn:
    between = "," if "line" in error.details else ":"
    raise type(error)(f"{name}{between} {error}", **{**error.details, "file": name}) from None
