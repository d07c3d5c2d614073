"""What instructions make of a configuration, and the texts that history tells of them; files are no concern of this."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import Any

from streamer.build import durations, ports, signals
from streamer.build.instruction import (
    Arg,
    Cmd,
    CommandLine,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
    OnBuild,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from streamer.build.quoting import plain_list, quoted, quoted_list
from streamer.build.runtime import Runtime
from streamer.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Change:
    """The configuration afterwards, and what history says. `created_by` has two blanks before the text of most
    instructions and one before that of those that make files, as Docker's always had."""

    runtime: Runtime
    created_by: str


def applied(runtime: Runtime, instruction: Instruction, *, has_command: bool = False) -> Change:
    """What an expanded instruction changes. `has_command`: a CMD came before in this stage, which ENTRYPOINT then
    leaves as it is. InvalidRequest for a value that the instruction cannot take.

    For every instruction but FROM, COPY, ADD and RUN.
    """
    match instruction:
        case Env():
            return _env(runtime, instruction)
        case Label():
            labels = runtime.names("Labels") | dict(instruction.pairs)
            return _told(runtime.having(Labels=labels), "LABEL", *map("=".join, instruction.pairs))
        case Arg():
            shown = (name if value is None else f"{name}={value}" for name, value in instruction.arguments)
            return _told(runtime, "ARG", *shown)
        case Maintainer():
            return _told(runtime, "MAINTAINER", instruction.name)
        case Workdir():
            return _workdir(runtime, instruction)
        case User():
            return _told(runtime.having(User=instruction.user), "USER", instruction.user)
        case Expose():
            exposed = runtime.names("ExposedPorts")
            exposed |= {port: {} for text in instruction.ports for port in ports.parse(text)}
            return _told(runtime.having(ExposedPorts=exposed), "EXPOSE", *instruction.ports)
        case Volume():
            if not all(instruction.paths):
                raise InvalidRequest("VOLUME cannot take an empty path")
            volumes = runtime.names("Volumes") | {path: {} for path in instruction.paths}
            return _told(runtime.having(Volumes=volumes), "VOLUME", plain_list(instruction.paths))
        case Entrypoint():
            words = _command(runtime, instruction.command)
            changed = runtime.having(Entrypoint=words, ArgsEscaped=False)
            if not has_command:
                changed = changed.having(Cmd=None)  # it was meant for the base's own entrypoint
            return _told(changed, "ENTRYPOINT", quoted_list(words or ()))
        case Cmd():
            # As Docker has it, an empty CMD is the shell alone, and an empty array nothing at all.
            empty = list(runtime.shell) if instruction.command.shell else []
            words = _command(runtime, instruction.command) or empty
            return _told(runtime.having(Cmd=words, ArgsEscaped=False), "CMD", quoted_list(words))
        case Shell():
            return _told(runtime.having(Shell=list(instruction.words)), "SHELL", plain_list(instruction.words))
        case StopSignal():
            signals.check(instruction.signal)
            return _told(runtime.having(StopSignal=instruction.signal), "STOPSIGNAL", instruction.signal)
        case Healthcheck():
            return _healthcheck(runtime, instruction)
        case OnBuild():
            triggers = [*runtime.strings("OnBuild"), instruction.trigger]
            return _told(runtime.having(OnBuild=triggers), "ONBUILD", instruction.trigger)
    raise AssertionError(instruction)


def made(runtime: Runtime, text: str) -> str:
    """What history says of an instruction that makes files."""
    return " ".join((*runtime.shell, f"#(nop) {text}"))


def _told(runtime: Runtime, *text: str) -> Change:
    return Change(runtime, " ".join((*runtime.shell, "#(nop) ", *text)))


def _env(runtime: Runtime, instruction: Env) -> Change:
    variables = list(runtime.strings("Env"))
    for name, value in instruction.pairs:
        if not name:
            raise InvalidRequest("ENV cannot have an empty name")
        places = [at for at, each in enumerate(variables) if each.partition("=")[0] == name]
        if places:
            variables[places[0]] = f"{name}={value}"
        else:
            variables.append(f"{name}={value}")
    return _told(runtime.having(Env=variables), "ENV", *map("=".join, instruction.pairs))


def _workdir(runtime: Runtime, instruction: Workdir) -> Change:
    if not instruction.path:
        raise InvalidRequest("WORKDIR cannot take an empty path")
    path = instruction.path
    if not path.startswith("/"):
        path = cleaned(f"/{runtime.working_directory}/{path}")
    changed = runtime.having(WorkingDir=path)
    return Change(changed, made(changed, f"WORKDIR {path}"))


def cleaned(path: str) -> str:
    """The absolute path without `.`, `..` and doubled slashes."""
    return "/" + posixpath.normpath(path).lstrip("/")


def _command(runtime: Runtime, command: CommandLine) -> list[str] | None:
    if not command.words:
        return None
    return [*runtime.shell, *command.words] if command.shell else list(command.words)


def _healthcheck(runtime: Runtime, instruction: Healthcheck) -> Change:
    times = (instruction.interval, instruction.timeout, instruction.start_period)
    members: dict[str, Any] = {
        "Test": list(instruction.test),
        "Interval": instruction.interval,
        "Timeout": instruction.timeout,
        "StartPeriod": instruction.start_period,
        "StartInterval": instruction.start_interval,
        "Retries": instruction.retries,
    }
    shown = [quoted_list(instruction.test), *(quoted(durations.text(time)) for time in times)]
    if instruction.start_interval:
        shown.append(quoted(durations.text(instruction.start_interval)))
    shown.append(quoted(chr(min(instruction.retries, 0x10FFFF)), "'"))
    # What it does not say it has from the check before, even NONE, as in Docker.
    before = runtime.names("Healthcheck")
    check = {name: value or before.get(name) for name, value in members.items() if value or before.get(name)}
    return _told(runtime.having(Healthcheck=check), "HEALTHCHECK", f"&{{{' '.join(shown)}}}")
