"""The runtime configuration of an image (`config` in its document), with every member that Docker's classic builder
writes, in its order, so that both say the same with the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streamer.errors import InvalidArchive

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHELL = ("/bin/sh", "-c")

_MEMBERS: Mapping[str, Any] = {
    "Hostname": "",
    "Domainname": "",
    "User": "",
    "AttachStdin": False,
    "AttachStdout": False,
    "AttachStderr": False,
    "ExposedPorts": None,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Env": None,
    "Cmd": None,
    "Healthcheck": None,
    "ArgsEscaped": False,
    "Image": "",
    "Volumes": None,
    "WorkingDir": "",
    "Entrypoint": None,
    "NetworkDisabled": False,
    "MacAddress": "",
    "OnBuild": None,
    "Labels": None,
    "StopSignal": "",
    "StopTimeout": None,
    "Shell": None,
}
"""With what stands for "nothing"."""
_LEFT_OUT = frozenset(
    (
        "ExposedPorts",
        "Healthcheck",
        "ArgsEscaped",
        "NetworkDisabled",
        "MacAddress",
        "StopSignal",
        "StopTimeout",
        "Shell",
    )
)
"""Members that are not written where they are nothing."""
_LISTS = ("Env", "Cmd", "Entrypoint", "OnBuild", "Shell")
_MAPPINGS = ("ExposedPorts", "Volumes", "Labels", "Healthcheck")
_TEXTS = ("User", "WorkingDir", "StopSignal")


@dataclass(frozen=True, slots=True)
class Runtime:
    """One configuration. `values` has every known member, in order; nothing in it is ever changed."""

    values: Mapping[str, Any]

    def having(self, **changes: Any) -> Runtime:
        return Runtime({**self.values, **changes})

    def strings(self, name: str) -> tuple[str, ...]:
        return tuple(self.values[name] or ())

    def names(self, name: str) -> dict[str, Any]:
        return dict(self.values[name] or {})

    @property
    def shell(self) -> tuple[str, ...]:
        """What runs a command that is not a JSON array."""
        return self.strings("Shell") or SHELL

    @property
    def working_directory(self) -> str:
        return str(self.values["WorkingDir"])

    @property
    def environment(self) -> dict[str, str]:
        return {name: value for name, _, value in (each.partition("=") for each in self.strings("Env"))}

    def document(self) -> dict[str, Any]:
        """As it is written: mappings by key, what is nothing left out where Docker leaves it out."""
        written: dict[str, Any] = {}
        for name in _MEMBERS:
            value = self.values[name]
            if name in _LEFT_OUT and not value:
                continue
            if name in ("ExposedPorts", "Volumes", "Labels") and value is not None:
                value = dict(sorted(value.items()))
            written[name] = value
        return written


EMPTY = Runtime(dict(_MEMBERS))


def of_image(document: Mapping[str, Any], what: str) -> Runtime:
    """The configuration in an image's document, as the classic builder begins a stage with it: with a PATH, and without
    standard input. Members that nobody knows are left out; InvalidArchive naming `what` for one of the wrong kind."""
    found = document.get("config") or {}
    if not isinstance(found, dict):
        raise InvalidArchive(f"config in {what} is not a JSON object", member=what)
    values = {**_MEMBERS, **{name: value for name, value in found.items() if name in _MEMBERS}}
    for name in (*_LISTS, *_MAPPINGS, *_TEXTS):
        if not _fits(name, values[name]):
            raise InvalidArchive(f"config.{name} in {what} is not what it should be", member=what)
    return begun(Runtime(values))


def begun(runtime: Runtime) -> Runtime:
    """As a stage begins."""
    runtime = runtime.having(OpenStdin=False, StdinOnce=False)
    if "PATH" not in runtime.environment:
        runtime = runtime.having(Env=[*runtime.strings("Env"), PATH])
    return runtime


def _fits(name: str, value: object) -> bool:
    if value is None:
        return True
    if name in _LISTS:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    if name in _TEXTS:
        return isinstance(value, str)
    if name == "Labels":
        return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())
    return isinstance(value, dict)
