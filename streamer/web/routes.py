"""Every route, once: the router, the check of parameters and the OpenAPI document are all made from this table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from aiohttp import web

from streamer.access.scope import Kind
from streamer.web import archives, builds, contexts, copies, exports, listing, operations, uploads
from streamer.web.parameters import (
    ARCHIVE,
    AS,
    BUILD,
    CONTAINER,
    CONTEXT,
    COPY,
    IMAGE,
    JOBS,
    KIND,
    NAME,
    STORE,
    Parameter,
)

Handler: TypeAlias = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """One path with one method (GET means HEAD as well)."""

    path: str
    """As in OpenAPI: `{name}` stands for one path segment, `{image}` for a name that may hold slashes."""
    handler: Handler
    summary: str
    answer: str
    """What a success is: an archive, or the name of a schema of `openapi`."""
    parameters: tuple[Parameter, ...] = ()
    method: str = "GET"
    body: str = ""
    """The schema of a JSON body; empty where the body is an archive, or there is none."""
    upload: str = ""
    """What archive the body is, if it is one."""
    scope: Kind | None = field(kw_only=True)
    """What a caller's token must allow; None for what anyone may ask, with no token at all."""

    @property
    def resource(self) -> str:
        """The path for aiohttp's router. An image's name may hold slashes and never looks like a fixed word."""
        return self.path.replace("{image}", "{image:.+}")


ARCHIVE_ANSWER = "Archive"
EVENTS_ANSWER = "Events"
LINES_ANSWER = "Lines"

ROUTES: tuple[Route, ...] = (
    Route("/v1/stores", listing.stores, "The stores served here.", "Stores", scope=Kind.LIST),
    Route("/v1/images", listing.images, "Every image.", "Images", (STORE,), scope=Kind.LIST),
    Route(
        "/v1/images",
        uploads.post,
        "Import an archive into the embedded store.",
        "Imported",
        (AS, KIND),
        "POST",
        upload="docker-archive, OCI archive or root file system tar, in any of five compressions.",
        scope=Kind.IMPORT,
    ),
    Route(
        "/v1/builds",
        builds.post,
        "Build an image in the embedded store from a Dockerfile without RUN.",
        LINES_ANSWER,
        BUILD,
        "POST",
        upload="The context as a tar, in any of five compressions, or a Dockerfile.",
        scope=Kind.BUILD,
    ),
    Route(
        "/v1/copies",
        copies.post,
        "Make an image with files of a context on top of another one, as COPY or ADD would.",
        "Copied",
        COPY,
        "POST",
        upload="The context as a tar, in any of five compressions.",
        scope=Kind.BUILD,
    ),
    Route("/v1/containers", listing.containers, "Every container.", "Containers", (STORE,), scope=Kind.LIST),
    Route("/v1/layers", listing.layers, "Every layer.", "Layers", (STORE,), scope=Kind.LIST),
    Route(
        "/v1/layers/{digest}/archive",
        archives.layer,
        "One layer, by diff ID or chain ID.",
        ARCHIVE_ANSWER,
        ARCHIVE,
        scope=Kind.LAYER,
    ),
    Route(
        "/v1/containers/{container}/archive",
        archives.container,
        "A container's whole file system.",
        ARCHIVE_ANSWER,
        CONTAINER,
        scope=Kind.CONTAINER,
    ),
    Route(
        "/v1/containers/{container}/diff",
        archives.diff,
        "A container's changes as a layer.",
        ARCHIVE_ANSWER,
        CONTAINER,
        scope=Kind.DIFF,
    ),
    Route(
        "/v1/containers/{container}/changes",
        archives.changes,
        "A container's changes as a list.",
        "Changes",
        (STORE,),
        scope=Kind.CHANGES,
    ),
    Route(
        "/v1/images/archive",
        archives.images,
        "Several saved images in one archive.",
        ARCHIVE_ANSWER,
        (NAME, *IMAGE),
        scope=Kind.IMAGE,
    ),
    Route("/v1/images/{image}/archive", archives.image, "A saved image.", ARCHIVE_ANSWER, IMAGE, scope=Kind.IMAGE),
    Route(
        "/v1/images/{image}/rootfs",
        archives.rootfs,
        "An image's flattened file system.",
        ARCHIVE_ANSWER,
        ARCHIVE,
        scope=Kind.ROOTFS,
    ),
    Route(
        "/v1/contexts",
        contexts.post,
        "Make a build context of an archive or a Dockerfile, of texts, or of a URL.",
        ARCHIVE_ANSWER,
        CONTEXT,
        "POST",
        body="Context",
        upload="A context as a tar, in any of five compressions, or a Dockerfile. It passes through while it comes: "
        "read the answer meanwhile.",
        scope=Kind.CONTEXT,
    ),
    Route("/v1/exports", exports.listed, "Export jobs, the newest first.", "Jobs", JOBS, scope=Kind.JOBS),
    Route(
        "/v1/exports",
        exports.post,
        "Export into object storage or a file. A repeated Idempotency-Key gives the same job again.",
        "Job",
        method="POST",
        body="Export",
        scope=Kind.JOBS,
    ),
    Route("/v1/exports/{id}", exports.one, "One export job.", "Job", scope=Kind.JOBS),
    Route(
        "/v1/exports/{id}",
        exports.delete,
        "Cancel an export job; one that ended stays as it is.",
        "Job",
        method="DELETE",
        scope=Kind.JOBS,
    ),
    Route(
        "/v1/exports/{id}/events",
        exports.events,
        "What becomes of an export job, as it happens.",
        EVENTS_ANSWER,
        scope=Kind.JOBS,
    ),
    Route("/healthz", operations.healthz, "The process lives.", "Status", scope=None),
    Route("/readyz", operations.readyz, "Requests may be sent here.", "Readiness", scope=None),
    Route("/metrics", operations.metrics, "Metrics in Prometheus' exposition format.", "Text", scope=Kind.METRICS),
)
