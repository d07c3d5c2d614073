"""Downloads that are killed again and again, and go on each time: the file is the archive, byte for byte."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commandline import run, start
from support.processes import Serving
from support.relay import Relay

pytestmark = [pytest.mark.root, pytest.mark.slow]

TARGET = "/v1/containers/box/archive"
KILLS = 20
MOST = 1_800_000
"""Bytes that come before a kill; so often that many are less than there is."""


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server with a container of 2,000 small files and three large ones, 40 MiB in all."""
    root = tmp_path_factory.mktemp("resume")
    pick = random.Random(4)
    for folder in range(40):
        place = root / "tree" / f"d{folder}"
        place.mkdir(parents=True)
        for number in range(50):
            (place / f"f{number}").write_bytes(pick.randbytes(pick.randrange(9000)))
    for name, size in (("d10/large", 9 << 20), ("d20/large", 700_001), ("d30/large", 20 << 20)):
        (root / "tree" / name).write_bytes(pick.randbytes(size))
    subprocess.run(["tar", "-C", str(root / "tree"), "-cf", str(root / "rootfs.tar"), "."], check=True)
    for command in (("import", root / "rootfs.tar", "--name", "big:1"), ("create", "big:1", "--name", "box")):
        result = run(*command, "--state", root / "state")
        assert result.returncode == 0, result.stderr
    with Serving(root / "state") as opened:
        yield opened


@pytest.fixture(scope="module")
def digest(serving: Serving) -> str:
    done = subprocess.run(
        ["curl", "-sSf", f"http://127.0.0.1:{serving.port}{TARGET}"], capture_output=True, check=True, timeout=120
    )
    return hashlib.sha256(done.stdout).hexdigest()


@pytest.mark.parametrize("jobs", [1, 4])
def test_a_download_killed_and_resumed(serving: Serving, digest: str, tmp_path: Path, jobs: int) -> None:
    pick = random.Random(jobs)
    file = tmp_path / "box.tar"
    with Relay(serving.port) as relay:
        command = ("export", "container", "box", "--from", f"http://127.0.0.1:{relay.port}")
        command = (*command, "-o", str(file), "--jobs", str(jobs))
        for _ in range(KILLS):
            relay.closes_after(pick.randrange(MOST))
            with start(*command) as process:
                relay.closed()
                # What came in the last second before a SIGKILL may come again; a signal that is heard loses nothing.
                process.send_signal(pick.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
                assert process.wait(60) != 0
            assert not file.exists()
        relay.closes_after(None)
        # The rest comes without anything in its way.
        result = run(*command)
        assert result.returncode == 0, result.stderr
        size = file.stat().st_size
        assert relay.relayed < 3 * size, "every try began at the beginning"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == digest
    assert os.listdir(tmp_path) == ["box.tar"]


def test_curl_goes_on_where_it_was_killed(serving: Serving, digest: str, tmp_path: Path) -> None:
    pick = random.Random(7)
    file = tmp_path / "box.tar"
    with Relay(serving.port) as relay:
        command = ["curl", "-sSf", "-C", "-", "-o", str(file), f"http://127.0.0.1:{relay.port}{TARGET}"]
        for _ in range(KILLS):
            relay.closes_after(pick.randrange(MOST))
            with subprocess.Popen(command) as process:
                relay.closed()
                process.kill()
        relay.closes_after(None)
        assert file.stat().st_size > 0
        subprocess.run(command, check=True, timeout=120)
        assert relay.relayed < 2 * file.stat().st_size
    assert hashlib.sha256(file.read_bytes()).hexdigest() == digest
