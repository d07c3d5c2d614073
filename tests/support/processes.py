"""`streamer serve` as a process of its own."""

from __future__ import annotations

import glob
import json
import socket
import threading
import time
from pathlib import Path

from support.commandline import start


class Serving:
    """`streamer serve` as a process of its own, on a free port."""

    def __init__(self, state: Path, **environment: str) -> None:
        self.process = start("serve", "--state", state, "--listen", "127.0.0.1:0", environment=environment)
        assert self.process.stderr is not None
        self.log: list[str] = []
        for line in self.process.stderr:
            text = line.decode()
            self.log.append(text)
            if '"serving"' in text:
                self.port = int(json.loads(text)["addresses"][0].rpartition(":")[2])
                break
        else:
            self.process.stderr.close()
            self.process.wait()
            raise AssertionError("".join(self.log))
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line.decode())

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(60)
        self._reader.join(60)
        assert self.process.stderr is not None
        self.process.stderr.close()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def ends(self, timeout: float = 60) -> int:
        """Its status, once it ended; everything it said is in the log then."""
        status = self.process.wait(timeout)
        self._reader.join(timeout)
        return status

    def refuses(self) -> None:
        """Back once nothing new is accepted: it drains, or has ended."""
        end = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 60).close()
            except ConnectionError:
                return
            assert time.monotonic() < end, "connections are still accepted"
            time.sleep(0.02)


def mounts_of(state: Path) -> list[str]:
    """Lines of any process's mountinfo that mention the store."""
    lines = []
    for path in glob.glob("/proc/[0-9]*/mountinfo"):
        try:
            with open(path, encoding="utf-8", errors="replace") as info:
                lines += [line for line in info if str(state) in line]
        except (FileNotFoundError, ProcessLookupError, PermissionError, OSError):
            continue
    return lines
