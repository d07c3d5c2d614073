"""A logical line as an instruction: its flags and arguments checked, nothing expanded, nothing looked up."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from streamer.build import durations, splitting
from streamer.build.instruction import (
    Add,
    Arg,
    Cmd,
    CommandLine,
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
from streamer.build.script import Line
from streamer.errors import InvalidRequest, StreamerError, Unsupported

_STAGE = re.compile(r"[a-z][a-z0-9_.-]*")
_HEREDOC = re.compile(r"\d*<<-?['\"]?[A-Za-z_][A-Za-z0-9_.]*['\"]?")
_ONBUILD = re.compile(r"\s*ONBUILD\s*", re.IGNORECASE)
_SHORTEST = 1_000_000
"""Nanoseconds."""

_BUILDKIT: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "add": frozenset(("link", "checksum", "keep-git-dir", "exclude", "unpack")),
        "copy": frozenset(("link", "parents", "exclude")),
    }
)


class Given:
    """What one line gives, taken apart."""

    def __init__(self, line: Line, escape: str) -> None:
        self.name, flags, self.text = splitting.command(line.text)
        self.upper = self.name.upper()
        self.number = line.number
        self.line = line.text
        self.code = line.text.strip(splitting.STRIPPED)
        self.escape = escape
        self._flags = {} if self.name == "run" else _flags(self.name, flags)

    def take(self, *names: str) -> dict[str, str]:
        """The values of the flags with these names, empty where one is not given; InvalidRequest for any other."""
        for name in self._flags:
            if name not in names:
                raise InvalidRequest(f"{self.upper} has no flag --{name[:100]}")
        return {name: self._flags.get(name, "") for name in names}

    def words(self) -> tuple[str, ...]:
        """A JSON array, or what stands between blanks."""
        array = splitting.array(self.text)
        return splitting.gaps(self.text) if array is None else array

    def command(self, text: str) -> CommandLine:
        array = splitting.array(text)
        if array is not None:
            return CommandLine(array, False)
        return CommandLine((text,) if text else (), True)

    def only(self) -> str:
        """The whole text, which must not be empty."""
        if not self.text:
            raise InvalidRequest(f"{self.upper} needs an argument")
        return self.text


def _flags(instruction: str, flags: tuple[str, ...]) -> dict[str, str]:
    values: dict[str, str] = {}
    for flag in flags:
        name, given, value = flag.removeprefix("--").partition("=")
        if name in _BUILDKIT.get(instruction, ()):
            raise Unsupported(f"{instruction.upper()} --{name} is known to BuildKit only")
        if name in values:
            raise InvalidRequest(f"{instruction.upper()} has the flag --{name[:100]} more than once")
        if not given:
            raise InvalidRequest(f"{instruction.upper()} has the flag --{name[:100]} without a value")
        values[name] = value
    return values


def parse(line: Line, escape: str = "\\") -> Instruction:
    """The instruction. InvalidRequest, or Unsupported for what only BuildKit knows, with `details["line"]`."""
    try:
        given = Given(line, escape)
        reader = _READERS.get(given.name)
        if reader is None:
            raise InvalidRequest(f"there is no instruction {given.name[:100].upper()}")
        return reader(given)
    except StreamerError as error:
        raise located(error, line.number) from None


def located(error: StreamerError, number: int) -> StreamerError:
    """The same error with its line, unless it has one."""
    if "line" in error.details:
        return error
    return type(error)(f"line {number}: {error}", **{**error.details, "line": number})


def _from(given: Given) -> From:
    flags = given.take("platform")
    words = splitting.gaps(given.text)
    name = ""
    if len(words) == 3 and words[1].lower() == "as":
        name = words[2].lower()
        if _STAGE.fullmatch(name) is None:
            raise InvalidRequest(
                f"{words[2][:100]!r} cannot name a stage: a letter, then letters, digits, `_`, `.`, `-`"
            )
    elif len(words) != 1:
        raise InvalidRequest("FROM takes one argument, or three: FROM IMAGE AS NAME")
    return From(line=given.number, code=given.code, base=words[0], name=name, platform=flags["platform"])


def _arg(given: Given) -> Arg:
    given.take()
    words = splitting.words(given.text, given.escape)
    if not words:
        raise InvalidRequest("ARG needs a name")
    arguments: list[tuple[str, str | None]] = []
    for word in words:
        name, valued, value = word.partition("=")
        if not name:
            raise InvalidRequest("ARG cannot have an empty name")
        arguments.append((name, value if valued else None))
    return Arg(line=given.number, code=given.code, arguments=tuple(arguments))


def _pairs(given: Given) -> tuple[tuple[str, str], ...]:
    given.take()
    pairs = splitting.pairs(given.text, given.upper, given.escape)
    if not pairs:
        raise InvalidRequest(f"{given.upper} needs a name and a value")
    if not all(name for name, _ in pairs):
        raise InvalidRequest(f"{given.upper} cannot have an empty name")
    return pairs


def _env(given: Given) -> Env:
    return Env(line=given.number, code=given.code, pairs=_pairs(given))


def _label(given: Given) -> Label:
    return Label(line=given.number, code=given.code, pairs=_pairs(given))


def _maintainer(given: Given) -> Maintainer:
    given.take()
    return Maintainer(line=given.number, code=given.code, name=given.only())


def _places(given: Given) -> tuple[tuple[str, ...], str]:
    words = given.words()
    for word in words:
        if _HEREDOC.fullmatch(word):
            raise Unsupported(f"{given.upper} {word[:100]} begins a here-document, which only BuildKit knows")
    if len(words) < 2:
        raise InvalidRequest(f"{given.upper} needs a source and a destination")
    return words[:-1], words[-1]


def _copy(given: Given) -> Copy:
    flags = given.take("from", "chown", "chmod")
    sources, destination = _places(given)
    return Copy(
        line=given.number,
        code=given.code,
        sources=sources,
        destination=destination,
        origin=flags["from"],
        chown=flags["chown"],
        chmod=flags["chmod"],
    )


def _add(given: Given) -> Add:
    flags = given.take("chown", "chmod")
    sources, destination = _places(given)
    return Add(line=given.number, code=given.code, sources=sources, destination=destination, **flags)


def _workdir(given: Given) -> Workdir:
    given.take()
    return Workdir(line=given.number, code=given.code, path=given.only())


def _user(given: Given) -> User:
    given.take()
    return User(line=given.number, code=given.code, user=given.only())


def _expose(given: Given) -> Expose:
    given.take()
    given.only()
    return Expose(line=given.number, code=given.code, ports=tuple(sorted(splitting.gaps(given.text))))


def _volume(given: Given) -> Volume:
    given.take()
    paths = tuple(path.strip(splitting.STRIPPED) for path in given.words())
    if not paths or not all(paths):
        raise InvalidRequest("VOLUME needs a path, and none may be empty")
    return Volume(line=given.number, code=given.code, paths=paths)


def _stop_signal(given: Given) -> StopSignal:
    given.take()
    return StopSignal(line=given.number, code=given.code, signal=given.only())


def _cmd(given: Given) -> Cmd:
    given.take()
    return Cmd(line=given.number, code=given.code, command=given.command(given.text))


def _entrypoint(given: Given) -> Entrypoint:
    given.take()
    return Entrypoint(line=given.number, code=given.code, command=given.command(given.text))


def _shell(given: Given) -> Shell:
    given.take()
    words = splitting.array(given.text)
    if not words:
        raise InvalidRequest('SHELL needs a JSON array: SHELL ["EXECUTABLE", "ARGUMENT"]')
    return Shell(line=given.number, code=given.code, words=words)


def _healthcheck(given: Given) -> Healthcheck:
    kind, *rest = re.split(r"\s+", given.only(), maxsplit=1)
    kind = kind.upper()
    if kind == "NONE":
        if rest:
            raise InvalidRequest("HEALTHCHECK NONE takes no argument")
        given.take()
        return Healthcheck(line=given.number, code=given.code, test=("NONE",))
    flags = given.take("interval", "timeout", "start-period", "start-interval", "retries")
    if kind != "CMD":
        raise InvalidRequest(f"HEALTHCHECK takes NONE or CMD, not {kind[:100]!r}")
    command = given.command(rest[0] if rest else "")
    if not command.words:
        raise InvalidRequest("HEALTHCHECK CMD needs a command")
    retries = flags.pop("retries")
    if retries and not (retries.isascii() and retries.isdigit() and len(retries) < 10):
        raise InvalidRequest(f"--retries={retries[:100]} is not a number from 0 up")
    return Healthcheck(
        line=given.number,
        code=given.code,
        test=("CMD-SHELL" if command.shell else "CMD", *command.words),
        retries=int(retries or 0),
        **{name.replace("-", "_"): _interval(name, value) for name, value in flags.items()},
    )


def _interval(name: str, value: str) -> int:
    nanoseconds = durations.parse(value) if value else 0
    if 0 < nanoseconds < _SHORTEST:
        raise InvalidRequest(f"--{name}={value[:100]} is less than 1ms")
    return nanoseconds


def _on_build(given: Given) -> OnBuild:
    given.take()
    name = splitting.command(given.only())[0]
    if name in ("onbuild", "from", "maintainer"):
        raise InvalidRequest(f"{name.upper()} cannot be a trigger of ONBUILD")
    parse(Line(given.number, given.text), given.escape)  # what is wrong with it is said now
    return OnBuild(line=given.number, code=given.code, trigger=_ONBUILD.sub("", given.line, count=1))


def _run(given: Given) -> Run:
    return Run(line=given.number, code=given.code)


_READERS: Mapping[str, Callable[[Given], Instruction]] = MappingProxyType(
    {
        "add": _add,
        "arg": _arg,
        "cmd": _cmd,
        "copy": _copy,
        "entrypoint": _entrypoint,
        "env": _env,
        "expose": _expose,
        "from": _from,
        "healthcheck": _healthcheck,
        "label": _label,
        "maintainer": _maintainer,
        "onbuild": _on_build,
        "run": _run,
        "shell": _shell,
        "stopsignal": _stop_signal,
        "user": _user,
        "volume": _volume,
        "workdir": _workdir,
    }
)
