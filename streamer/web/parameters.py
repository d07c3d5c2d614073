"""Query parameters: a table of what exists, parsed strictly. An unknown name or value is a 400 that names it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from streamer.context.plan import Owner
from streamer.context.tree import Hashing
from streamer.errors import InvalidRequest
from streamer.export.image import Format
from streamer.export.plan import Options
from streamer.jobs.job import State
from streamer.stores.base import ArchiveKind
from streamer.tar.compression import Compression
from streamer.tar.entry import Profile
from streamer.web.lengths import Length


def _text(text: str) -> str:
    text.encode()  # UnicodeEncodeError, a ValueError, for bytes that were not UTF-8
    return text


@dataclass(frozen=True, slots=True)
class Parameter:
    """One query parameter: how it is read, and its JSON schema for the OpenAPI document.

    `parse` gets bytes that are not UTF-8 as surrogates (`os.fsencode` gives them back) and raises ValueError.
    """

    name: str
    description: str
    schema: Mapping[str, Any]
    parse: Callable[[str], Any] = _text
    many: bool = False
    required: bool = False


def _seconds(text: str) -> int:
    if not (text.isascii() and text.isdigit()):  # int() takes "+1", " 1", "1_0" and other scripts' digits
        raise ValueError("not a number")
    value = int(text)
    if value >= 1 << 33:
        raise ValueError("out of range")
    return value


def _path(text: str) -> bytes:
    if "\0" in text or not text:
        raise ValueError("empty or with NUL")
    return os.fsencode(text)


def _file(text: str) -> str:
    if "\0" in text or not text:
        raise ValueError("empty or with NUL")
    return text


def _strings(text: str) -> dict[str, str]:
    """A JSON object of strings. A member that is null counts as not given."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(value, dict) or not all(each is None or isinstance(each, str) for each in value.values()):
        raise ValueError("not an object of strings")
    return {name: each for name, each in value.items() if each is not None}


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("neither true nor false")
    return text == "true"


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 4) or not 1 <= int(text) <= 1000:
        raise ValueError("out of range")
    return int(text)


def _choice(name: str, description: str, kind: type[Any]) -> Parameter:
    values = [item.value for item in kind]
    return Parameter(name, description, {"type": "string", "enum": values}, kind)


STORE = Parameter("store", "Only this store (its name in /v1/stores).", {"type": "string"})
COMPRESSION = _choice("compression", "Compresses the archive; changes its media type and file name.", Compression)
PROFILE = _choice(
    "profile", "`docker`: as Docker writes archives; `full`: nanoseconds, every xattr, sparse files.", Profile
)
INCLUDE = Parameter(
    "include", "Only what matches (dockerignore pattern); may be repeated.", {"type": "string"}, str, many=True
)
EXCLUDE = Parameter(
    "exclude", "Not what matches (dockerignore pattern); may be repeated.", {"type": "string"}, str, many=True
)
MTIME = Parameter(
    "mtime",
    "No modification time later than this, in seconds since the epoch.",
    {"type": "integer", "minimum": 0, "maximum": (1 << 33) - 1},
    _seconds,
)
PATH = Parameter("path", "Only this subtree.", {"type": "string", "minLength": 1}, _path)
PAUSE = Parameter(
    "pause",
    "Whether its engine pauses the container while it is read, so that no file is half written.",
    {"type": "boolean"},
    _flag,
)
NAME = Parameter("name", "An image; may be repeated.", {"type": "string"}, many=True, required=True)
FORMAT = _choice("format", "`oci`: OCI layout with manifest.json; `docker-legacy`: a directory per layer.", Format)
AS = Parameter("name", "Name of the imported image, in place of the names that the archive gives.", {"type": "string"})
KIND = _choice("format", "What the body is; `auto` finds out.", ArchiveKind)

