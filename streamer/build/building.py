"""From an order and a Dockerfile to an image with its names: the parts of this package, one after the other."""

from __future__ import annotations

from typing import Protocol

from anyio import to_thread

from streamer.build import dockerfile
from streamer.build.builder import Builder, Workshop
from streamer.build.order import Order
from streamer.build.preparation import LookUp, outer, prepared
from streamer.build.progress import Say, stream
from streamer.stores.base import Image


class Naming(Protocol):
    async def tag(self, image: str, name: str) -> None:
        """Gives an image one more name; another image that has it loses it."""
        ...


async def build(
    order: Order, data: bytes, name: str, *, workshop: Workshop, look_up: LookUp, naming: Naming, say: Say
) -> Image:
    """The image of a Dockerfile's bytes, called `name` in messages.

    Whatever can be checked without making anything is checked first, and until then nothing is said. InvalidRequest,
    Unsupported, NotFound, … with file and line in the message and in `details`. Images of the steps before a failure
    stay, for the cache, and no name is given.
    """
    found = await to_thread.run_sync(dockerfile.read, data, name)
    if order.target:
        found = found.up_to(order.target)
    found = found.labelled(order.labels)
    arguments = outer(found, order.arguments)
    stages = await prepared(found, arguments, look_up)
    image = await Builder(found, workshop, order.options, say).build(stages, arguments)
    for each in order.names:
        await naming.tag(image.id, each.familiar)
        await say(stream(f"Successfully tagged {each.familiar}"))
    return image
