"""Bodies of requests, as models: unknown members are refused, and `/openapi.json` has their schemas."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from streamer.errors import InvalidRequest
from streamer.export.image import Format
from streamer.export.plan import Options
from streamer.jobs.job import Order
from streamer.jobs.planning import Wanted, What
from streamer.sinks.address import Scheme, parse
from streamer.tar.compression import Compression
from streamer.tar.entry import Profile

_LATEST = (1 << 33) - 1


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Body):
    """What is exported: by `ref`, or several images by `refs`."""

    kind: What
    ref: str | None = Field(
        default=None, min_length=1, max_length=1000, description="A diff ID, chain ID, container or image."
    )
    refs: list[str] = Field(default=[], max_length=100, description="Images, in place of `ref`.")
    store: str | None = Field(default=None, description="Only this store (its name in /v1/stores).")


class ExportOptions(_Body):
    """As the query parameters of archives."""

    compression: Compression = Compression.NONE
    profile: Profile = Profile.DOCKER
    include: list[str] = Field(default=[], max_length=1000)
    exclude: list[str] = Field(default=[], max_length=1000)
    mtime: int | None = Field(default=None, ge=0, le=_LATEST)
    path: str | None = Field(default=None, min_length=1, max_length=4096)
    pause: bool = False
    format: Format = Format.OCI
    overwrite: bool = Field(default=True, description="Whether what is at the destination may be replaced.")
    digest_first: bool = Field(
        default=False,
        description="Make the archive once before it is sent, to learn its digest: so that the object's metadata has "
        "it also where it was not known.",
    )


class Export(_Body):
    """An export to be done."""

    source: Source
    destination: str = Field(
        min_length=1,
        max_length=4096,
        description="s3://BUCKET/KEY, gs://BUCKET/KEY, az://CONTAINER/KEY; file:///DIR/NAME where that is allowed.",
    )
    options: ExportOptions = ExportOptions()

    def order(self) -> Order:
        """The order. InvalidRequest says what does not go together."""
        source, chosen = self.source, self.options
        if (source.ref is None) == (not source.refs):
            raise InvalidRequest("source: give either ref or refs", parameter="source")
        address = parse(self.destination)
        if address.scheme is Scheme.MEMORY or (address.scheme is Scheme.FILE and "://" not in self.destination):
            raise InvalidRequest(
                f"destination: {self.destination[:300]!r} is none of s3://, gs://, az:// and file://",
                parameter="destination",
            )
        path = chosen.path or ""
        if "\0" in path:
            raise InvalidRequest("options.path holds a NUL", parameter="path")
        options = Options(
            compression=chosen.compression,
            profile=chosen.profile,
            include=tuple(chosen.include),
            exclude=tuple(chosen.exclude),
            mtime=chosen.mtime,
            path=path.encode(),
            pause=chosen.pause,
        )
        refs = (source.ref,) if source.ref is not None else tuple(source.refs)
        return Order(
            Wanted(source.kind, refs, source.store, options, chosen.format),
            address,
            chosen.overwrite,
            chosen.digest_first,
        )


class ContextSource(_Body):
    """A build context to be made: of a repository or a URL, or of texts."""

    source: str | None = Field(
        default=None,
        min_length=1,
        max_length=8192,
        description="A git repository as URL#REF:SUBDIR, or the http(s) URL of an archive or of a Dockerfile.",
    )
    dockerfile: str | None = Field(default=None, min_length=1, description="The Dockerfile's text.")
    files: dict[str, str] = Field(default={}, max_length=10_000, description="Further files: texts by their names.")


def schemas() -> dict[str, dict[str, Any]]:
    """The models' JSON schemas by name, for the OpenAPI document."""
    found: dict[str, dict[str, Any]] = {}
    for name, model in (("Export", Export), ("Context", ContextSource)):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        found |= schema.pop("$defs", {})
        found[name] = schema
    return found
