"""One COPY or ADD by itself: an image with files added to another one, without a Dockerfile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from streamer.build import runtime, steps
from streamer.build.builder import Workshop
from streamer.build.building import Naming
from streamer.build.instruction import Add, Copy
from streamer.build.preparation import LookUp
from streamer.errors import InvalidRequest
from streamer.oci.reference import Reference
from streamer.stores.base import Image
from streamer.stores.values import image_value

SCRATCH = "scratch"
"""The name of no image at all."""


@dataclass(frozen=True, slots=True)
class Order:
    """What somebody wants copied. `image` is copied onto, `scratch` for nothing; `names` are what the new image is to
    be called; `cache`: whether one that was made of the very same before will do."""

    image: str
    instruction: Copy | Add
    names: tuple[Reference, ...] = ()
    cache: bool = True


@dataclass(frozen=True, slots=True)
class Copied:
    """`cached`: the image was there already."""

    image: Image
    created_by: str
    cached: bool


def value(copied: Copied) -> dict[str, Any]:
    """As the API and `--json` give it."""
    return {"image": image_value(copied.image), "created_by": copied.created_by, "cached": copied.cached}


def instruction(add: bool, sources: Sequence[str], destination: str, *, chown: str = "", chmod: str = "") -> Copy | Add:
    """The instruction, as it would be in a Dockerfile, its variables replaced. InvalidRequest for what is missing."""
    if not sources or not all(sources):
        raise InvalidRequest("name what is to be copied: at least one source, none of them empty", parameter="source")
    if not destination:
        raise InvalidRequest("the destination is empty: name a path in the image", parameter="destination")
    if any("\0" in each for each in (*sources, destination)):
        raise InvalidRequest("a source or destination holds a NUL byte")
    code = " ".join(("ADD" if add else "COPY", *sources, destination))
    kind = Add if add else Copy
    return kind(line=0, code=code, sources=tuple(sources), destination=destination, chown=chown, chmod=chmod)


async def copied(order: Order, *, workshop: Workshop, look_up: LookUp, naming: Naming) -> Copied:
    """Makes the image, or finds it, and gives it its names. All or nothing.

    Its configuration is that of the image below, triggers too: they are for whoever builds on it. NotFound for an
    image or a source that is not there; InvalidRequest, Unsupported, NotPermitted as the workshop raises them.
    """
    given = order.instruction
    parent = None if order.image == SCRATCH else await look_up(order.image)
    if parent is None:
        config = runtime.begun(runtime.EMPTY)
    else:
        config = runtime.of_image(parent.config.value, f"the configuration of image {parent.id}")
    async with workshop.files(given, None, parent, config.working_directory) as files:
        chown = workshop.chown(given.chown) if given.chown else ""
        text = steps.text(given, config, chown, files.hash)
        step = steps.decided(parent, config, text, files=files.others)
        found = await workshop.cached(step.key) if order.cache else None
        image = await files.make(step) if found is None else found
    for name in order.names:
        await naming.tag(image.id, name.familiar)
    # Looked up once more, with all the names that it has now.
    return Copied(await look_up(image.id) if order.names else image, text, found is not None)
