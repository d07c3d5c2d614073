"""Content descriptors (OCI image-spec descriptor.md)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from streamer.errors import InvalidArchive, InvalidReference
from streamer.oci import digest as digests
from streamer.oci import document


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on, in the words of Go: `linux`, `amd64`. Empty where it is not said."""

    os: str = ""
    architecture: str = ""
    variant: str = ""

    def value(self) -> dict[str, Any]:
        members = {"architecture": self.architecture, "os": self.os, "variant": self.variant}
        return {key: text for key, text in members.items() if text or key != "variant"}


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What is pointed at: media type, digest, size in bytes; in an index its platform, where that is said."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] = field(default_factory=dict)
    platform: Platform | None = None

    def value(self) -> dict[str, Any]:
        """As JSON members, in the order the specification lists them."""
        members: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.annotations:
            members["annotations"] = dict(self.annotations)
        if self.platform is not None:
            members["platform"] = self.platform.value()
        return members


def parse(value: Any, what: str) -> Descriptor:
    """A descriptor from a document; InvalidArchive naming `what` where it is malformed."""
    members = document.mapping(value, f"a descriptor in {what}")
    size = members.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise InvalidArchive(f"a descriptor in {what} has no valid size", member=what)
    try:
        digest = digests.parse(members.get("digest"))
    except InvalidReference as error:
        raise InvalidArchive(f"a descriptor in {what} has no valid digest: {error}", member=what) from None
    annotations = members.get("annotations") or {}
    if not isinstance(annotations, dict):
        raise InvalidArchive(f"the annotations of a descriptor in {what} are not an object", member=what)
    return Descriptor(
        media_type=str(members.get("mediaType", "")),
        digest=digest,
        size=size,
        annotations={str(key): str(item) for key, item in annotations.items()},
        platform=_platform(members.get("platform")),
    )


def _platform(value: Any) -> Platform | None:
    if not isinstance(value, dict):
        return None
    return Platform(*(str(value.get(key) or "") for key in ("os", "architecture", "variant")))
