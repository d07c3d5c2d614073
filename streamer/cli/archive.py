"""The archive that `streamer export` is asked for, checked: for the stores here, or as the request to a service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamer.cli.options import Compression, Format, Kind, Profile
from streamer.errors import InvalidRequest

if TYPE_CHECKING:
    from streamer.client.request import Request
    from streamer.jobs.planning import Wanted


@dataclass(frozen=True, slots=True)
class Archive:
    """InvalidRequest, in the words of the command line, for what cannot go together."""

    kind: Kind
    refs: tuple[str, ...]
    store: str | None
    compression: Compression
    profile: Profile
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    mtime: int | None
    path: bytes
    pause: bool
    format: Format | None

    def __post_init__(self) -> None:
        several = len(self.refs)
        if self.kind != "image" and several > 1:
            raise InvalidRequest(
                f"cannot export {several} things as one {self.kind}: name one (only images can be several)"
            )
        if self.kind != "image" and self.format is not None:
            raise InvalidRequest("--format is for saved images only", parameter="format")
        if self.pause and self.kind not in ("container", "diff"):
            raise InvalidRequest(
                f"--pause is for containers and their diffs: a {self.kind} never changes", parameter="pause"
            )

    @property
    def filename(self) -> str:
        """A name for its file where the plan is not ours: of what was asked for, and not of what is found."""
        from streamer.export.naming import stem
        from streamer.tar.compression import Compression

        return f"{stem(self.kind, self.refs)}.tar{Compression(self.compression).suffix}"

    def wanted(self) -> Wanted:
        """As it is looked up in stores."""
        from streamer.export.image import Format
        from streamer.export.plan import Options
        from streamer.jobs.planning import Wanted, What
        from streamer.tar.compression import Compression
        from streamer.tar.entry import Profile

        options = Options(
            compression=Compression(self.compression),
            profile=Profile(self.profile),
            include=self.include,
            exclude=self.exclude,
            mtime=self.mtime,
            path=self.path,
            pause=self.pause,
        )
        return Wanted(What(self.kind), self.refs, self.store, options, Format(self.format or "oci"))

    def request(self, length: str) -> Request:
        """As a service is asked for it; `length` is when it is to know that."""
        from streamer.client.request import archive

        return archive(
            self.kind,
            self.refs,
            store=self.store,
            compression=self.compression,
            profile=self.profile,
            include=self.include,
            exclude=self.exclude,
            mtime=self.mtime,
            path=self.path,
            pause=self.pause,
            format=self.format or "oci",
            length=length,
        )
