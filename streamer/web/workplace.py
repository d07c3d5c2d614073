"""What builds and copies for clients have in common: where images are made, and of what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiohttp import web

from streamer.build.remote import Advance, Fetching
from streamer.build.workshop import LocalWorkshop
from streamer.context.fetch import Limits as FetchLimits
from streamer.context.tree import Hashing, Tree
from streamer.errors import Unsupported
from streamer.oci.reference import Reference
from streamer.stores.base import Image
from streamer.stores.local.store import LocalStore
from streamer.tar.source import Limits
from streamer.web import permitted
from streamer.web.callers import CALLER
from streamer.web.site import SITE, Site


@dataclass(frozen=True, slots=True)
class Workplace:
    """The embedded store, and its images as the caller may see them. `limits` are those of archives that come in."""

    local: LocalStore
    look_up: Callable[[str], Awaitable[Image]]
    limits: Limits
    _hashing: Hashing
    _site: Site

    def workshop(self, tree: Tree | None, advance: Advance | None = None) -> LocalWorkshop:
        """One that takes files from the tree, and from URLs where the service may fetch them, as `advance` hears."""
        site = self._site
        fetching = None
        if site.fetch is not None:
            fetching = Fetching(site.fetch, FetchLimits(size=site.max_import_bytes), advance)
        return LocalWorkshop(self.local, site.exporter.mounts, tree, self._hashing, self.limits, fetching)


def workplace(request: web.Request, values: dict[str, Any], names: Sequence[Reference], purpose: str) -> Workplace:
    """Unsupported without an embedded store, NotPermitted for a caller who may not give an image one of the names."""
    site = request.app[SITE]
    local = site.local
    if not isinstance(local, LocalStore):
        raise Unsupported(f"no embedded store is served here, so there is nowhere to {purpose}")
    permitted.require_build(request[CALLER], local.name, names)
    look_up = partial(permitted.catalog(request).image, store=local.name)
    hashing = values.get("hashing", Hashing.DOCKER_24)
    return Workplace(local, look_up, Limits(total=site.max_import_bytes), hashing, site)
