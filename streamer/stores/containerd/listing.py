"""What one containerd holds in one namespace, as its services list it: one reading, before anything is made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streamer.errors import StreamerError
from streamer.stores.containerd.api.containers_pb2 import Container, ListContainersRequest
from streamer.stores.containerd.api.content_pb2 import ListContentRequest
from streamer.stores.containerd.api.images_pb2 import Image, ListImagesRequest
from streamer.stores.containerd.api.introspection_pb2 import PluginsRequest
from streamer.stores.containerd.api.namespaces_pb2 import ListNamespacesRequest
from streamer.stores.containerd.api.snapshots_pb2 import COMMITTED, Info, ListSnapshotsRequest
from streamer.stores.containerd.api.task_pb2 import Status
from streamer.stores.containerd.api.tasks_pb2 import ListTasksRequest
from streamer.stores.containerd.client import Client
from streamer.stores.containerd.methods import (
    LIST_CONTAINERS,
    LIST_CONTENT,
    LIST_IMAGES,
    LIST_NAMESPACES,
    LIST_SNAPSHOTS,
    LIST_TASKS,
    PLUGINS,
)

_CONTENT = "io.containerd.content.v1"
_SNAPSHOTTER = "io.containerd.snapshotter.v1"
_PREFERRED = ("overlayfs", "native")
"""Snapshotters in whose snapshots a layer is looked for first: they can be read for sure."""


@dataclass(frozen=True, slots=True)
class Plugins:
    """What containerd is made of: the content store's directory, and its snapshotters in the order to be asked."""

    content_root: str | None
    snapshotters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """`blobs` are sizes by digest; `snapshots` are those of layers and of what stands on them, by key, for each
    snapshotter in `Plugins`' order; `statuses` are those of containers that have a task, in small letters."""

    images: Sequence[Image]
    blobs: Mapping[str, int]
    snapshots: Mapping[str, Mapping[str, Info]]
    containers: Sequence[Container]
    statuses: Mapping[str, str]

    def unpacked(self, chain_id: str) -> str | None:
        """The snapshotter that has the layers up to `chain_id` unpacked; the first of several."""
        for snapshotter, known in self.snapshots.items():
            if chain_id in known and known[chain_id].kind == COMMITTED:
                return snapshotter
        return None


def namespaces(client: Client) -> list[str]:
    """Every namespace, sorted."""
    return sorted(each.name for each in client.call(LIST_NAMESPACES, ListNamespacesRequest()).namespaces)


def plugins(client: Client) -> Plugins:
    root = None
    snapshotters = []
    for plugin in client.call(PLUGINS, PluginsRequest()).plugins:
        if plugin.type == _CONTENT:
            root = plugin.exports.get("root") or root
        elif plugin.type == _SNAPSHOTTER:
            snapshotters.append(plugin.id)
    return Plugins(root, tuple(sorted(snapshotters, key=lambda name: (_rank(name), name))))


def images(client: Client) -> Sequence[Image]:
    return client.call(LIST_IMAGES, ListImagesRequest()).images


def listing(client: Client, snapshotters: Sequence[str]) -> Listing:
    # Names before what they mean: what is new meanwhile is not taken for missing.
    containers = client.call(LIST_CONTAINERS, ListContainersRequest()).containers
    tasks = client.call(LIST_TASKS, ListTasksRequest()).tasks
    named = images(client)
    return Listing(
        images=named,
        blobs={
            info.digest: info.size for part in client.stream(LIST_CONTENT, ListContentRequest()) for info in part.info
        },
        snapshots={name: _snapshots(client, name) for name in snapshotters},
        containers=containers,
        statuses={task.container_id or task.id: Status.Name(task.status).lower() for task in tasks},
    )


def _snapshots(client: Client, snapshotter: str) -> dict[str, Info]:
    """None of a snapshotter that is listed but cannot be used: it failed to start, or its own daemon is away."""
    try:
        parts = client.stream(LIST_SNAPSHOTS, ListSnapshotsRequest(snapshotter=snapshotter))
    except StreamerError:
        return {}
    return {info.name: info for part in parts for info in part.info}


def _rank(snapshotter: str) -> int:
    return _PREFERRED.index(snapshotter) if snapshotter in _PREFERRED else len(_PREFERRED)
