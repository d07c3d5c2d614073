"""The catalog as a caller's scope shows it.

What a caller may not read is not listed, and asking for it by name is answered alike whether it is there or not: an
answer that differs would list it after all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from aiohttp import web

from streamer.access.scope import Kind
from streamer.errors import Forbidden, InvalidReference, InvalidRequest, StreamerError
from streamer.oci import reference as references
from streamer.oci.reference import Reference
from streamer.stores.base import Container, Damaged, Image, Layer, Listing, Store
from streamer.stores.catalog import Catalog
from streamer.web.callers import CALLER, Caller
from streamer.web.site import SITE

T = TypeVar("T")


def catalog(request: web.Request) -> Catalog:
    """What the caller of this request may look things up in."""
    whole, caller = request.app[SITE].catalog, request[CALLER]
    if caller.scope.stores is None and caller.scope.names is None:
        return whole
    return _Permitted(whole, caller)


def require_import(caller: Caller, store: str, name: str | None) -> None:
    """Forbidden unless the caller may import into this store, under this name: None leaves it to the archive."""
    if not caller.scope.store(store):
        raise caller.lacks(f"stores={store}", f"import into store {store!r}")
    if caller.scope.names is None:
        return
    if name is None:
        raise caller.lacks("names=*", "import under whatever names an archive gives: say which one with name=")
    if not caller.scope.named(_forms(references.attempt(name))):
        raise caller.lacks(f"names={name[:200]}", f"import under the name {name[:200]!r}")


def require_build(caller: Caller, store: str, names: Sequence[Reference]) -> None:
    """Forbidden unless the caller may build in this store, and give the image these names. What it may build on is
    what it may look up."""
    if not caller.scope.store(store):
        raise caller.lacks(f"stores={store}", f"build in store {store!r}")
    if caller.scope.names is None:
        return
    if not names:
        raise caller.lacks("names=*", "build an image without a name: say which one with t=")
    for name in names:
        if not caller.scope.named(_forms(name)):
            raise caller.lacks(f"names={name.familiar}", f"build under the name {name.familiar!r}")


def may_know(
    caller: Caller, kind: Kind, refs: Sequence[str], store: str | None, layers: Collection[str] = frozenset()
) -> bool:
    """Whether the caller's scope reaches what an export job exports; of a job that names no store, only a scope of all
    stores does. `layers` is what `layers()` gives."""
    scope = caller.scope
    if kind not in scope.kinds or (scope.stores is not None and (store is None or not scope.store(store))):
        return False
    if scope.names is None:
        return True
    if kind is Kind.LAYER:
        return all(ref in layers for ref in refs)
    return all(scope.named(_lasting(kind, ref)) for ref in refs)


async def layers(request: web.Request) -> frozenset[str]:
    """Diff IDs and chain IDs of the layers that the caller may read; empty where its scope does not limit names, and
    any layer may be read."""
    scope = request[CALLER].scope
    if scope.names is None or Kind.LAYER not in scope.kinds:
        return frozenset()
    found = await catalog(request).layers()
    return frozenset(digest for each in found for digest in (each.diff_id, each.chain_id))


async def require_source(request: web.Request, kind: Kind, refs: Sequence[str], store: str | None) -> None:
    """Forbidden unless the caller may have exported later, when nobody is asked any more, what it names now.

    So a limited scope needs a store that is named, and names in place of IDs: what an ID begins with may be another
    thing by then. What such a scope names is looked up, and raises what that does; what another one names is not.
    """
    caller, scope = request[CALLER], request[CALLER].scope
    caller.require(kind)
    if scope.stores is not None and store is None:
        raise caller.lacks("stores=*", "leave the store of a job open: name one that it may use")
    if scope.stores is None and scope.names is None:
        return
    for ref in refs:
        named = await _named(catalog(request), kind, ref, store)
        if scope.names is not None and kind is not Kind.LAYER and not (named and scope.named(_lasting(kind, ref))):
            raise caller.lacks(
                f"names={ref[:200]}", f"begin a job for {ref[:200]!r}: name it by a name that it may read"
            )


async def _named(found: Catalog, kind: Kind, ref: str, store: str | None) -> bool:
    """Whether what is there is called so, and not only found by its ID. Raises what looking it up does."""
    if kind is Kind.LAYER:
        await found.layer(ref, store)
        return False
    if kind not in (Kind.IMAGE, Kind.ROOTFS):
        return (await found.container(ref, store)).name == ref
    if kind is Kind.IMAGE and _all_tags(ref) and await found.named(ref, store):
        return True
    image = await found.image(ref, store)
    return "@" in ref or references.attempt(ref) in image.names


def _lasting(kind: Kind, ref: str) -> list[str]:
    """What patterns are compared with where nothing is looked up: whatever has this name may be exported."""
    if kind not in (Kind.IMAGE, Kind.ROOTFS):
        return [ref]
    name = references.attempt(ref)
    if name is not None and kind is Kind.IMAGE and _all_tags(ref):
        return [name.familiar_repository]  # the only thing that every tag of it has in common
    return _forms(name)


def _all_tags(ref: str) -> bool:
    """Whether an image job takes this for a repository, and so saves every tag of it."""
    try:
        name = references.parse(ref)
    except InvalidReference:
        return False
    return name.tag is None and name.digest is None


def shown_to(caller: Caller, image: Image) -> Image:
    """The image with those of its names that the caller may read."""
    return replace(image, names=tuple(name for name in image.names if caller.scope.named(_forms(name))))


class _Permitted(Catalog):
    def __init__(self, whole: Catalog, caller: Caller) -> None:
        scope = caller.scope
        super().__init__({each.name: each for each in whole.stores() if scope.store(each.name)})
        self.on_silent, self.on_answer = whole.on_silent, whole.on_answer
        self._caller = caller
        self._scope = scope

    def stores(self, name: str | None = None) -> list[Store]:
        if name is not None and not self._scope.store(name):
            raise self._caller.lacks(f"stores={name[:200]}", f"use store {name[:200]!r}")
        return super().stores(name)

    async def images(self, store: str | None = None) -> Listing[Image]:
        found = await super().images(store)
        if self._scope.names is None:
            return found
        shown = (shown_to(self._caller, each) for each in found)
        return Listing(tuple(each for each in shown if each.names), self._damaged(found.damaged))

    async def containers(self, store: str | None = None) -> Listing[Container]:
        found = await super().containers(store)
        kept = tuple(each for each in found if self._scope.named([each.name]))
        return Listing(kept, self._damaged(found.damaged))

    async def layers(self, store: str | None = None) -> Listing[Layer]:
        found = await super().layers(store)
        if self._scope.names is None:
            return found
        known = await self._layers_of_images(store)
        kept = tuple(each for each in found if (each.store, each.diff_id) in known)
        return Listing(kept, self._damaged(found.damaged))

    async def image(self, reference: str, store: str | None = None) -> Image:
        pinned = references.attempt(reference) if "@" in reference else None  # by its repository, so never an ID
        return await self._judged(
            f"image {reference[:200]!r}",
            lambda: super(_Permitted, self).image(reference, store),
            lambda found: [form for name in (*found.names, pinned) for form in _forms(name)],
            _forms(references.attempt(reference)),
        )

    async def named(self, repository: str, store: str | None = None) -> list[tuple[Reference, Image]]:
        return [pair for pair in await super().named(repository, store) if self._name(pair[0])]

    async def container(self, reference: str, store: str | None = None) -> Container:
        return await self._judged(
            f"container {reference[:200]!r}",
            lambda: super(_Permitted, self).container(reference, store),
            lambda found: [found.name],
            [reference],
        )

    async def layer(self, digest: str, store: str | None = None) -> Layer:
        if self._scope.names is None:
            return await super().layer(digest, store)
        known = await self._layers_of_images(store)
        try:
            found = await super().layer(digest, store)
        except InvalidRequest:
            raise
        except StreamerError as error:
            raise self._refusal(f"layer {digest[:200]}") from error
        if (found.store, found.diff_id) not in known:
            raise self._refusal(f"layer {digest[:200]}")
        return found

    async def _judged(
        self,
        what: str,
        look_up: Callable[[], Awaitable[T]],
        names: Callable[[T], Iterable[str]],
        asked: Iterable[str],
    ) -> T:
        """What is found, if one of its names is allowed. That nothing is found is told only to those who asked by a
        name that they may read."""
        try:
            found = await look_up()
        except InvalidRequest:
            raise
        except StreamerError:
            if self._scope.named(asked):
                raise
        else:
            if self._scope.named(names(found)):
                return found
        raise self._refusal(what)

    def _refusal(self, what: str) -> Forbidden:
        return self._caller.lacks(f"names={what.partition(' ')[2]}", f"read {what}: no name that it may read matches")

    async def _layers_of_images(self, store: str | None) -> set[tuple[str, str]]:
        """Layers of images that have an allowed name, by store and diff ID."""
        images = (await self.images(store)).items
        return {(layer.store, layer.diff_id) for image in images for layer in image.layers}

    def _name(self, name: Reference) -> bool:
        return self._scope.named(_forms(name))

    def _damaged(self, damaged: Iterable[Damaged]) -> tuple[Damaged, ...]:
        """A store that cannot be read is told of; a thing in one only if it has a name that is allowed."""
        if self._scope.names is None:
            return tuple(damaged)
        return tuple(each for each in damaged if not each.id or self._scope.named(each.names))


def _forms(name: Reference | None) -> list[str]:
    """What a pattern is compared with: the familiar name, with and without tag."""
    return [] if name is None else [name.familiar, name.familiar_repository]
