"""A job as plain data: what is wanted, how far it is, and how it ended."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from streamer.export.image import Format
from streamer.export.plan import Options
from streamer.jobs.planning import Wanted, What
from streamer.sinks.address import Address, parse
from streamer.tar.compression import Compression
from streamer.tar.entry import Profile


class State(enum.StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether a job in this state stays in it."""
        return self in (State.DONE, State.FAILED, State.CANCELLED)


@dataclass(frozen=True, slots=True)
class Order:
    """What somebody wants to have exported, and where to."""

    wanted: Wanted
    destination: Address
    overwrite: bool = True
    digest_first: bool = False
    """As in `sinks.delivery.Manner`."""

    @property
    def place(self) -> str:
        """What shares a queue: a bucket, or a directory tree."""
        return f"{self.destination.scheme.value}://{self.destination.bucket}"

    def members(self) -> dict[str, Any]:
        """As JSON, with everything that `order` needs."""
        wanted, options = self.wanted, self.wanted.options
        return {
            "kind": wanted.what.value,
            "refs": list(wanted.refs),
            "store": wanted.store,
            "format": wanted.format.value,
            "destination": self.destination.uri,
            "overwrite": self.overwrite,
            "digest_first": self.digest_first,
            "compression": options.compression.value,
            "profile": options.profile.value,
            "include": list(options.include),
            "exclude": list(options.exclude),
            "mtime": options.mtime,
            "path": options.path.decode("utf-8", "surrogateescape"),
            "pause": options.pause,
        }


def order(members: Mapping[str, Any]) -> Order:
    """The inverse of `Order.members`."""
    options = Options(
        compression=Compression(members["compression"]),
        profile=Profile(members["profile"]),
        include=tuple(members["include"]),
        exclude=tuple(members["exclude"]),
        mtime=members["mtime"],
        path=members["path"].encode("utf-8", "surrogateescape"),
        pause=members["pause"],
    )
    wanted = Wanted(What(members["kind"]), tuple(members["refs"]), members["store"], options, Format(members["format"]))
    return Order(wanted, parse(members["destination"]), members["overwrite"], members["digest_first"])


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a job failed: the code and sentence of `streamer.errors`."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Job:
    """One job at one moment; times in seconds since the epoch."""

    id: str
    order: Order
    state: State
    created: float
    ended: float | None = None
    done: int = 0
    """Bytes that the storage has."""
    total: int | None = None
    """Bytes of the whole, None as long as nobody can know."""
    rate: float | None = None
    """Bytes a second, of late; None unless it runs."""
    digest: str | None = None
    etag: str | None = None
    """Of the object, once it is there."""
    error: Problem | None = None
    attempts: int = 0
    """How often it was begun: more than once if its process died or was drained."""

    @property
    def remaining(self) -> float | None:
        """Seconds that it will probably still take."""
        if self.total is None or not self.rate:
            return None
        return max(0, self.total - self.done) / self.rate


@dataclass(frozen=True, slots=True)
class Traces:
    """What an attempt before this one left of a job."""

    upload: str | None = None
    asked: float | None = field(default=None, kw_only=True)
    """When an upload was asked for whose ID never arrived (seconds since the epoch)."""
    etag: str | None = None
    """Of the source's outline, and `step` how it was cut."""
    step: int | None = None
    size: int | None = None
    digest: str | None = None
    """Both of the whole, once every part was there."""
    parts: Mapping[int, tuple[int, str, str]] = field(default_factory=dict)
    """By number: size, ETag, checksum."""
