"""A slow way to a server: a TCP relay that lets so many bytes a second through, from the server to its clients."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from types import TracebackType

_PIECE = 64 << 10


class Relay:
    """Listens on `port` of loopback while the block is open; all connections share the rate."""

    def __init__(self, target: int, rate: int) -> None:
        self._target = target
        self._rate = rate
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.relayed = 0
        """Bytes that came from the server."""
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._accept, name="relay")

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        self._listener.settimeout(0.05)
        opened: list[threading.Thread] = []
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = self._listener.accept()
                opened.append(threading.Thread(target=self._connect, args=(client,), name="relay-connection"))
                opened[-1].start()
        for thread in opened:
            thread.join()

    def _connect(self, client: socket.socket) -> None:
        with (
            client,
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self._target)) as server,
            selectors.DefaultSelector() as ready,
        ):
            ready.register(client, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, client)
            while not self._ended.is_set():
                for key, _ in ready.select(0.05):
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    data = source.recv(_PIECE)
                    if not data:
                        return
                    if source is server:
                        self._pace(len(data))
                    key.data.sendall(data)

    def _pace(self, count: int) -> None:
        with self._lock:
            now = time.monotonic()
            self._began = max(self._began, now - 0.05) + count / self._rate
            self.relayed += count
            wait = self._began - now
        if wait > 0:
            self._ended.wait(wait)
