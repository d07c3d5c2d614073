"""What a job exports, as names that outlive a process, and as a plan once they are looked up."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from streamer.errors import InvalidRequest
from streamer.export.container import plan_container, plan_rootfs
from streamer.export.diff import plan_diff
from streamer.export.image import Format, plan_images
from streamer.export.layer import plan_layer
from streamer.export.plan import ExportPlan, Options
from streamer.stores.catalog import Catalog


class What(enum.StrEnum):
    """What can be exported into a storage."""

    LAYER = "layer"
    DIFF = "diff"
    CONTAINER = "container"
    IMAGE = "image"
    ROOTFS = "rootfs"


@dataclass(frozen=True, slots=True)
class Wanted:
    """One export by names: `refs` are images, of which there may be several, or one of anything else."""

    what: What
    refs: tuple[str, ...]
    store: str | None = None
    options: Options = field(default_factory=Options)
    format: Format = Format.OCI

    def __post_init__(self) -> None:
        if not self.refs:
            raise InvalidRequest(f"cannot export: name the {self.what.value}", parameter="ref")
        if len(self.refs) > 1 and self.what is not What.IMAGE:
            raise InvalidRequest(
                f"cannot export {len(self.refs)} things as one {self.what.value}: name one (only images may be more)",
                parameter="ref",
            )
        if self.options.pause and self.what not in (What.CONTAINER, What.DIFF):
            raise InvalidRequest(
                f"pause is for containers and their diffs: a {self.what.value} never changes", parameter="pause"
            )


async def planned(catalog: Catalog, wanted: Wanted) -> ExportPlan:
    """The plan. NotFound, Ambiguous, InvalidReference and whatever else the look-up raises."""
    ref, store, options = wanted.refs[0], wanted.store, wanted.options
    match wanted.what:
        case What.LAYER:
            return plan_layer(await catalog.layer(ref, store), options)
        case What.DIFF:
            return plan_diff(await catalog.container(ref, store), options)
        case What.CONTAINER:
            return plan_container(await catalog.container(ref, store), options)
        case What.ROOTFS:
            return plan_rootfs(await catalog.image(ref, store), ref, options)
    return await plan_images(catalog, wanted.refs, options, wanted.format, store)


def engine(catalog: Catalog, plan: ExportPlan) -> str:
    """The kind of the store that a plan's source is in: `docker`, `local` …"""
    for store in catalog.stores():
        if store.name == plan.store:
            return store.location.partition(":")[0]
    return plan.store
