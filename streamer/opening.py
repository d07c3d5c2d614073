"""Locations to open stores: with `service`, the only code that names the concrete classes of stores."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio

from streamer.discovery import Node, discover, docker_sockets
from streamer.errors import InvalidRequest, NotFound, NotPermitted
from streamer.settings import Settings, environment, home
from streamer.stores import location
from streamer.stores.base import Store
from streamer.stores.containers_storage.discovery import discovered as storage
from streamer.stores.containers_storage.store import containers_storage
from streamer.stores.docker.store import docker_store
from streamer.stores.local.store import LocalStore
from streamer.stores.location import Location
from streamer.stores.oci_layout.store import oci_layout

DEFAULT_NAMESPACE = "default"
"""containerd's own."""


def node() -> Node:
    """This machine, for this user."""
    return Node(environment(), os.geteuid(), home())


@asynccontextmanager
async def opened_stores(settings: Settings, *, create: bool) -> AsyncIterator[dict[str, Store]]:
    """The stores in force by name, in the order given (discovered: in a fixed one), closed in reverse.

    With none named: the embedded store (made only if `create`, left out where it is not there) and every store found on
    the node. NotFound for a named store that is not there; InvalidRequest for two of one name, or two embedded ones.
    """
    named = [location.parse(item) for item in settings.stores]
    _check(named)
    if not named:
        local = Location(location.LOCAL, location.LOCAL, str(settings.state))
        named = [local] if create or await _embedded(local) else []
        if settings.discover:
            named += (await discover(node())).stores
            _check(named)
    elif not create:
        for each in named:
            if each.kind == location.LOCAL and not await _embedded(each):
                raise NotFound(f"there is no store at {each.place}; `streamer import` makes one")
    async with AsyncExitStack() as stack:
        stores: dict[str, Store] = {}
        for each in named:
            stores[each.name] = await _opened(each, stack)
        yield stores


def _check(named: Sequence[Location]) -> None:
    names = [each.name for each in named]
    for name in names:
        if names.count(name) > 1:
            raise InvalidRequest(f"two stores are named {name!r}", parameter="store")
    if sum(each.kind == location.LOCAL for each in named) > 1:
        raise InvalidRequest("only one embedded store can be served at a time", parameter="store")


async def _embedded(local: Location) -> bool:
    try:
        await anyio.Path(local.place, "streamer.db").stat()
        return True
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        raise InvalidRequest(f"there can be no store at {local.place}: it is no directory", parameter="state") from None
    except OSError as error:
        raise NotPermitted(f"cannot look for a store at {local.place}: {error.strerror}") from error


async def _opened(each: Location, stack: AsyncExitStack) -> Store:
    if each.kind == location.LOCAL:
        return await stack.enter_async_context(LocalStore.open(Path(each.place), name=each.name))
    if each.kind == location.CONTAINERD:
        # Its libraries are large and optional; nobody else should wait for them.
        from streamer.stores.containerd.store import ContainerdStore

        namespace = each.extra or DEFAULT_NAMESPACE
        return await stack.enter_async_context(ContainerdStore.open(each.name, each.place, namespace))
    path = Path(each.place).absolute()  # noqa: ASYNC240
    await _require_directory(path, each)
    if each.kind == location.DOCKER:
        if each.extra:
            return docker_store(each.name, path, [each.extra], named=True)
        return docker_store(each.name, path, docker_sockets(node()))
    if each.kind == location.CONTAINERS_STORAGE:
        return _containers_storage(each, path)
    return oci_layout(each.name, path)


def _containers_storage(each: Location, path: Path) -> Store:
    """With the options of storage.conf where that is about the same directory."""
    this = node()
    known = storage(this.environment, this.uid, this.home, this.root)
    runroot = Path(each.extra) if each.extra else None
    if known is None or not _same(known.graphroot, path):
        return containers_storage(each.name, path, runroot)
    return containers_storage(each.name, path, runroot or known.runroot, options=known.options)


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


async def _require_directory(path: Path, each: Location) -> None:
    try:
        if await anyio.Path(path).is_dir():
            return
    except OSError as error:
        raise NotPermitted(f"cannot look for store {each.name} at {path}: {error.strerror}") from error
    raise NotFound(f"there is no directory {path} for store {each.name}")
