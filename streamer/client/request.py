"""What is asked of a service: one archive, by what it is and not by where the service is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import quote, urlencode

from streamer.errors import InvalidReference

MEDIA_TYPES = MappingProxyType(
    {
        "none": "application/x-tar",
        "gzip": "application/gzip",
        "bzip2": "application/x-bzip2",
        "xz": "application/x-xz",
        "zstd": "application/zstd",
    }
)
"""What an archive in each compression is sent as; a test compares them with the service's own."""


@dataclass(frozen=True, slots=True)
class Request:
    target: str
    """Path and query, percent-encoded; two requests for the same archive have the same one."""
    media_type: str
    """What the answer has to be, or it is no archive."""
    title: str
    """For messages: `container web`."""


def archive(
    kind: str,
    refs: Sequence[str],
    *,
    store: str | None = None,
    compression: str = "none",
    profile: str = "docker",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    mtime: int | None = None,
    path: bytes = b"",
    pause: bool = False,
    format: str = "oci",
    length: str = "auto",
) -> Request:
    """The request for a `layer`, `diff`, `container`, `image` (one or several `refs`) or `rootfs`.

    Only what differs from the service's defaults is asked for. InvalidReference for a name that no service could have.
    """
    for ref in refs:
        if not all(part not in ("", ".", "..") for part in ref.split("/")):
            raise InvalidReference(f"{ref!r} is neither a name nor an ID")
    query = [("name", ref) for ref in refs] if len(refs) > 1 else []
    given = {
        "store": (store, None),
        "compression": (compression, "none"),
        "profile": (profile, "docker"),
        "mtime": (mtime, None),
        "path": (path, b""),
        "pause": ("true" if pause else None, None),
        "format": (format, "oci"),
        "length": (length, "auto"),
    }
    pairs: list[tuple[str, str | bytes]] = [*query]
    pairs += [("include", pattern) for pattern in include] + [("exclude", pattern) for pattern in exclude]
    for name, (value, default) in given.items():
        if value is not None and value != default:
            pairs.append((name, value if isinstance(value, bytes) else str(value)))
    # Names of files are bytes: what is not UTF-8 came as surrogates, and goes as the bytes it stands for.
    encoded = [(name, os.fsencode(value)) for name, value in pairs]
    text = urlencode(encoded, quote_via=quote, safe="")
    target = _path(kind, refs) + (f"?{text}" if text else "")
    return Request(target, MEDIA_TYPES[compression], f"{kind} {' '.join(refs)}")


def _path(kind: str, refs: Sequence[str]) -> str:
    if kind == "image" and len(refs) > 1:
        return "/v1/images/archive"
    # An image's name may hold slashes and stands for itself; of everything else a slash is a part of the name.
    ref = quote(os.fsencode(refs[0]), safe="/:@" if kind in ("image", "rootfs") else ":")
    return {
        "layer": f"/v1/layers/{ref}/archive",
        "diff": f"/v1/containers/{ref}/diff",
        "container": f"/v1/containers/{ref}/archive",
        "image": f"/v1/images/{ref}/archive",
        "rootfs": f"/v1/images/{ref}/rootfs",
    }[kind]
