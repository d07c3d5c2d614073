"""The methods of containerd's API that are called (https://github.com/containerd/containerd/tree/main/api)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from streamer.stores.containerd.api import (
    containers_pb2,
    content_pb2,
    images_pb2,
    introspection_pb2,
    leases_pb2,
    namespaces_pb2,
    snapshots_pb2,
    tasks_pb2,
)

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)


@dataclass(frozen=True, slots=True)
class Method(Generic[Q, A]):
    """One method: its path, what it answers, and whether the answer is a stream."""

    path: str
    question: type[Q]
    answer: type[A]
    streams: bool = False


_SERVICES = "/containerd.services"

LIST_NAMESPACES = Method(
    f"{_SERVICES}.namespaces.v1.Namespaces/List",
    namespaces_pb2.ListNamespacesRequest,
    namespaces_pb2.ListNamespacesResponse,
)
PLUGINS = Method(
    f"{_SERVICES}.introspection.v1.Introspection/Plugins",
    introspection_pb2.PluginsRequest,
    introspection_pb2.PluginsResponse,
)
LIST_IMAGES = Method(f"{_SERVICES}.images.v1.Images/List", images_pb2.ListImagesRequest, images_pb2.ListImagesResponse)
CONTENT_INFO = Method(f"{_SERVICES}.content.v1.Content/Info", content_pb2.InfoRequest, content_pb2.InfoResponse)
LIST_CONTENT = Method(
    f"{_SERVICES}.content.v1.Content/List",
    content_pb2.ListContentRequest,
    content_pb2.ListContentResponse,
    streams=True,
)
READ_CONTENT = Method(
    f"{_SERVICES}.content.v1.Content/Read",
    content_pb2.ReadContentRequest,
    content_pb2.ReadContentResponse,
    streams=True,
)
LIST_SNAPSHOTS = Method(
    f"{_SERVICES}.snapshots.v1.Snapshots/List",
    snapshots_pb2.ListSnapshotsRequest,
    snapshots_pb2.ListSnapshotsResponse,
    streams=True,
)
STAT_SNAPSHOT = Method(
    f"{_SERVICES}.snapshots.v1.Snapshots/Stat",
    snapshots_pb2.StatSnapshotRequest,
    snapshots_pb2.StatSnapshotResponse,
)
VIEW_SNAPSHOT = Method(
    f"{_SERVICES}.snapshots.v1.Snapshots/View",
    snapshots_pb2.ViewSnapshotRequest,
    snapshots_pb2.ViewSnapshotResponse,
)
SNAPSHOT_MOUNTS = Method(
    f"{_SERVICES}.snapshots.v1.Snapshots/Mounts", snapshots_pb2.MountsRequest, snapshots_pb2.MountsResponse
)
REMOVE_SNAPSHOT = Method(f"{_SERVICES}.snapshots.v1.Snapshots/Remove", snapshots_pb2.RemoveSnapshotRequest, Empty)
LIST_CONTAINERS = Method(
    f"{_SERVICES}.containers.v1.Containers/List",
    containers_pb2.ListContainersRequest,
    containers_pb2.ListContainersResponse,
)
CONTAINER = Method(
    f"{_SERVICES}.containers.v1.Containers/Get",
    containers_pb2.GetContainerRequest,
    containers_pb2.GetContainerResponse,
)
LIST_TASKS = Method(f"{_SERVICES}.tasks.v1.Tasks/List", tasks_pb2.ListTasksRequest, tasks_pb2.ListTasksResponse)
TASK = Method(f"{_SERVICES}.tasks.v1.Tasks/Get", tasks_pb2.GetRequest, tasks_pb2.GetResponse)
PAUSE_TASK = Method(f"{_SERVICES}.tasks.v1.Tasks/Pause", tasks_pb2.PauseTaskRequest, Empty)
RESUME_TASK = Method(f"{_SERVICES}.tasks.v1.Tasks/Resume", tasks_pb2.ResumeTaskRequest, Empty)
CREATE_LEASE = Method(f"{_SERVICES}.leases.v1.Leases/Create", leases_pb2.CreateRequest, leases_pb2.CreateResponse)
DELETE_LEASE = Method(f"{_SERVICES}.leases.v1.Leases/Delete", leases_pb2.DeleteRequest, Empty)
ADD_RESOURCE = Method(f"{_SERVICES}.leases.v1.Leases/AddResource", leases_pb2.AddResourceRequest, Empty)
