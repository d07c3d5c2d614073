"""What somebody wants built, checked before anything is looked at."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from streamer.build.builder import Options
from streamer.errors import InvalidReference, InvalidRequest
from streamer.oci import reference as references
from streamer.oci.reference import Reference

DOCKERFILE = "Dockerfile"
_NAME = re.compile(r"[^\s=\0]+")


@dataclass(frozen=True, slots=True)
class Order:
    """`names` are what the image is to be called; `arguments` are for ARG, `labels` beside those of the file; `target`
    is the stage to end with, empty for the last."""

    names: tuple[Reference, ...] = ()
    arguments: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    options: Options = field(default_factory=Options)


def names(texts: Iterable[str]) -> tuple[Reference, ...]:
    """Names of an image, with `latest` where there is no tag, each once. InvalidReference."""
    found = []
    for text in texts:
        name = references.parse(text).tagged()
        if name.digest is not None:
            raise InvalidReference(f"{text[:300]!r} holds a digest: an image is named by repository and tag")
        if name not in found:
            found.append(name)
    return tuple(found)


def pairs(texts: Iterable[str], what: str, without: Mapping[str, str] | None = None) -> dict[str, str]:
    """`NAME=VALUE` texts as a mapping. Of a NAME alone the value is that in `without`, and it is left out if that has
    none; with None it is empty. InvalidRequest, naming `what`, for an empty name or one with white space."""
    found = {}
    for text in texts:
        name, given, value = text.partition("=")
        if _NAME.fullmatch(name) is None:
            raise InvalidRequest(f"{what} {text[:100]!r} is not of the form NAME=VALUE", parameter=what.lstrip("-"))
        if given or without is None:
            found[name] = value
        elif name in without:
            found[name] = without[name]
    return found
