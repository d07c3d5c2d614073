"""Where stores are, as `--store NAME=KIND:LOCATION` has it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from streamer.errors import InvalidRequest

LOCAL, DOCKER, CONTAINERS_STORAGE, CONTAINERD, OCI_LAYOUT = KINDS = (
    "local",
    "docker",
    "containers-storage",
    "containerd",
    "oci-layout",
)
"""In the order in which stores are listed."""

_EXTRAS = {DOCKER: "+", CONTAINERS_STORAGE: "+", CONTAINERD: "#"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True)
class Location:
    """One store: a directory (`containerd`: a socket), and what its kind has besides: the engine's socket for `docker`,
    the run root for `containers-storage`, the namespace for `containerd`; empty where it is not given."""

    name: str
    kind: str
    place: str
    extra: str = ""

    @property
    def text(self) -> str:
        """`KIND:LOCATION`."""
        return f"{self.kind}:{self.place}" + (f"{_EXTRAS[self.kind]}{self.extra}" if self.extra else "")


def parse(text: str) -> Location:
    """InvalidRequest says what is wrong with it."""
    name, equals, uri = text.partition("=")
    kind, colon, rest = uri.partition(":")
    if not equals or not colon or not name or not rest:
        raise InvalidRequest(f"--store {text!r} is not NAME=KIND:LOCATION", parameter="store")
    if _NAME.fullmatch(name) is None:
        raise InvalidRequest(
            f"--store {text!r}: a store's name is letters, digits, '_', '.', '-', beginning with a letter or digit",
            parameter="store",
        )
    if kind not in KINDS:
        raise InvalidRequest(
            f"--store {text!r}: {kind!r} is not a kind of store: {', '.join(KINDS)}", parameter="store"
        )
    place, extra = rest, ""
    if kind == CONTAINERD:
        place, _, extra = rest.partition("#")
    elif kind in _EXTRAS:
        # Both parts are absolute paths, and a directory's name may hold a plus: one that is there is meant as a whole.
        head, plus, tail = rest.rpartition("+/")
        place, extra = (head, "/" + tail) if plus and not os.path.isdir(rest) else (rest, "")
    return Location(name, kind, place, extra)
