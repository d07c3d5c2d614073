"""Containers that real engines run, paused while they are exported: never torn, and running again afterwards."""

from __future__ import annotations

import io
import os
import signal
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from support.clients import Client
from support.commandline import run
from support.counting import KINDS, Box, counting, podman_program
from support.engines import Engines
from support.exports import body
from support.processes import Serving
from support.serving import served

from streamer.errors import PauseExpired, SourceChanged, StreamerError
from streamer.export.container import plan_container
from streamer.export.diff import plan_diff
from streamer.export.exporter import ExportStream, exporter
from streamer.export.plan import Options
from streamer.stores.base import Container, Listing

pytestmark = [pytest.mark.engine, pytest.mark.root]

PAUSE = Options(pause=True)


@pytest.fixture(params=KINDS)
def box(request: pytest.FixtureRequest, engines: Engines, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    monkeypatch.setenv("PATH", f"{podman_program(engines)}:{os.environ['PATH']}")
    with counting(request.param, request) as made:
        yield made


def _torn(archive: bytes) -> bool:
    """Whether the logs are not of one moment: then both end with the same number, or the second lacks the last."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        first, second = (members.extractfile(name) for name in ("a-log", "z-log"))
        assert first is not None
        assert second is not None
        return int(first.read().split()[-1]) - int(second.read().split()[-1]) not in (0, 1)


async def _slowly(box: Box, stream: ExportStream, *, counts: bool) -> bytes:
    """All of it, but not before the container has counted on, if it does."""
    chunks = [await stream.__anext__()]
    assert await anyio.to_thread.run_sync(box.runs if counts else box.stands)
    return b"".join(chunks + [chunk async for chunk in stream])


async def test_unpaused_an_archive_is_torn(box: Box) -> None:
    """Or the other tests would show nothing."""
    async with exporter() as exports, exports.open(plan_container(box.record, Options())) as stream:
        assert _torn(await _slowly(box, stream, counts=True))


async def test_paused_it_never_is_and_the_container_runs_again(box: Box) -> None:
    async with exporter() as exports:
        for _ in range(3):
            async with exports.open(plan_container(box.record, PAUSE)) as stream:
                assert not _torn(await _slowly(box, stream, counts=False))
            assert box.runs()
            assert box.status() == "running"
        async with exports.open(plan_diff(box.record, PAUSE)) as stream:
            assert not _torn(await _slowly(box, stream, counts=False))
    assert box.runs()


async def test_paused_by_its_user_it_stays_paused(box: Box) -> None:
    box.tell("pause")
    assert not _torn(await body(plan_container(box.record, PAUSE)))
    assert box.stands()


async def test_what_does_not_run_needs_no_pause(box: Box) -> None:
    box.kill()
    assert not _torn(await body(plan_container(box.record, PAUSE)))
    assert box.status() == "exited"


async def test_started_again_meanwhile_is_no_good(box: Box) -> None:
    box.kill()
    async with exporter() as exports:
        with pytest.raises(SourceChanged):
            async with exports.open(plan_container(box.record, PAUSE)) as stream:
                await stream.__anext__()
                box.tell("start")
                box.kill()
                await _rest(stream)


async def test_resumed_by_its_user_meanwhile_is_no_good(box: Box) -> None:
    async with exporter() as exports:
        with pytest.raises(SourceChanged, match="resumed or ended by somebody else"):
            async with exports.open(plan_container(box.record, PAUSE)) as stream:
                await stream.__anext__()
                box.tell("unpause")
                await _rest(stream)
    assert box.runs()


async def test_resumed_and_paused_by_its_user_meanwhile_is_no_good(box: Box) -> None:
    async with exporter() as exports:
        with pytest.raises(SourceChanged, match="resumed or ended by somebody else"):
            async with exports.open(plan_container(box.record, PAUSE)) as stream:
                await stream.__anext__()
                box.tell("unpause")
                box.tell("pause")
                await _rest(stream)
    assert box.stands()


async def test_two_exports_share_a_pause(box: Box) -> None:
    plan = plan_container(box.record, PAUSE)
    async with exporter() as exports, exports.open(plan) as one, exports.open(plan) as two:
        assert not _torn(await _slowly(box, one, counts=False))
        assert box.stands()
        assert not _torn(await _slowly(box, two, counts=False))
    assert box.runs()


async def test_at_the_limit_it_runs_again(box: Box) -> None:
    async with exporter(pause_limit=0.3) as exports:
        with pytest.raises(PauseExpired):
            async with exports.open(plan_container(box.record, PAUSE)) as stream:
                await stream.__anext__()
                assert await anyio.to_thread.run_sync(box.runs)
                await _rest(stream)
    assert box.status() == "running"


async def test_a_client_that_goes_leaves_it_running(box: Box) -> None:
    class Store:
        name, location = "real", "real:/"

        async def container(self, reference: str) -> Container:
            return box.record

        async def containers(self) -> Listing[Container]:
            return Listing((box.record,))

    def leaves(port: int) -> None:
        with Client(port, receive_buffer=4096) as client:
            client.request("/v1/containers/box/archive?pause=true")
            assert client.head().status == 200
            assert client.read(4096)
            assert box.stands()
            client.reset()

    async with served(Store()) as site:  # type: ignore[arg-type]
        await anyio.to_thread.run_sync(leaves, site.port)
        assert await anyio.to_thread.run_sync(box.runs)
        assert box.status() == "running"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 1)])
def test_a_server_that_ends_in_mid_stream(box: Box, tmp_path: Path, number: signal.Signals, status: int) -> None:
    settings = {"STREAMER_STORES": box.store, "STREAMER_DRAIN_TIMEOUT": "0.1", "PATH": os.environ["PATH"]}
    with Serving(tmp_path / "state", **settings) as server, Client(server.port, receive_buffer=4096) as client:
        client.request(f"/v1/containers/{box.id}/archive?pause=true")
        head = client.head()
        assert head.status == 200, (head, client.read(1000))
        assert client.read(4096)
        assert box.stands()
        server.process.send_signal(number)
        assert server.ends() == status
        assert not client.ends_cleanly()
        assert box.runs()
        deadline = time.monotonic() + 60
        while box.status() != "running":
            assert time.monotonic() < deadline
        if number == signal.SIGTERM:
            assert any("container resumed" in line for line in server.log)


@pytest.mark.parametrize("kind", ["container", "diff"])
def test_from_the_command_line(box: Box, tmp_path: Path, kind: str) -> None:
    done = run("export", kind, box.id, "--pause", "-o", tmp_path / "archive", "--store", box.store)
    assert done.returncode == 0, done.stderr
    assert not _torn((tmp_path / "archive").read_bytes())
    assert box.runs()


async def test_an_export_ends_while_the_container_is_removed(box: Box) -> None:
    """Either whole or broken, and nothing waits for anything."""
    async with exporter() as exports:
        with pytest.raises(StreamerError) as caught:
            async with exports.open(plan_container(box.record, PAUSE)) as stream:
                await stream.__anext__()
                box.tell("unpause")
                box.remove()
                await _rest(stream)
    assert caught.value.code in ("source_changed", "source_failed")


async def _rest(stream: ExportStream) -> bytes:
    return b"".join([chunk async for chunk in stream])