STATE = Parameter(
    "state",
    "Only jobs in this state; may be repeated.",
    {"type": "string", "enum": [state.value for state in State]},
    State,
    many=True,
)
DESTINATION = Parameter("destination", "Only jobs whose destination begins so.", {"type": "string"})
LIMIT = Parameter(
    "limit",
    "So many jobs at most, the newest.",
    {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
    _limit,
)

LENGTH = _choice(
    "length",
    "`known`: every file is looked at before the first byte is sent, so that the answer has a length, an ETag and "
    "ranges; `unknown`: the first bytes leave at once; `auto`: `known` where it can be, unless a container is running.",
    Length,
)

TAG = Parameter("t", "A name for the image; may be repeated.", {"type": "string"}, many=True)
DOCKERFILE = Parameter("dockerfile", "The Dockerfile's path in the context.", {"type": "string", "minLength": 1}, _file)
OWNER = _choice("owner", "`root`: every file is root's; `keep`: owners stay as they are.", Owner)
REMOTE = Parameter(
    "remote", "An http(s) URL to fetch the context or Dockerfile from, instead of the body.", {"type": "string"}
)
BUILDARGS = Parameter("buildargs", "Values of ARG, as a JSON object of strings.", {"type": "string"}, _strings)
LABELS = Parameter("labels", "Labels of the image, as a JSON object of strings.", {"type": "string"}, _strings)
TARGET = Parameter("target", "The stage to end with.", {"type": "string", "minLength": 1})
NOCACHE = Parameter("nocache", "Whether to use no image of an earlier build.", {"type": "boolean"}, _flag)
RM = Parameter(
    "rm", "`false`: a container is made of each step's image and stays.", {"type": "boolean", "default": True}, _flag
)
FORCERM = Parameter(
    "forcerm",
    "`false`: if a step fails, a container of the image of the step before stays.",
    {"type": "boolean", "default": False},
    _flag,
)
HASHING = _choice("hashing", "Which Docker's way to write hashes of copied files into the image's history.", Hashing)
BUILD = (TAG, REMOTE, DOCKERFILE, BUILDARGS, LABELS, TARGET, NOCACHE, RM, FORCERM, HASHING)

CONTEXT = (OWNER, COMPRESSION, DOCKERFILE)
ONTO = Parameter(
    "image", "What is copied onto; `scratch` for nothing.", {"type": "string", "minLength": 1}, _file, required=True
)
SOURCE = Parameter(
    "source",
    "What is copied, wildcards as in a Dockerfile; may be repeated.",
    {"type": "string", "minLength": 1},
    _file,
    many=True,
    required=True,
)
PLACE = Parameter(
    "destination",
    "The path in the image; a directory if it ends in a slash.",
    {"type": "string", "minLength": 1},
    _file,
    required=True,
)
ADD = Parameter("add", "`true`: as ADD, which unpacks archives and fetches URLs.", {"type": "boolean"}, _flag)
CHOWN = Parameter(
    "chown", "Whose the files become: USER or USER:GROUP, names that the image knows, or numbers.", {"type": "string"}
)
CHMOD = Parameter("chmod", "The mode of all of them, octal.", {"type": "string", "pattern": "^[0-7]{1,5}$"})
COPY = (ONTO, SOURCE, PLACE, ADD, CHOWN, CHMOD, TAG, NOCACHE, HASHING)

ARCHIVE = (STORE, COMPRESSION, PROFILE, INCLUDE, EXCLUDE, MTIME, PATH, LENGTH)
CONTAINER = (*ARCHIVE, PAUSE)
JOBS = (STATE, DESTINATION, LIMIT)
IMAGE = (STORE, COMPRESSION, FORMAT, LENGTH)


def read(request: web.Request, known: Sequence[Parameter]) -> dict[str, Any]:
    """The values given, parsed; lists for parameters that may be repeated. InvalidRequest names the first wrong one."""
    table = {parameter.name: parameter for parameter in known}
    values: dict[str, Any] = {}
    # Not `request.query`, which has U+FFFD for what is not UTF-8: names of files are bytes.
    for name, text in parse_qsl(request.rel_url.raw_query_string, keep_blank_values=True, errors="surrogateescape"):
        parameter = table.get(name)
        if parameter is None:
            possible = ", ".join(sorted(table)) or "none"
            raise InvalidRequest(f"unknown parameter {name[:100]!r}; possible here: {possible}", parameter=name[:100])
        if name in values and not parameter.many:
            raise InvalidRequest(f"parameter {name} is given more than once", parameter=name)
        try:
            value = parameter.parse(text)
        except ValueError:
            allowed = ["true", "false"] if parameter.parse is _flag else parameter.schema.get("enum")
            hint = f"; possible: {', '.join(allowed)}" if allowed else ""
            raise InvalidRequest(f"parameter {name} cannot be {text[:100]!r}{hint}", parameter=name) from None
        if parameter.many:
            values.setdefault(name, []).append(value)
        else:
            values[name] = value
    for parameter in known:
        if parameter.required and parameter.name not in values:
            raise InvalidRequest(f"parameter {parameter.name} is missing", parameter=parameter.name)
    return values


def options(values: Mapping[str, Any]) -> Options:
    """The archive options among parsed parameters."""
    return Options(
        compression=values.get("compression", Compression.NONE),
        profile=values.get("profile", Profile.DOCKER),
        include=tuple(values.get("include", ())),
        exclude=tuple(values.get("exclude", ())),
        mtime=values.get("mtime"),
        path=values.get("path", b""),
        pause=values.get("pause", False),
    )
