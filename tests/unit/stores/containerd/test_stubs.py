"""The API's Python is what its descriptions give, and nobody needs gRPC who has no containerd."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from streamer.errors import Unsupported
from streamer.stores.containerd import api
from streamer.stores.containerd.store import ContainerdStore, namespaces

API = Path(api.__file__).parent
ROOT = API.parents[3]


def test_making_the_stubs_again_changes_nothing(tmp_path: Path) -> None:
    sources = sorted(str(path.relative_to(ROOT)) for path in API.glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    subprocess.run([*command, *sources], cwd=ROOT, check=True)
    made = {path.name: path.read_bytes() for path in (tmp_path / API.relative_to(ROOT)).iterdir()}
    kept = {path.name: path.read_bytes() for path in API.glob("*_pb2.py*")}
    assert made == kept, f"run `make stubs` (grpcio-tools {metadata.version('grpcio-tools')})"


def test_grpc_is_not_imported_before_it_is_needed() -> None:
    program = "import sys, streamer.stores.containerd.store as s; print([m for m in sys.modules if 'grpc' in m])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"[]\n"


async def test_without_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    monkeypatch.delitem(sys.modules, "streamer.stores.containerd.client", raising=False)
    with pytest.raises(Unsupported, match=r"streamer\[containerd\]"):
        async with ContainerdStore.open("s", "/s", "n"):
            pass
    with pytest.raises(Unsupported, match=r"streamer\[containerd\]"):
        await namespaces("/s")
