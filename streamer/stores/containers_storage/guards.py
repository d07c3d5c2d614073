"""The end checks: whether everything that was read was still there when the last of it was read.

The engines mark a layer as incomplete in its list before they remove anything of it (`Delete` of containers/storage'
layer store), and a layer that comes back under the same ID was made at another time.
"""

from __future__ import annotations

from collections.abc import Sequence

from streamer.errors import SourceChanged
from streamer.stores.base import Guard
from streamer.stores.containers_storage.reading import Reader
from streamer.stores.containers_storage.records import ContainerRecord, LayerRecord


def of_layers(reader: Reader, stack: Sequence[LayerRecord], what: str) -> Guard:
    """SourceChanged unless every layer of the stack is still listed as it was. What keeps a list from being read is
    raised only where a layer is not found in the others."""
    made = {(layer.place.label, layer.id): layer.created for layer in stack}

    def check() -> None:
        now, error = reader.layers_now()
        for key, created in made.items():
            layer = now.get(key)
            if layer is None and error is not None:
                raise error  # it may be in the list that cannot be read
            if layer is None or layer.incomplete or layer.created != created:
                raise SourceChanged(f"{what} was removed from the store meanwhile")

    return check


def of_container(reader: Reader, container: ContainerRecord, stack: Sequence[LayerRecord], what: str) -> Guard:
    """… and the container, on the same layer."""
    layers = of_layers(reader, stack, what)

    def check() -> None:
        layers()
        now = reader.container_now(container.id)
        if now is None or now.layer != container.layer or now.created != container.created:
            raise SourceChanged(f"{what} was removed from the store meanwhile")

    return check
