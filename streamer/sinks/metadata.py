"""What an object says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from streamer import __version__
from streamer.export.plan import ExportPlan
from streamer.sinks.address import Address
from streamer.sinks.base import Target

DIGEST = "digest"
TOKEN = "export"
SIZE = "size"
_LONGEST = 1000
"""Bytes of one value: S3 takes 2 KB of metadata in all."""


def target(
    address: Address, plan: ExportPlan, *, token: str, engine: str, size: int | None, digest: str | None, replace: bool
) -> Target:
    """The object that an export becomes. `engine` is the kind of the store it comes from (`docker`, `local` …).

    The `size` and the `digest` of the body are members where they are known beforehand; the digest also for what is
    sent in a single request. To what is longer nothing is added afterwards: a storage that does not know tags takes
    them for the object, and copying it onto itself may undo what somebody else has written meanwhile.
    """
    members = {
        TOKEN: token,
        "source": _ascii(plan.title),
        "kind": plan.kind.value,
        "engine": _ascii(engine),
        "tool": f"streamer/{__version__}",
        SIZE: None if size is None else str(size),
        DIGEST: digest,
    }
    return Target(
        address,
        token,
        plan.media_type,
        {name: value for name, value in members.items() if value},
        replace,
    )


def _ascii(text: str) -> str:
    """The text with everything percent-encoded that a header cannot hold."""
    return quote(text, safe=" ()[]<>:/@+,;=!#$&'*?")[:_LONGEST]


def is_ours(target: Target, metadata: Mapping[str, str]) -> bool:
    """Whether an object with this metadata was made by this export. Some storages change the case of names."""
    return any(name.lower() == TOKEN and value == target.token for name, value in metadata.items())
