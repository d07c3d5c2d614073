"""The work of `streamer rm`: what a name stands for, and the way out where it is in use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from streamer.cli.table import short
from streamer.errors import Ambiguous, Conflict, InvalidReference, NotFound, StreamerError
from streamer.oci.reference import attempt

if TYPE_CHECKING:
    from streamer.stores.base import Image
    from streamer.stores.local.store import LocalStore


async def removed(local: LocalStore, ref: str, force: bool, containers: bool, images: bool) -> str:
    """The container or image `ref` is gone, or a name of the image; a line that says so. It is looked for among
    `containers`, `images` or both. Ambiguous if it is both, NotFound if neither; Conflict if in use, unless `force`."""
    container = image = None
    wrong: StreamerError | None = None
    if containers:
        try:
            container = await local.container(ref)
        except (NotFound, InvalidReference) as error:
            wrong = error
    if images:
        try:
            image = await local.image(ref)
        except (NotFound, InvalidReference) as error:
            wrong = error
    if container is not None and image is not None:
        # A name is meant before the beginning of an ID, with which it may agree by chance.
        if container.name == ref and not _named(image, ref):
            image = None
        elif container.name != ref and _named(image, ref):
            container = None
    if container is not None and image is not None:
        raise Ambiguous(f"{ref!r} is a container and an image: say which with --container or --image")
    if container is not None:
        await local.remove_container(ref, force)
        return f"removed container {container.name} ({container.id[:12]})"
    if image is not None:
        try:
            removal = await local.remove_image(ref, force)
        except Conflict as error:
            users = error.details.get("containers")
            if isinstance(users, (list, tuple)) and users:
                raise _used(image.id, users, error) from error
            raise
        names = ", ".join(removal.untagged)
        if removal.image is None:
            return f"removed name {names}"
        return f"removed image {names or '<none>'} ({short(removal.image)}), {removal.layers} layers"
    if containers and images and isinstance(wrong, NotFound):
        raise NotFound(f"there is no container or image {ref!r} in the store")
    assert wrong is not None
    raise wrong


def _named(image: Image, ref: str) -> bool:
    """Whether the reference is one of the image's names, and no part of its ID."""
    named = attempt(ref)
    return named is not None and named in image.names


def _used(image_id: str, users: Sequence[str], error: Conflict) -> Conflict:
    """The refusal with this command's own way out."""
    names = ", ".join(users[:10]) + (" and others" if len(users) > 10 else "")
    containers, them = ("container", "it") if len(users) == 1 else ("containers", "them")
    message = f"image {short(image_id)} is used by the {containers} {names}: remove {them} first, or use --force"
    return Conflict(message, **error.details)
