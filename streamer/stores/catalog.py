"""All stores of a node as one: look-ups across them, and the rule for what several of them answer to.

One store that cannot be read keeps nobody from the others: a listing of all tells of it beside what the others hold,
and a look-up fails for its sake only if no other store has what is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import anyio

from streamer.errors import Ambiguous, EngineUnreachable, InvalidRequest, NotFound, StreamerError
from streamer.log import logger
from streamer.oci import digest as digests
from streamer.oci import reference as references
from streamer.oci.reference import Reference
from streamer.stores.base import Container, Damaged, Image, Layer, Listing, Store

log = logger("streamer.stores")

T = TypeVar("T")


class Catalog:
    """The stores by name, in the order in which they are listed. Owns none of them."""

    def __init__(self, stores: Mapping[str, Store]) -> None:
        self._stores = dict(stores)
        self.on_silent: Callable[[Store, StreamerError], None] = _logged
        """Told of each store that could not be asked while another one had the answer: it might have had one, too."""
        self.on_answer: Callable[[Store, float], None] = _unheard
        """Told how many seconds a store took, whatever it answered."""

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

    async def images(self, store: str | None = None) -> Listing[Image]:
        return await self._listed(store, lambda each: each.images())

    async def containers(self, store: str | None = None) -> Listing[Container]:
        return await self._listed(store, lambda each: each.containers())

    async def layers(self, store: str | None = None) -> Listing[Layer]:
        return await self._listed(store, lambda each: each.layers())

    async def image(self, reference: str, store: str | None = None) -> Image:
        name, prefix = references.attempt(reference), reference.removeprefix("sha256:")
        found = await self._asked(
            f"image {reference!r}",
            store,
            lambda each: each.image(reference),
            lambda image: name in image.names or _is_whole(prefix, digests.encoded(image.id)),
        )
        return _only(f"image {reference!r}", {name: (image, [image.id]) for name, image in found.items()})

    async def named(self, repository: str, store: str | None = None) -> list[tuple[Reference, Image]]:
        """Every tag of a repository in the one store that has any, sorted by tag; empty if none has. Ambiguous."""

        async def tags(each: Store) -> list[tuple[Reference, Image]]:
            found = await each.named(repository)
            if not found:
                raise NotFound(f"there is no image {repository!r}")
            return found

        try:
            found = await self._asked(f"image {repository!r}", store, tags)
        except NotFound:
            return []
        return _only(
            f"image {repository!r}",
            {name: (pairs, sorted({image.id for _, image in pairs})) for name, pairs in found.items()},
        )

    async def container(self, reference: str, store: str | None = None) -> Container:
        found = await self._asked(
            f"container {reference!r}",
            store,
            lambda each: each.container(reference),
            lambda container: reference == container.name or _is_whole(reference, container.id),
        )
        return _only(f"container {reference!r}", {name: (each, [each.id]) for name, each in found.items()})

    async def layer(self, digest: str, store: str | None = None) -> Layer:
        """A layer by diff ID or chain ID. The same layer in two stores is one answer, its bytes being its digest's: of
        the first store that can give them as they came, else of the first."""
        found = await self._asked(f"layer {digest}", store, lambda each: each.layer(digest))
        if len({each.diff_id for each in found.values()}) > 1:
            return _only(f"layer {digest!r}", {name: (each, [each.chain_id]) for name, each in found.items()})
        layers = list(found.values())
        return next((each for each in layers if each.assemble is not None), layers[0])

    async def health(self, patience: float) -> dict[str, StreamerError]:
        """The stores that do not answer now, or not within `patience` seconds, each with its error."""

        async def answers(each: Store) -> None:
            try:
                with anyio.fail_after(patience):
                    await each.named("readiness")  # finds nothing, and costs next to nothing
            except TimeoutError:
                raise EngineUnreachable(f"store {each.name} does not answer within {patience:g} seconds") from None

        return {
            each.name: answer
            for each, answer in await _answers(self.stores(), answers, self.on_answer)
            if isinstance(answer, StreamerError)
        }

    async def _asked(
        self,
        what: str,
        store: str | None,
        look_up: Callable[[Store], Awaitable[T]],
        exact: Callable[[T], bool] = lambda _: False,
    ) -> dict[str, T]:
        """What each store answers that knows of it: at least one answer, or the error why there is none.

        Across stores as within one, what is `exact` (a name, a whole ID) wins over the beginning of an ID.
        """
        found: dict[str, T] = {}
        silent: list[tuple[Store, StreamerError]] = []
        unclear: list[Ambiguous] = []
        invalid: list[InvalidRequest] = []
        for each, answer in await _answers(self.stores(store), look_up, self.on_answer):
            if not isinstance(answer, StreamerError):
                found[each.name] = answer
            elif isinstance(answer, Ambiguous):
                unclear.append(answer)
            elif isinstance(answer, InvalidRequest):
                invalid.append(answer)  # for this store; another may have just such a name
            elif not isinstance(answer, NotFound):
                silent.append((each, answer))
        named = {name: answer for name, answer in found.items() if exact(answer)}
        if named:
            found = named
        elif unclear:
            raise unclear[0]
        if not found:
            if silent:
                raise silent[0][1]
            raise invalid[0] if invalid else NotFound(f"there is no {what} in {self._where(store)}")
        for each, error in silent:
            self.on_silent(each, error)
        return found

    async def _listed(self, store: str | None, look_up: Callable[[Store], Awaitable[Listing[T]]]) -> Listing[T]:
        items: list[T] = []
        damaged: list[Damaged] = []
        for each, answer in await _answers(self.stores(store), look_up, self.on_answer):
            if not isinstance(answer, StreamerError):
                items += answer.items
                damaged += answer.damaged
            elif store is not None:
                raise answer
            else:
                damaged.append(Damaged(each.name, "", (), answer))
        return Listing(tuple(items), tuple(damaged))

    def _where(self, store: str | None) -> str:
        return f"store {store}" if store is not None else "any store" if len(self._stores) != 1 else "the store"


def _is_whole(text: str, identity: str) -> bool:
    """Whether what was found under `text` was not found as the beginning of its ID."""
    return text == identity or not identity.startswith(text)


def _unheard(_store: Store, _seconds: float) -> None:
    pass


def _logged(store: Store, error: StreamerError) -> None:
    log.warning("store not asked", store=store.name, code=error.code, error=str(error))


async def _answers(
    stores: Sequence[Store],
    look_up: Callable[[Store], Awaitable[T]],
    told: Callable[[Store, float], None],
) -> list[tuple[Store, T | StreamerError]]:
    """What each store answers, in their order. All are asked at once: the slowest one is waited for, not their sum."""
    answers: dict[str, T | StreamerError] = {}
    unexpected: list[Exception] = []

    async def ask(each: Store) -> None:
        began = time.monotonic()
        try:
            answers[each.name] = await look_up(each)
        except StreamerError as error:
            answers[each.name] = error
        except Exception as error:
            unexpected.append(error)
        told(each, time.monotonic() - began)

    async with anyio.create_task_group() as tasks:
        for each in stores:
            tasks.start_soon(ask, each)
    if unexpected:
        raise unexpected[0]
    return [(each, answers[each.name]) for each in stores]


def _only(what: str, found: Mapping[str, tuple[T, Iterable[str]]]) -> T:
    """The one store's answer; Ambiguous, with every store's candidates, if several answer."""
    if len(found) > 1:
        candidates = [{"store": name, "id": identity} for name, (_, ids) in found.items() for identity in ids]
        names = ", ".join(found)
        raise Ambiguous(
            f"{what} is in several stores ({names}); say which one is meant with store= (--from-store)",
            candidates=candidates,
        )
    ((answer, _),) = found.values()
    return answer
