"""All stores of a node as one: look-ups across them, and the rule for what several of them answer to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from streamer.errors import Ambiguous, InvalidRequest, NotFound
from streamer.stores.base import Container, Image, Layer, Store

T = TypeVar("T")


class Catalog:
    """The stores by name, in the order in which they are listed. Owns none of them."""

    def __init__(self, stores: Mapping[str, Store]) -> None:
        self._stores = dict(stores)

    def __repr__(self) -> str:
        return f"<Catalog {', '.join(self._stores) or 'empty'}>"

    def stores(self, name: str | None = None) -> list[Store]:
        """Every store, or just the named one; InvalidRequest for a name that no store has."""
        if name is None:
            return list(self._stores.values())
        store = self._stores.get(name)
        if store is None:
            known = ", ".join(self._stores) or "none"
            raise InvalidRequest(f"there is no store {name!r}; known stores: {known}", parameter="store")
        return [store]

    async def image(self, reference: str, store: str | None = None) -> Image:
        return await self._one(
            f"image {reference!r}", store, lambda each: each.image(reference), lambda found: found.id
        )

    async def container(self, reference: str, store: str | None = None) -> Container:
        return await self._one(
            f"container {reference!r}", store, lambda each: each.container(reference), lambda found: found.id
        )

    async def layer(self, digest: str, store: str | None = None) -> Layer:
        """A layer by diff ID or chain ID. The same layer in two stores is one answer: its bytes are its digest's."""
        for each in self.stores(store):
            try:
                return await each.layer(digest)
            except NotFound:
                continue
        raise NotFound(f"there is no layer {digest} in {self._where(store)}")

    async def _one(
        self, what: str, store: str | None, look_up: Callable[[Store], Awaitable[T]], identity: Callable[[T], str]
    ) -> T:
        found: list[tuple[str, T]] = []
        for each in self.stores(store):
            try:
                found.append((each.name, await look_up(each)))
            except NotFound:
                continue
        if not found:
            raise NotFound(f"there is no {what} in {self._where(store)}")
        if len(found) > 1:
            candidates = [{"store": name, "id": identity(item)} for name, item in found]
            names = ", ".join(name for name, _ in found)
            raise Ambiguous(f"{what} is in several stores ({names}); say which one is meant", candidates=candidates)
        return found[0][1]

    def _where(self, store: str | None) -> str:
        return f"store {store}" if store is not None else "any store" if len(self._stores) != 1 else "the store"
