"""A way to a server that lets through as many bytes as it is told to, from the server to its clients."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from types import TracebackType

_PIECE = 64 << 10


class Relay:
    """Listens on `port` of loopback while the block is open. Everything comes through until `closes_after`."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.relayed = 0
        """Bytes that came from the server."""
        self._turn = 0
        self._left: int | None = None
        """Bytes that may still come; None is no limit."""
        self._waiting = False
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._accept, name="relay")

    def closes_after(self, count: int | None) -> None:
        """From now on so many bytes come through, and no more; None is no limit. What waits now never comes."""
        with self._changed:
            self._turn += 1
            self._left, self._waiting = count, False
            self._changed.notify_all()

    def closed(self) -> None:
        """Back once the last of these bytes came through, and another one waits."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._waiting, 60), "fewer bytes came"

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self.closes_after(None)
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
        turn = self._turn
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
                    while data:
                        count = self._admitted(len(data), turn) if source is server else len(data)
                        if count == 0:
                            return
                        key.data.sendall(data[:count])
                        data = data[count:]

    def _admitted(self, count: int, turn: int) -> int:
        """How many of so many bytes may come through, as soon as any may; 0 if they never may."""
        with self._changed:
            while turn == self._turn and self._left == 0:
                self._waiting = True
                self._changed.notify_all()
                self._changed.wait()
            if turn != self._turn:
                return 0
            if self._left is not None:
                count = min(count, self._left)
                self._left -= count
            self.relayed += count
            return count
