"""The instructions of a Dockerfile, as plain values. Text is as it was written until `expanded` gives the same
instruction with its variables replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

Pairs: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """`line` is where it begins, from 1 (0 for one that is in no file); `code` is what stands there."""

    line: int
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class From(Instruction):
    """`name` is the stage's, in lower case; empty if it has none."""

    base: str
    name: str = ""
    platform: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg(Instruction):
    """Each name with its default; None where it has none."""

    arguments: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Env(Instruction):
    pairs: Pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class Label(Instruction):
    """`literal`: given beside the file, and so not expanded."""

    pairs: Pairs
    literal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintainer(Instruction):
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Instruction):
    """`origin` is what `--from` names: a stage or an image; empty for the context."""

    sources: tuple[str, ...]
    destination: str
    origin: str = ""
    chown: str = ""
    chmod: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(Instruction):
    sources: tuple[str, ...]
    destination: str
    chown: str = ""
    chmod: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workdir(Instruction):
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class User(Instruction):
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expose(Instruction):
    """Ports and ranges as written, sorted as text; `expanded` makes words of them, which may be more."""

    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume(Instruction):
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StopSignal(Instruction):
    signal: str


@dataclass(frozen=True, slots=True)
class CommandLine:
    """The words of a JSON array; or, with `shell`, one text for the shell, or nothing where nothing was written."""

    words: tuple[str, ...]
    shell: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Cmd(Instruction):
    command: CommandLine


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrypoint(Instruction):
    command: CommandLine


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell(Instruction):
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthcheck(Instruction):
    """`test` begins with NONE, CMD or CMD-SHELL; times in nanoseconds, 0 where none is given."""

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OnBuild(Instruction):
    """`trigger` is the text of an instruction for whoever builds on the image."""

    trigger: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Instruction):
    """Never executed: read so that it can be refused with its line."""


Expand: TypeAlias = Callable[[str], str]
T = TypeVar("T", bound=Instruction)


def expanded(given: T, word: Expand, words: Callable[[str], tuple[str, ...]]) -> T:
    """The instruction with variables replaced where the Dockerfile reference says that they are: by `word`, and where
    a value may be several words by `words`. Raises what those raise."""
    changes: dict[str, Any] = _changes(given, word, words)
    return replace(given, **changes)


def _changes(given: Instruction, word: Expand, words: Callable[[str], tuple[str, ...]]) -> dict[str, object]:
    match given:
        case Arg():
            pairs = ((word(name), None if value is None else word(value)) for name, value in given.arguments)
            return {"arguments": tuple(pairs)}
        case Label(literal=True):
            return {}
        case Env() | Label():
            return {"pairs": tuple((word(name), word(value)) for name, value in given.pairs)}
        case Copy() | Add():
            return {
                "sources": tuple(map(word, given.sources)),
                "destination": word(given.destination),
                "chown": word(given.chown),
                "chmod": word(given.chmod),
            }
        case Workdir():
            return {"path": word(given.path)}
        case User():
            return {"user": word(given.user)}
        case Expose():
            return {"ports": tuple(port for text in given.ports for port in words(text))}
        case Volume():
            return {"paths": tuple(map(word, given.paths))}
        case StopSignal():
            return {"signal": word(given.signal)}
    return {}
