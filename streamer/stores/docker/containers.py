"""Containers: their writable directory on the init layer on the image's layers, and how they are doing."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from streamer.errors import NotFound, NotPermitted, SourceChanged, StoreDamaged, Unsupported
from streamer.mounts.mount import Snapshot
from streamer.stores.base import Container, Freezer, Guard
from streamer.stores.docker.files import required
from streamer.stores.docker.layers import Layers, Stored
from streamer.stores.docker.root import DataRoot

_ZERO = "0001-01-01T00:00:00Z"
"""Go's zero time: a container that was never started."""
_LINK = re.compile(r"l/[0-9A-Z]{1,64}")
_TARGET = re.compile(r"\.\./([0-9A-Za-z][0-9A-Za-z_-]{0,127})/diff")

Freezers = Callable[[str], Freezer | None]
"""What pauses the container with that ID."""


@dataclass(frozen=True, slots=True)
class State:
    """A container's config.v2.json; `error` instead if it cannot be read."""

    config: Mapping[str, Any]
    error: StoreDamaged | NotPermitted | None = None

    @property
    def names(self) -> tuple[str, ...]:
        name = self.config.get("Name")
        return (name.removeprefix("/"),) if isinstance(name, str) and name.strip("/") else ()


class Containers:
    """Makes the records of one reading of the store."""

    def __init__(self, store: str, root: DataRoot, layers: Layers, freezers: Freezers) -> None:
        self._store = store
        self._root = root
        self._layers = layers
        self._freezers = freezers

    def container(self, identity: str, state: State) -> Container:
        """StoreDamaged naming the file; Unsupported for one of another graph driver; NotFound if it was removed since
        the store was read."""
        try:
            return self._container(identity, state)
        except StoreDamaged:
            if read(self._root, identity) is None:
                raise NotFound(f"container {identity[:12]} was removed from store {self._store}") from None
            raise

    def _container(self, identity: str, state: State) -> Container:
        if state.error is not None:
            raise state.error
        driver = state.config.get("Driver")
        if driver not in (None, "", self._root.driver):
            raise Unsupported(
                f"container {identity[:12]} is not kept by {self._root.driver} but by {str(driver)[:40]!r}; "
                "one that containerd keeps can be read there (--store NAME=containerd:SOCKET#moby)"
            )
        files, place = self._root.files, f"{self._root.metadata}/layerdb/mounts/{identity}"
        mount = required(files.identity(f"{place}/mount-id"), f"{place}/mount-id")
        init = files.identity(f"{place}/init-id")
        image = files.digest(f"{place}/parent")
        chain = self._layers.chain(image) if image is not None else ()
        parent = self._layers.snapshot(chain, init) if chain or init is not None else None
        if self._root.driver == "overlay2":
            self._check_lowers(mount, [*([init] if init is not None else []), *(each.cache for each in chain)])
        name = next(iter(state.names), identity[:12])
        return Container(
            store=self._store,
            id=identity,
            name=name,
            image=_text(state.config, "Image"),
            image_name=_text(_mapping(state.config, "Config"), "Image"),
            created=_text(state.config, "Created"),
            snapshot=self._snapshot(parent, self._layers.tree(mount)),
            parent=parent,
            status=status(state.config, partial(_runs, identity, self._root.rootless)),
            guard=self._guard(identity, mount, chain),
            freezer=self._freezers(identity),
        )

    def _snapshot(self, parent: Snapshot | None, upper: bytes) -> Snapshot:
        overlay = self._root.driver == "overlay2"
        return Snapshot(
            "overlay" if overlay else "directory",
            parent.layers if overlay and parent is not None else (),
            upper,
            userxattr=self._root.rootless,
            ids=self._root.ids,
        )

    def _check_lowers(self, mount: str, expected: list[str]) -> None:
        """The end check looks at the layers that layerdb tells of: they have to be those that dockerd mounts."""
        files, name = self._root.files, f"overlay2/{mount}/lower"
        lowers = (files.word(name) or "").split(":") if expected else []
        found = []
        for lower in lowers:
            if _LINK.fullmatch(lower) is None:
                raise StoreDamaged(f"{name} holds something else than links to layers")
            target = _TARGET.fullmatch(files.target(f"overlay2/{lower}"))
            if target is None:
                raise StoreDamaged(f"overlay2/{lower} is not a link to a layer")
            found.append(target[1])
        if found != expected:
            raise StoreDamaged(f"{name} has other layers than layerdb has for the same container")

    def _guard(self, identity: str, mount: str, chain: tuple[Stored, ...]) -> Guard:
        """dockerd writes that a container is dead before it deletes any of its files."""
        return partial(_check, self._root, identity, mount, self._layers.guard(chain))


def read(root: DataRoot, identity: str) -> State | None:
    """A container's state; None if there is none: it is being made or removed, nobody else sees it either."""
    try:
        config = root.files.mapping(f"containers/{identity}/config.v2.json")
    except (StoreDamaged, NotPermitted) as error:
        return State({}, error)
    if config is None or _leaves(config):
        return None
    return State(config)


def status(config: Mapping[str, Any], runs: Callable[[int], bool]) -> str:
    """As `docker ps` has it, but a container whose process is gone has exited, whatever a daemon that crashed wrote."""
    state = _mapping(config, "State")
    pid = state.get("Pid")
    if state.get("Restarting") is True:
        return "restarting"
    if state.get("Running") is True:
        if type(pid) is not int or pid <= 0 or not runs(pid):
            return "exited"
        return "paused" if state.get("Paused") is True else "running"
    return "created" if _text(state, "StartedAt") in ("", _ZERO) else "exited"


def _runs(identity: str, rootless: bool, pid: int) -> bool:
    """Whether the process is the container's: its number may be another's by now. Processes of ordinary users are not
    always in control groups of their own."""
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_bytes()
    except OSError:
        return False
    return rootless or identity.encode() in groups


def _leaves(config: Mapping[str, Any]) -> bool:
    state = _mapping(config, "State")
    return state.get("Dead") is True or state.get("RemovalInProgress") is True


def _check(root: DataRoot, identity: str, mount: str, layers: Guard) -> None:
    place = f"{root.metadata}/layerdb/mounts/{identity}/mount-id"
    try:
        state = read(root, identity)
        there = state is not None and state.error is None and root.files.word(place) == mount
    except (StoreDamaged, NotPermitted):
        there = False
    if not there:
        raise SourceChanged(f"container {identity[:12]} was removed from the store meanwhile")
    layers()


def _mapping(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _text(value: Mapping[str, Any], key: str) -> str:
    found = value.get(key)
    return found if isinstance(found, str) else ""
