"""Where a stage stands between two instructions: its configuration, its arguments, and what else has been said."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from streamer.build import changes, instruction
from streamer.build.arguments import Arguments
from streamer.build.expansion import expand, expand_words
from streamer.build.instruction import Arg, Cmd, Instruction, Maintainer
from streamer.build.runtime import Runtime

T = TypeVar("T", bound=Instruction)


@dataclass(frozen=True, slots=True)
class State:
    """`author` is what MAINTAINER said; `has_command` whether a CMD came before."""

    runtime: Runtime
    arguments: Arguments
    author: str = ""
    has_command: bool = False

    def expanded(self, given: T, escape: str) -> T:
        """The instruction with variables replaced: by those of the configuration, then by arguments. InvalidRequest."""
        values = self.arguments.values() | self.runtime.environment
        return instruction.expanded(
            given,
            lambda text: expand(text, values, escape),
            lambda text: expand_words(text, values, escape),
        )

    def after(self, given: Instruction) -> tuple[State, str]:
        """The state after an expanded instruction that makes no files, and what history says of it. InvalidRequest."""
        change = changes.applied(self.runtime, given, has_command=self.has_command)
        arguments, author, has_command = self.arguments, self.author, self.has_command
        match given:
            case Arg():
                for name, value in given.arguments:
                    arguments = arguments.with_inner(name, value)
            case Maintainer():
                author = given.name
            case Cmd():
                has_command = has_command or bool(given.command.words)
        return replace(
            self, runtime=change.runtime, arguments=arguments, author=author, has_command=has_command
        ), change.created_by
