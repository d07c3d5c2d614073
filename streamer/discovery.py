"""The stores of this node, found where engines keep them unless told otherwise.

What is found is what was there when streamer started; what this user may not read is told, not served.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from streamer import log as logs
from streamer.errors import StreamerError, Unsupported
from streamer.stores import location
from streamer.stores.containers_storage.discovery import discovered as storage
from streamer.stores.docker.store import uses_containerd
from streamer.stores.location import Location

log = logs.logger("streamer.discovery")

_CONFIG = 1 << 20
_USUAL = ("default", "k8s.io")
_MOBY = "moby"
"""The namespace in containerd that dockerd keeps its things in."""


@dataclass(frozen=True, slots=True)
class Node:
    """Whose stores are looked for, and where: all of the environment that matters, as plain values."""

    environment: Mapping[str, str]
    uid: int
    home: Path
    root: Path = Path("/")

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    @property
    def run(self) -> Path:
        """Where this user's daemons have their sockets."""
        given = self.environment.get("XDG_RUNTIME_DIR")
        return Path(given) if given else self.at(f"/run/user/{self.uid}")


@dataclass(frozen=True, slots=True)
class Found:
    """`closed` are stores that are there but may not be read by this user, each with its reason."""

    stores: tuple[Location, ...]
    closed: tuple[tuple[Location, str], ...] = ()


async def discover(node: Node) -> Found:
    """Every engine's store on the node, one for each namespace of a containerd."""
    stores: list[Location] = []
    closed: list[tuple[Location, str]] = []
    docker = _docker(node)
    in_containerd: list[Location] = []
    for each in docker:
        if not _may(each.place, os.R_OK | os.X_OK):
            closed.append((each, "its files may not be read by this user"))
        elif uses_containerd(Path(each.place)):
            in_containerd.append(each)
        else:
            stores.append(each)
    found = storage(node.environment, node.uid, node.home, node.root)
    if found is not None:
        each = Location(
            location.CONTAINERS_STORAGE,
            location.CONTAINERS_STORAGE,
            str(found.graphroot),
            str(found.runroot) if found.runroot is not None else "",
        )
        if _may(found.graphroot, os.R_OK | os.X_OK):
            stores.append(each)
        elif not _may(found.graphroot, os.F_OK):
            closed.append((each, "its graph root is not there yet, only an image store"))
        else:
            closed.append((each, "its files may not be read by this user"))
    for each in _containerd(node):
        if not _may(each.place, os.R_OK | os.W_OK):
            closed.append((each, "its socket may not be used by this user"))
            continue
        try:
            stores += await _namespaces(each, with_moby=bool(in_containerd))
        except Unsupported as error:  # the libraries for it are not installed
            closed.append((each, str(error)))
    if not any(each.extra == _MOBY for each in stores):
        why = "its images are in containerd, and no containerd with them answers (--store NAME=containerd:SOCKET#moby)"
        closed += [(each, why) for each in in_containerd]
    return Found(tuple(stores), tuple(closed))


def docker_sockets(node: Node) -> tuple[str, ...]:
    """Unix sockets at which a dockerd may answer, most likely first."""
    given = [node.environment.get("DOCKER_HOST", "")]
    for path in _daemon_files(node):
        given += _strings(_daemon_json(path).get("hosts"))
    sockets = [each.removeprefix("unix://") for each in given if each.startswith("unix://")]
    sockets += [str(node.at("/run/docker.sock")), str(node.run / "docker.sock")]
    return tuple(dict.fromkeys(sockets))


def _may(path: str | Path, mode: int) -> bool:
    """Whether this process may, with the capabilities that it has: a user other than root may have been given some."""
    return os.access(path, mode, effective_ids=True)


def _docker(node: Node) -> list[Location]:
    """A data-root for the daemon of the machine, and one for this user's own."""
    files = _daemon_files(node)
    roots = {"docker": _data_root(files[0], node.at("/var/lib/docker"))}
    if node.uid != 0:
        data = node.environment.get("XDG_DATA_HOME")
        roots["docker-rootless"] = _data_root(files[1], (Path(data) if data else node.home / ".local/share") / "docker")
    there: dict[str, Location] = {}
    for name, root in roots.items():
        if _has_docker(root):
            there.setdefault(os.path.realpath(root), Location(name, location.DOCKER, str(root)))
    return list(there.values())


def _daemon_files(node: Node) -> tuple[Path, Path]:
    """The configuration of the machine's dockerd, and of one that this user runs."""
    return node.at("/etc/docker/daemon.json"), node.home / ".config/docker/daemon.json"


def _data_root(file: Path, default: Path) -> Path:
    chosen = _daemon_json(file).get("data-root")
    return Path(chosen) if isinstance(chosen, str) and chosen.startswith("/") else default


def _has_docker(root: Path) -> bool:
    """A directory that a dockerd has worked in; one that may not be looked into may well be."""
    try:
        names = os.listdir(root)
    except PermissionError:
        return True
    except OSError:
        return False
    return "containers" in names or "image" in names or any(_is_remapped(name) for name in names)


def _is_remapped(name: str) -> bool:
    uid, dot, gid = name.partition(".")
    return bool(dot) and uid.isdigit() and gid.isdigit()


def _daemon_json(path: Path) -> dict[str, object]:
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read(_CONFIG))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _strings(value: object) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _containerd(node: Node) -> list[Location]:
    """The system's containerd, else the one that a dockerd started for itself."""
    given = node.environment.get("CONTAINERD_ADDRESS", "").removeprefix("unix://")
    for path in (given, node.at("/run/containerd/containerd.sock"), node.at("/run/docker/containerd/containerd.sock")):
        if path and _may_be_socket(path):
            return [Location(location.CONTAINERD, location.CONTAINERD, str(path))]
    return []


def _may_be_socket(path: str | Path) -> bool:
    """Whether a socket is there, or something is that this user may not look at."""
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except PermissionError:
        return True
    except OSError:
        return False


async def _namespaces(each: Location, *, with_moby: bool) -> list[Location]:
    from streamer.stores.containerd.store import namespaces

    try:
        found = await namespaces(each.place)
    except Unsupported:
        raise
    except StreamerError as error:
        # Served all the same, with the namespaces that nearly all have: unreachable until it answers.
        log.warning("containerd does not answer", code=error.code, error=str(error))
        found = [*_USUAL, _MOBY]
    named = []
    for namespace in found:
        if namespace == _MOBY:
            # With a graph driver, dockerd keeps only running processes there: nothing to export.
            if with_moby:
                named.append(Location("docker", each.kind, each.place, namespace))
        else:
            named.append(Location(f"containerd-{namespace}", each.kind, each.place, namespace))
    return named
