"""Image configurations (OCI image-spec config.md): the parts streamer reads, and new ones for imports and commits."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

from streamer.errors import InvalidArchive, InvalidReference
from streamer.oci import digest as digests
from streamer.oci import document, media

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
"""By what the kernel calls the machine."""
_STALE = ("container", "container_config", "docker_version", "id", "parent")
"""Members that Docker's classic builder leaves behind: they describe the run that made the base."""


@dataclass(frozen=True, slots=True)
class Config:
    """What streamer needs of a configuration. `data` is the document as it came: its digest is the image ID."""

    data: bytes
    id: str
    diff_ids: tuple[str, ...]
    created: str | None
    architecture: str
    os: str

    @property
    def value(self) -> dict[str, Any]:
        """The whole document, parsed anew: a caller may change it."""
        return document.mapping(
            document.loads(self.data, "the image configuration", media.MAX_CONFIG), "the image configuration"
        )


def parse(data: bytes, what: str = "the image configuration") -> Config:
    """The configuration; InvalidArchive naming `what` where it is not one."""
    value = document.mapping(document.loads(data, what, media.MAX_CONFIG), what)
    rootfs = document.mapping(value.get("rootfs", {"diff_ids": []}), f"rootfs in {what}")
    diff_ids = rootfs.get("diff_ids") or []
    if not isinstance(diff_ids, list):
        raise InvalidArchive(f"rootfs.diff_ids in {what} is not a list", member=what)
    try:
        parsed = tuple(digests.parse(item) for item in diff_ids)
    except InvalidReference as error:
        raise InvalidArchive(
            f"rootfs.diff_ids in {what} holds something that is not a digest: {error}", member=what
        ) from None
    created = value.get("created")
    return Config(
        data=data,
        id=digests.digest(data),
        diff_ids=parsed,
        created=created if isinstance(created, str) else None,
        architecture=str(value.get("architecture", "")),
        os=str(value.get("os", "")),
    )


def machine() -> str:
    """This machine's architecture, as configurations and platforms name it."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def for_rootfs(diff_id: str, created: str, comment: str) -> Config:
    """A configuration for a file system that came without one (`streamer import` of a plain tar)."""
    return parse(
        document.dumps(
            {
                "architecture": machine(),
                "os": "linux",
                "created": created,
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [diff_id]},
                "history": [{"created": created, "comment": comment}],
            }
        )
    )


def extended(
    base: Config | None,
    diff_id: str | None,
    runtime: dict[str, Any],
    *,
    created: str,
    created_by: str,
    author: str = "",
) -> Config:
    """The configuration of an image that an instruction makes on the base (None: on nothing), with one more layer or
    without. `runtime` becomes its `config`, `created_by` the text of its history."""
    value: dict[str, Any] = base.value if base is not None else {"architecture": machine(), "os": "linux"}
    rootfs = value.setdefault("rootfs", {"type": "layers"})
    rootfs["diff_ids"] = [*(base.diff_ids if base is not None else ()), *([diff_id] if diff_id is not None else ())]
    entry: dict[str, Any] = {"created": created}
    value.pop("author", None)
    if author:
        entry["author"] = value["author"] = author
    entry["created_by"] = created_by
    if diff_id is None:
        entry["empty_layer"] = True
    value["history"] = [*(value.get("history") or []), entry]
    value["created"] = created
    value["config"] = runtime
    for stale in _STALE:
        value.pop(stale, None)
    return parse(document.dumps(value))


def with_layer(base: Config, diff_id: str, history: dict[str, Any]) -> Config:
    """The base configuration with one more layer on top; `history` is the layer's entry, its `created` the image's."""
    value = base.value
    rootfs = value.setdefault("rootfs", {"type": "layers"})
    rootfs["diff_ids"] = [*base.diff_ids, diff_id]
    value["history"] = [*(value.get("history") or []), history]
    if "created" in history:
        value["created"] = history["created"]
    for stale in _STALE:
        value.pop(stale, None)
    return parse(document.dumps(value))
