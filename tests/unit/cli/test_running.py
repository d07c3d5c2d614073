from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from support import commandline

from streamer.cli.exit import Interrupted
from streamer.cli.running import _interruptible
from streamer.errors import NotFound


async def test_the_result() -> None:
    async def command() -> int:
        return 7

    assert await _interruptible(command) == 7


async def test_an_error_comes_out_of_every_group() -> None:
    async def command() -> None:
        async with anyio.create_task_group():
            raise NotFound("x")

    with pytest.raises(NotFound, match=r"^x$"):
        await _interruptible(command)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_cancels_and_the_blocks_are_left(number: signal.Signals) -> None:
    left = []

    async def command() -> None:
        try:
            signal.raise_signal(number)
            await anyio.sleep_forever()
        finally:
            left.append(True)

    with pytest.raises(Interrupted) as caught:
        await _interruptible(command)
    assert (caught.value.number, left) == (number, [True])


async def test_a_command_that_ends_all_the_same_has_its_result() -> None:
    async def command() -> str:
        signal.raise_signal(signal.SIGTERM)
        return "done"

    assert await _interruptible(command) == "done"


_HANGING = """
import anyio, sys
from streamer.cli.running import _interruptible, last_action

async def command():
    with last_action(lambda: print("cleaned", flush=True)), anyio.CancelScope(shield=True):
        print("hanging", flush=True)
        try:
            await anyio.sleep_forever()
        finally:
            print("never", flush=True)

anyio.run(_interruptible, command)
"""


def test_a_second_signal_kills_what_does_not_leave() -> None:
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", _HANGING], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"hanging\n"
        process.terminate()
        # The first is only noticed by its absence of effect: send until the process ends, as a person would.
        while process.poll() is None:
            process.terminate()
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
        assert process.stdout.read() == b"cleaned\n"
        assert process.returncode == -signal.SIGTERM


_IGNORING = """
import anyio, signal
from streamer.cli.running import _interruptible

signal.signal(signal.SIGHUP, signal.SIG_IGN)

async def command():
    signal.raise_signal(signal.SIGHUP)
    await anyio.sleep(0)
    return "done"

print(anyio.run(_interruptible, command))
"""


def test_an_ignored_signal_stays_ignored() -> None:
    root = Path(__file__).parents[3]
    result = subprocess.run([sys.executable, "-c", _IGNORING], cwd=root, capture_output=True, timeout=60, check=True)
    assert result.stdout == b"done\n"


@pytest.mark.parametrize(
    "command", [("sum", "{}/a"), ("export", "layer", "x", "--from", "http://127.0.0.1:1")], ids=["sum", "download"]
)
def test_a_command_without_a_store_still_minds_its_settings(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "bad.toml").write_text("nonsense = 1\n")
    arguments = [each.format(tmp_path) for each in command]
    done = commandline.run("--config", tmp_path / "bad.toml", *arguments)
    assert done.returncode == 2
    assert b"nonsense" in done.stderr
    with commandline.start(*arguments, environment={"STREAMER_MAX_EXPORT": "3"}) as process:
        _, shown = process.communicate(timeout=30)
    assert b"warning: STREAMER_MAX_EXPORT is not a setting and is ignored" in shown
