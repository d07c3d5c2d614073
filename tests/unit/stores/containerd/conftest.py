"""A server that speaks containerd's protocol and does what a test tells it: faults that no real one has to order."""

from __future__ import annotations

import itertools
import secrets
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from streamer.stores.containerd.client import Client
from streamer.stores.containerd.methods import Method

Answer = Callable[[Any], Any]


class Refused(Exception):
    """What an answer raises to be an error of the protocol."""

    def __init__(self, code: grpc.StatusCode, told: str = "") -> None:
        super().__init__(told)
        self.code, self.told = code, told


class Engine(grpc.GenericRpcHandler):
    """`on(method, answer)` says what a method answers: a message, a list of them for a stream, or `Refused` raised."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.asked: list[tuple[str, Any, dict[str, str]]] = []
        self._clients: list[Client] = []
        self._answers: dict[str, tuple[Method[Any, Any], Answer]] = {}

    def on(self, method: Method[Any, Any], answer: Answer | Message | list[Any] | Exception) -> None:
        self._answers[method.path] = method, answer if callable(answer) else lambda _: answer

    def questions(self, method: Method[Any, Any]) -> list[Any]:
        return [question for path, question, _ in self.asked if path == method.path]

    def order(self) -> list[str]:
        return [path.rpartition("/")[2] for path, _, _ in self.asked]

    def client(self, deadline: float = 60, namespace: str = "tests") -> Client:
        self._clients.append(Client(str(self.socket), namespace, "the containerd of store s", deadline))
        return self._clients[-1]

    def close(self) -> None:
        for each in self._clients:
            each.close()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        if details.method not in self._answers:
            return None
        method, answer = self._answers[details.method]
        metadata = {key: str(value) for key, value in details.invocation_metadata}

        def answered(question: Any, context: grpc.ServicerContext) -> Any:
            self.asked.append((details.method, question, metadata))
            try:
                found = answer(question)
                if isinstance(found, Exception):
                    raise found
            except Refused as refusal:
                context.abort(refusal.code, refusal.told)
            return iter(found) if method.streams else found

        make = grpc.unary_stream_rpc_method_handler if method.streams else grpc.unary_unary_rpc_method_handler
        return make(answered, method.question.FromString, method.answer.SerializeToString)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with tempfile.TemporaryDirectory(prefix="ctr-") as folder:
        made = Engine(Path(folder) / "s")
        server = grpc.server(ThreadPoolExecutor(4), handlers=(made,))
        server.add_insecure_port(f"unix://{made.socket}")
        server.start()
        yield made
        made.close()
        server.stop(0).wait()


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that would be random are 0, 1, 2 … in the order in which they are made."""
    numbers = itertools.count()
    monkeypatch.setattr(secrets, "token_hex", lambda _: str(next(numbers)))


def refused(code: str, told: str = "") -> Refused:
    return Refused(grpc.StatusCode[code], told)


@pytest.fixture
def refusal() -> Callable[..., Refused]:
    return refused


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="ctr-") as folder:
        yield Path(folder)
