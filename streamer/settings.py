"""What can be set: by flags, the environment (`STREAMER_…`) and a file (TOML), in this order of precedence. One schema,
defaults that are safe; every setting is described here and nowhere else.

The only module that reads the environment.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretBytes, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from streamer.errors import FILE_REFUSALS, InvalidRequest, NotFound, NotPermitted

MiB = 1 << 20
GiB = 1 << 30

DEFAULT_FILE = Path("/etc/streamer/streamer.toml")
_PREFIX = "STREAMER_"
_FLAGS = {"stores": "store", "upload_concurrency": "concurrency"}
"""Settings whose flag is not called as they are."""
_BESIDES = ("CONFIG", "TOKEN_FILE")
"""Variables that are no settings of a service: where its file is, and what a client of one shows."""


def _default_state() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/streamer")
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else home() / ".local" / "share") / "streamer"


def home() -> Path:
    """Where this user's own files lie; `/` for a user that has no home (a bare number, as in a container)."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


class Settings(BaseSettings):
    """Everything that can be set. In a file the names are those below, in the environment the same in capitals behind
    `STREAMER_`, with commas between the items of a list."""

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
    tokens: Path | None = Field(
        None,
        description="File of tokens, one a line as `streamer token new` prints it; with it nobody gets in without one. "
        "Followed: a change counts within a second, a broken file changes nothing.",
    )
    tls_certificate: Path | None = Field(
        None, description="Certificate and chain (PEM) for TLS 1.2 and 1.3 on every TCP address. Followed, as `tokens`."
    )
    tls_key: Path | None = Field(None, description="Its key (PEM), if that is not in the same file.")
    tls_client_ca: Path | None = Field(
        None, description="Authorities (PEM); only clients that show a certificate of one of them get in (mutual TLS)."
    )
    insecure_http: bool = Field(
        False,
        description="Whether tokens may be asked for without TLS on addresses that other machines reach: right only "
        "where the network itself encrypts.",
    )
    socket_mode: int = Field(0o600, ge=0, le=0o777, description="Mode of unix sockets, in octal: who may connect.")
    socket_owner: str = Field("", description="USER, USER:GROUP or :GROUP to own unix sockets, by name or number.")
    max_exports: int = Field(64, ge=1, le=10_000, description="Exports that may be open at a time.")
    max_exports_per_client: int = Field(
        0,
        ge=0,
        description="Exports that one client (a token, or else an address) may have open; 0: no limit of its own.",
    )
    request_rate: float = Field(
        0, ge=0, description="Requests a second that one client may send, twice as many at once; 0: no limit."
    )
    max_connections: int = Field(1024, ge=1, description="Connections that may be open at a time; others get a 503.")
    max_connections_per_peer: int = Field(
        0, ge=0, description="Of these, from one address (or user of a unix socket); 0: no limit of its own."
    )
    header_timeout: float = Field(
        10, gt=0, le=86_400, description="Seconds in which the headers of a request must have come."
    )
    idle_timeout: float = Field(
        75, gt=0, le=86_400, description="Seconds that a connection may wait for its next request."
    )
    stall_timeout: float = Field(
        60, gt=0, le=86_400, description="Seconds in which a client must take 64 KiB, or its download is broken off."
    )
    upload_timeout: float = Field(
        60, gt=0, le=86_400, description="Seconds of silence after which an upload is broken off."
    )
    drain_timeout: float = Field(
        30,
        ge=0,
        le=86_400,
        description="Seconds that open exports may go on after SIGTERM. Whoever sends it must wait at least this, "
        "twice `release_timeout` and 5 s more before SIGKILL (Kubernetes: terminationGracePeriodSeconds; systemd: "
        "TimeoutStopSec).",
    )
    release_timeout: float = Field(
        10, gt=0, le=86_400, description="Seconds that exports have to release what they hold."
    )
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
    max_builds: int = Field(
        4, ge=1, le=1000, description="Builds and copies over HTTP that may be under way at a time."
    )
    fetch: bool = Field(
        False,
        description="Whether the service fetches for its clients: URLs of ADD in builds, contexts by URL and git. "
        "Commands always may.",
    )
    fetch_allow: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Networks that may be fetched from besides public addresses (10.1.0.0/16, 127.0.0.1)."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What is logged.")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="How: `auto` is console on a terminal and JSON lines otherwise."
    )
    access_log: bool = Field(True, description="Whether each request is logged.")
    otlp_endpoint: str = Field(
        "",
        description="Where traces go: the base URL of an OpenTelemetry collector that takes OTLP over HTTP "
        "(http://127.0.0.1:4318). Needs the extra `tracing`; empty: no traces. Headers: OTEL_EXPORTER_OTLP_HEADERS.",
    )

    @field_validator("stores", "listen", "hosts", "export_directories", "fetch_allow", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Commas separate addresses in an environment variable; flags come as a sequence."""
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("socket_mode", mode="before")
    @classmethod
    def _octal(cls, value: object) -> object:
        """As `chmod` takes it; a number of TOML is a number already."""
        if isinstance(value, str):
            if re.fullmatch(r"(0o?)?[0-7]{3}", value) is None:
                raise ValueError("give an octal mode such as 0660")
            return int(value, 8)
        return value

    @field_validator("export_directories")
    @classmethod
    def _absolute(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(Path(os.path.abspath(each)) for each in value)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting in force. `origin` is `flag`, `environment`, `file` or `default`; secrets are masked in `shown`."""

    name: str
    value: object
    origin: str
    description: str

    @property
    def shown(self) -> object:
        """The value for people and JSON."""
        if self.name == "socket_mode":
            return f"{self.value:04o}"
        if isinstance(self.value, tuple):
            return [_masked(str(each)) for each in self.value]
        if isinstance(self.value, (Path, str)):
            return _masked(str(self.value))
        return str(self.value) if isinstance(self.value, (SecretStr, SecretBytes)) else self.value


def load(file: Path | None = None, **overrides: object) -> Settings:
    """The settings in force; `overrides` (flags; None means not given) win. `file` is what `--config` names, else what
    STREAMER_CONFIG does, else /etc/streamer/streamer.toml if there is one.

    InvalidRequest names what is wrong, and where; NotFound or NotPermitted for a file that was named.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    path = file_in_force(file)
    known = _file(path)

    class Configured(Settings):
        model_config = SettingsConfigDict(toml_file=path)

    try:
        loaded = (Configured if known else Settings)(**given)  # type: ignore[arg-type]  # pydantic checks each
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if name in given:
            typed = "--" + _FLAGS.get(name, name).replace("_", "-")
        elif name in known and _variable(name) is None:
            typed = f"{path}: {name}"
        else:
            typed = _PREFIX + name.upper()
        raise InvalidRequest(f"{typed}={first['input']!r} {_wrong(first)}", parameter=name) from None
    _check(loaded)
    return loaded


def explained(file: Path | None = None, **overrides: object) -> list[Setting]:
    """Every setting in force with where it is from, in the order of the schema. Raises as `load` does."""
    loaded, known = load(file, **overrides), _file(file_in_force(file))

    def origin(name: str) -> str:
        if overrides.get(name) is not None:
            return "flag"
        if _variable(name) is not None:
            return "environment"
        return "file" if name in known else "default"

    return [
        Setting(name, getattr(loaded, name), origin(name), field.description or "")
        for name, field in Settings.model_fields.items()
    ]


def file_in_force(file: Path | None = None) -> Path | None:
    """The file that settings are read from, None if there is none."""
    if file is None and (named := os.environ.get(_PREFIX + "CONFIG")):
        file = Path(named)
    return file if file is not None else DEFAULT_FILE if DEFAULT_FILE.exists() else None


def token_file() -> Path | None:
    """What STREAMER_TOKEN_FILE names: the token that a client of a service shows."""
    named = os.environ.get(_PREFIX + "TOKEN_FILE")
    return Path(named) if named else None


def _file(path: Path | None) -> Mapping[str, object]:
    """What a file sets."""
    if path is None:
        return {}
    try:
        with path.open("rb") as opened:
            return tomllib.load(opened)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path} for settings") from None
    except OSError as error:
        kind = FILE_REFUSALS.get(error.errno or 0, NotPermitted)
        raise kind(f"cannot read settings from {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"cannot read settings from {path}: {error}", parameter="config") from None


def _variable(name: str) -> str | None:
    """The variable that sets it."""
    wanted = _PREFIX + name.upper()
    return next((each for each in os.environ if each.upper() == wanted), None)


def _check(settings: Settings) -> None:
    """What only several settings together can be wrong about."""
    for name in ("tls_key", "tls_client_ca"):
        if getattr(settings, name) is not None and settings.tls_certificate is None:
            raise InvalidRequest(f"{_PREFIX}{name.upper()} needs {_PREFIX}TLS_CERTIFICATE", parameter=name)


def _masked(text: str) -> str:
    """Without the credentials of a URL."""
    return re.sub(r"(?<=://)[^/\s]*@", "***@", text)


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
        case "extra_forbidden":
            near = get_close_matches(str(error["loc"][0]), list(Settings.model_fields), 1)
            return f"is not a setting{f'; did you mean {near[0]}?' if near else ''}"
        case "value_error":
            return f"is wrong: {error['ctx']['error']}"
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
    known = [*(name.upper() for name in Settings.model_fields), *_BESIDES]
    found = {}
    for name in sorted(os.environ):
        prefix, setting = name[: len(_PREFIX)].upper(), name[len(_PREFIX) :].upper()
        if prefix == _PREFIX and setting not in known and (near := get_close_matches(setting, known, 1)):
            found[name] = _PREFIX + near[0]
    return found
