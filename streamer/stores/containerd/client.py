"""One containerd over its socket: every call has a deadline, every failure is one of streamer's own errors.

Calls are synchronous and may come from any thread: an export's thread releases what it holds whatever became of the
event loop and of the request that began it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import grpc
from grpc.experimental import ChannelOptions

from streamer.errors import (
    Conflict,
    EngineUnreachable,
    LimitExceeded,
    NotFound,
    NotPermitted,
    SourceFailed,
    StreamerError,
)
from streamer.stores.containerd.methods import A, Method, Q

PATIENT = 60.0
"""Seconds for what may take the engine work: collecting garbage, preparing a snapshot, freezing processes."""

MAX_ANSWER = 64 << 20
"""Bytes of one message; containerd itself sends 16 MiB at most."""

_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_ANSWER),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.default_authority", "localhost"),
    # A connection of its own: not one shared with another store, whose attempts to connect may be backing off.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # No further thread for an answer that is a stream.
    (ChannelOptions.SingleThreadedUnaryStream, 1),
]

_ERRORS: dict[grpc.StatusCode, type[StreamerError]] = {
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: Conflict,
    grpc.StatusCode.FAILED_PRECONDITION: Conflict,
    grpc.StatusCode.ABORTED: Conflict,
    grpc.StatusCode.PERMISSION_DENIED: NotPermitted,
    grpc.StatusCode.UNAUTHENTICATED: NotPermitted,
    grpc.StatusCode.RESOURCE_EXHAUSTED: LimitExceeded,
    grpc.StatusCode.INVALID_ARGUMENT: SourceFailed,
    grpc.StatusCode.OUT_OF_RANGE: SourceFailed,
    grpc.StatusCode.UNKNOWN: SourceFailed,
    grpc.StatusCode.INTERNAL: SourceFailed,
    grpc.StatusCode.DATA_LOSS: SourceFailed,
}
"""Every other code means that nobody answers, or that it is no containerd who does."""


class Client:
    """Calls within one namespace (empty: none, for what belongs to no namespace). Nothing is connected before the first
    call; a containerd that was restarted is found again. `who` names it in messages: `the containerd of store k8s`;
    an answer may take `deadline` seconds."""

    def __init__(self, socket: str, namespace: str, who: str, deadline: float) -> None:
        self.who = who
        self._socket = os.path.abspath(socket)
        self._namespace = namespace
        self._deadline = deadline
        self._channel = grpc.insecure_channel(f"unix://{quote(self._socket)}", options=_OPTIONS)

    def __repr__(self) -> str:
        return f"<containerd at {self._socket}, namespace {self._namespace!r}>"

    def close(self) -> None:
        """Breaks off the calls that are under way; later ones raise EngineUnreachable."""
        self._channel.close()

    def call(self, method: Method[Q, A], question: Q, *, lease: str = "", patient: bool = False) -> A:
        """The answer; what is created belongs to `lease`.

        NotFound, Conflict (it exists already, or is in use), NotPermitted, LimitExceeded or SourceFailed as containerd
        has it; EngineUnreachable where none answers within the deadline.
        """
        with self._failures(method):
            stub = self._channel.unary_unary(method.path, method.question.SerializeToString, method.answer.FromString)
            return stub(question, **self._given(lease, patient))

    def stream(self, method: Method[Q, A], question: Q) -> list[A]:
        """Every message of an answer that is a stream; errors as with `call`."""
        with self._failures(method):
            stub = self._channel.unary_stream(method.path, method.question.SerializeToString, method.answer.FromString)
            return list(stub(question, **self._given("", False)))

    def _given(self, lease: str, patient: bool) -> dict[str, Any]:
        metadata = [("containerd-namespace", self._namespace)] if self._namespace else []
        if lease:
            metadata.append(("containerd-lease", lease))
        return {"timeout": max(self._deadline, PATIENT if patient else 0), "metadata": tuple(metadata)}

    @contextmanager
    def _failures(self, method: Method[Any, Any]) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise self._failure(method, error) from error
        except ValueError as error:  # grpc's word for a channel that was closed
            raise EngineUnreachable(f"{self.who} is no longer asked: its store was closed") from error

    def _failure(self, method: Method[Any, Any], error: grpc.RpcError) -> StreamerError:
        code, told = _status(error)
        kind = _ERRORS.get(code, EngineUnreachable)
        name = ".".join(method.path.split(".")[-1:]).replace("/", ".")
        if kind is not EngineUnreachable:
            reason = code.name.lower().replace("_", " ")
            failure: StreamerError = kind(f"{self.who} answered {name} with an error ({reason})")
        elif "ermission denied" in told:
            failure = NotPermitted(f"{self.who} may not be asked: its socket is not for this user")
        elif code is grpc.StatusCode.UNIMPLEMENTED:
            failure = EngineUnreachable(f"{self.who} does not know {name}: something else answers at its socket")
        elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
            failure = EngineUnreachable(f"{self.who} did not answer {name} in time: see whether it still works")
        else:
            failure = EngineUnreachable(f"{self.who} does not answer: see whether it runs, and at this socket")
        # Its own words may hold paths of the host, which are not for everybody.
        failure.add_note(f"{self!r}: {code.name}: {told[:500]}")
        return failure


def _status(error: Any) -> tuple[grpc.StatusCode, str]:
    """What was raised by a call is a `grpc.Call` too, whatever the types say."""
    return error.code(), error.details() or ""
