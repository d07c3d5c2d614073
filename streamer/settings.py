"""What can be set, from the environment (`STREAMER_…`) and from flags: one schema, defaults that are safe.

The only module that reads the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from streamer.errors import InvalidRequest

MiB = 1 << 20
GiB = 1 << 30

_PREFIX = "STREAMER_"
_FLAGS = {"stores": "store"}
"""Settings whose flag is not called as they are."""


def _default_state() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/streamer")
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "streamer"


class Settings(BaseSettings):
    """Everything that can be set. A flag of the command line wins over the environment."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="forbid")

    state: Path = Field(default_factory=_default_state, description="Where the embedded store lives.")
    stores: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Stores to serve, as NAME=KIND:LOCATION; with none, the embedded store at `state` and those of the "
        "engines found on this node.",
    )
    discover: bool = Field(True, description="Whether engines on this node are looked for when no store is named.")
    listen: Annotated[tuple[str, ...], NoDecode] = Field(
        ("127.0.0.1:8080",), description="Addresses to listen on: HOST:PORT or unix:PATH."
    )
    hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Names besides loopback that HTTP requests may be addressed to (behind a proxy)."
    )
    max_exports: int = Field(64, ge=1, le=10_000, description="Exports that may be open at a time.")
    stall_timeout: float = Field(
        60, gt=0, description="Seconds in which a client must take 64 KiB, or its download is broken off."
    )
    upload_timeout: float = Field(60, gt=0, description="Seconds of silence after which an upload is broken off.")
    drain_timeout: float = Field(30, ge=0, description="Seconds that open exports may go on after SIGTERM.")
    release_timeout: float = Field(10, gt=0, description="Seconds that exports have to release what they hold.")
    pause_limit: float = Field(
        60, gt=0, le=86_400, description="Seconds that a container may stay paused for exports; then it is resumed."
    )
    part_size: int = Field(16, ge=5, le=4000, description="MiB that are sent to object storage at a time.")
    upload_concurrency: int = Field(
        4, ge=1, le=64, description="Parts of one export that are made and sent to object storage at once."
    )
    s3_addressing: Literal["auto", "path", "virtual"] = Field(
        "auto",
        description="Where S3 wants a bucket's name: in the path or in the host name; `auto` is the path where an "
        "endpoint is set (AWS_ENDPOINT_URL).",
    )
    export_directories: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="Directories below which export jobs may write files; with none, they may not."
    )
    max_jobs: int = Field(4, ge=1, le=1000, description="Export jobs that run at a time; further ones wait.")
    job_retention: float = Field(
        30 * 86_400, gt=0, description="Seconds after its end that an export job can still be asked for."
    )
    max_import_bytes: int = Field(256 * GiB, gt=0, description="Bytes that one import may unpack to.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What is logged.")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="How: `auto` is console on a terminal and JSON lines otherwise."
    )

    @field_validator("stores", "listen", "hosts", "export_directories", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Commas separate addresses in an environment variable; flags come as a sequence."""
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("export_directories")
    @classmethod
    def _absolute(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(Path(os.path.abspath(each)) for each in value)


def load(**overrides: object) -> Settings:
    """The settings in force; `overrides` (flags; None means not given) win. InvalidRequest names what is wrong."""
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]  # pydantic checks each
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        typed = "--" + _FLAGS.get(name, name).replace("_", "-") if name in given else _PREFIX + name.upper()
        raise InvalidRequest(f"{typed}={first['input']!r} {_wrong(first)}", parameter=name) from None


def _wrong(error: Mapping[str, Any]) -> str:
    """What is wrong with a value, as the rest of a sentence that begins with it."""
    limits = error.get("ctx", {})
    match error["type"]:
        case "int_parsing":
            return "is not a whole number"
        case "bool_parsing" | "bool_type":
            return "is neither yes nor no"
        case "float_parsing":
            return "is not a number"
        case "greater_than":
            return f"is not more than {limits['gt']}"
        case "greater_than_equal":
            return f"is less than {limits['ge']}"
        case "less_than_equal":
            return f"is more than {limits['le']}"
        case "literal_error":
            return f"is not {limits['expected']}"
    return f"is wrong: {error['msg']}"


def environment() -> Mapping[str, str]:
    """What engines' own variables say about where they keep things (DOCKER_HOST, XDG_RUNTIME_DIR, …)."""
    return dict(os.environ)


def misspelt() -> dict[str, str]:
    """Variables of the environment that are nearly a setting, and would be ignored, with the one that was meant.

    Others that begin with STREAMER_ may be somebody else's: Kubernetes makes STREAMER_PORT for a service `streamer`.
    """
    known = [name.upper() for name in Settings.model_fields]
    found = {}
    for name in sorted(os.environ):
        prefix, setting = name[: len(_PREFIX)].upper(), name[len(_PREFIX) :].upper()
        if prefix == _PREFIX and setting not in known and (near := get_close_matches(setting, known, 1)):
            found[name] = _PREFIX + near[0]
    return found
