"""Stores that are read only: one reading of their metadata gives an index, and every reference is resolved by one rule.

A store of this kind is a function that reads (Docker's JSON files, a containerd over its socket …) and an index of what
it read; names, full IDs, unique prefixes, candidates and damage are dealt with here, the same for all.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Protocol, TypeVar

from anyio import CapacityLimiter, to_thread

from streamer.errors import Ambiguous, InvalidReference, NotFound, NotPermitted, StoreDamaged, StreamerError
from streamer.oci import digest as digests
from streamer.oci import reference as references
from streamer.oci.reference import Reference
from streamer.stores.base import Container, Damaged, Image, Layer, Listing

LOOKUPS = 8
"""Readings of one store that may go on at a time."""

_CONTAINER_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}")

T = TypeVar("T")


class Contradictory(tuple[str, ...]):
    """The image IDs of a name that was given to several images: by the name alone it is none of them."""


class Index(Protocol):
    """What one reading of a store found. The methods that make records may look at files; they run in a thread.

    Records are made one at a time, so that what is damaged is told (StoreDamaged, naming the file) and hides no other.
    """

    @property
    def names(self) -> Mapping[Reference, Collection[str]]:
        """Image IDs by name, in normal form, with a tag or with a digest (a manifest's, as pulled). Several IDs for one
        name are one image for several platforms, the one for this machine first, unless they are Contradictory."""
        ...

    @property
    def images(self) -> Collection[str]:
        """The ID of every image: the digest of its configuration."""
        ...

    @property
    def aliases(self) -> Mapping[str, Collection[str]]:
        """Image IDs by further digests that mean them (of manifests and indexes)."""
        ...

    @property
    def containers(self) -> Mapping[str, Collection[str]]:
        """The names of each container, by ID."""
        ...

    @property
    def layers(self) -> Mapping[str, str]:
        """The diff ID of each layer, by chain ID."""
        ...

    def image(self, identity: str) -> Image: ...

    def container(self, identity: str) -> Container: ...

    def layer(self, chain_id: str) -> Layer: ...


class IndexedStore:
    """A store that is read anew for every question. `read` gives an index, or raises what the store is damaged by.

    `location` is as `--store` takes it. `local_names` is a registry tried for names that are not found as they are
    (`localhost`, for podman).

    StoreDamaged and NotPermitted name the store, whether or not what raises them does.
    """

    def __init__(
        self, name: str, location: str, read: Callable[[], Awaitable[Index]], *, local_names: str | None = None
    ) -> None:
        self._name = name
        self._location = location
        self._read = read
        self._local_names = local_names
        self._limiter = CapacityLimiter(LOOKUPS)

    def __repr__(self) -> str:
        return f"<store {self._name} {self._location}>"

    @property
    def name(self) -> str:
        return self._name

    @property
    def location(self) -> str:
        return self._location

    async def images(self) -> Listing[Image]:
        with self._naming():
            index = await self._read()
            names: dict[str, list[str]] = {}
            for name, identities in index.names.items():
                if name.tag is not None:
                    for identity in identities:
                        names.setdefault(identity, []).append(name.familiar)
            return await self._in_thread(
                lambda: self._listed(sorted(index.images), index.image, lambda identity: names.get(identity, ()))
            )

    async def containers(self) -> Listing[Container]:
        with self._naming():
            index = await self._read()
            return await self._in_thread(
                lambda: self._listed(
                    sorted(index.containers), index.container, lambda identity: index.containers[identity]
                )
            )

    async def layers(self) -> Listing[Layer]:
        with self._naming():
            index = await self._read()
            return await self._in_thread(lambda: self._listed(sorted(index.layers), index.layer, lambda _: ()))

    async def image(self, reference: str) -> Image:
        with self._naming():
            index = await self._read()
            identity = self._image_id(index, reference)
            return await self._in_thread(lambda: index.image(identity))

    async def named(self, repository: str) -> list[tuple[Reference, Image]]:
        with self._naming():
            index = await self._read()
            for wanted in self._as_written(references.parse(repository)):
                found = sorted(
                    (name.tag, name, identities)
                    for name, identities in index.names.items()
                    if name.repository == wanted.repository and name.tag is not None and name.digest is None
                )
                if found:
                    meant = [(name, _meant(self._name, name.familiar, ids)) for _, name, ids in found]
                    return await self._in_thread(partial(_tagged, index, meant))
            return []

    async def container(self, reference: str) -> Container:
        with self._naming():
            index = await self._read()
            return await self._in_thread(lambda: self._container(index, reference))

    async def layer(self, digest: str) -> Layer:
        with self._naming():
            index = await self._read()
            chain = self._chain_id(index, digest)
            return await self._in_thread(lambda: index.layer(chain))

    async def _in_thread(self, made: Callable[[], T]) -> T:
        return await to_thread.run_sync(made, limiter=self._limiter)

    def _listed(
        self, identities: Iterable[str], made: Callable[[str], T], names: Callable[[str], Collection[str]]
    ) -> Listing[T]:
        items: list[T] = []
        damaged: list[Damaged] = []
        for identity in identities:
            try:
                items.append(made(identity))
            except NotFound:
                continue  # removed since the store was read
            except StreamerError as error:
                damaged.append(Damaged(self._name, identity, tuple(sorted(names(identity))), self._told(error)))
        return Listing(tuple(items), tuple(damaged))

    def _container(self, index: Index, text: str) -> Container:
        try:
            identity = self._container_id(index, text)
        except NotFound:
            self._perhaps(index, text)
            raise
        return index.container(identity)

    def _perhaps(self, index: Index, text: str) -> None:
        """Raises what keeps containers from being read that have no name to be read: any of them may be the one meant.
        Whoever is told that it is not found takes it for removed."""
        errors: list[StreamerError] = []
        for identity in [identity for identity, names in index.containers.items() if not names]:
            try:
                index.container(identity)
            except NotFound:
                continue  # removed since the store was read
            except StreamerError as error:
                errors.append(error)
        if errors:
            refused = all(isinstance(error, NotPermitted) for error in errors)
            raise (NotPermitted if refused else StoreDamaged)(
                f"there is no container {text[:300]!r} among those of store {self._name} that can be read; "
                f"{len(errors)} cannot be: {errors[0]}"
            ) from errors[0]

    # What an error is told with

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except (StoreDamaged, NotPermitted) as error:
            told = self._told(error)
            if told is error:
                raise
            raise told from error

    def _told(self, error: StreamerError) -> StreamerError:
        """The error as it is told where there are several stores."""
        known = re.search(rf"\bstore {re.escape(self._name)}(?![\w-])", str(error))
        if known or not isinstance(error, (StoreDamaged, NotPermitted)):
            return error
        told = type(error)(f"store {self._name}: {error}", **error.details)
        told.__cause__ = error
        for note in getattr(error, "__notes__", ()):
            told.add_note(note)
        return told

    # The rule for references

    def _image_id(self, index: Index, text: str) -> str:
        if digests.is_digest(text):
            return self._one(f"{text!r} means several images", self._by_digest(index, text), text, "image")
        name, prefix = references.attempt(text), digests.prefix(text)
        if name is not None:
            for wanted in self._as_written(name):
                found = index.names.get(wanted)
                if found is None and wanted.digest is not None:
                    # A name with tag and digest means the digest.
                    found = index.names.get(Reference(wanted.repository, None, wanted.digest))
                if found:
                    return _meant(self._name, text, found)
        if prefix is not None:
            matches = [identity for identity in index.images if identity.startswith(prefix)]
            for alias, identities in index.aliases.items():
                if alias.startswith(prefix):
                    matches += identities
            return self._one(f"several images have an ID that begins with {text!r}", matches, text, "image")
        if name is None:
            references.parse(text)  # raises, and says what is wrong
        raise self._missing("image", text)

    def _by_digest(self, index: Index, digest: str) -> list[str]:
        return [digest] if digest in index.images else list(index.aliases.get(digest, ()))

    def _container_id(self, index: Index, text: str) -> str:
        named = [identity for identity, names in index.containers.items() if text in names]
        if named:  # pods may each have a container of one name
            return self._one(f"several containers are named {text!r}", named, text, "container")
        if text in index.containers:
            return text
        matches = [identity for identity in index.containers if identity.startswith(text)] if text else []
        if not matches and _CONTAINER_NAME.fullmatch(text) is None:
            raise InvalidReference(
                f"{text[:128]!r} is not a container name: letters, digits, '_', '.', '-', "
                "beginning with a letter or digit"
            )
        return self._one(f"several containers have an ID that begins with {text!r}", matches, text, "container")

    def _chain_id(self, index: Index, text: str) -> str:
        """By chain ID, else diff ID, else a unique prefix of either. Equal diff IDs are equal tars: any one will do."""
        prefix = text if digests.is_digest(text) else digests.prefix(text)
        if prefix is None:
            digests.parse(text)
            raise self._missing("layer", text)
        if prefix in index.layers:
            return prefix
        found: dict[str, str] = {}
        for chain, diff in sorted(index.layers.items()):
            if chain.startswith(prefix) or diff.startswith(prefix):
                found.setdefault(diff, chain)
        if prefix in found:
            return found[prefix]
        diff = self._one(f"several layers have a digest that begins with {text!r}", list(found), text, "layer")
        return found[diff]

    def _one(self, message: str, matches: Iterable[str], text: str, kind: str) -> str:
        unique = sorted(set(matches))
        if len(unique) > 1:
            raise _ambiguous(self._name, message, unique)
        if not unique:
            raise self._missing(kind, text)
        return unique[0]

    def _missing(self, kind: str, text: str) -> NotFound:
        return NotFound(f"there is no {kind} {text[:300]!r} in store {self._name}")

    def _as_written(self, name: Reference) -> list[Reference]:
        """The name, and where the store has names of its own the same one there."""
        if self._local_names is None or not name.repository.startswith("docker.io/"):
            return [name]
        own = f"{self._local_names}/{name.familiar_repository}"
        return [name, Reference(own, name.tag, name.digest)]


def _meant(store: str, text: str, identities: Collection[str]) -> str:
    """The image that a name means. Ambiguous where the store itself contradicts itself."""
    if isinstance(identities, Contradictory):
        raise _ambiguous(store, f"several images are named {text!r} in store {store}", identities)
    return next(iter(identities))


def _ambiguous(store: str, message: str, identities: Iterable[str]) -> Ambiguous:
    return Ambiguous(message, candidates=[{"store": store, "id": identity} for identity in identities])


def _tagged(index: Index, names: Iterable[tuple[Reference, str]]) -> list[tuple[Reference, Image]]:
    return [(name, index.image(identity)) for name, identity in names]
