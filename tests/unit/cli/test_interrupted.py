"""Ctrl-C before a command has begun: at every moment one line and exit code 130, and never a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.commandline import plain_signals

ROOT = Path(__file__).parents[3]

_INTERRUPTED = """
import signal, sys

moment = sys.argv.pop(1)

class Key:
    def find_spec(self, name, path=None, target=None):
        if name == moment:
            exec("signal.raise_signal(signal.SIGINT)")  # as in the making of a dataclass

sys.meta_path.insert(0, Key())
if moment == "tree":
    import typer.main
    typer.main.get_group = lambda *args: signal.raise_signal(signal.SIGINT)

from streamer.cli.entry import main
main()
print("never")
"""


@pytest.mark.parametrize(
    ("arguments", "moment"),
    [
        (["ls"], "streamer.cli.main"),
        (["ls"], "typer"),
        (["ls"], "streamer.cli.store"),
        (["ls"], "tree"),
        (["--help"], "rich"),
        (["ls"], "streamer.settings"),
        (["ls"], "anyio"),
        (["ls"], "streamer.service"),
        (["config"], "streamer.settings"),
        (["sum", "none.tar"], "streamer.tar.sum"),
        (["serve", "--listen", "unix:/nonexistent/sock"], "streamer.service"),
        (["serve", "--listen", "unix:/nonexistent/sock"], "aiohttp.web"),
        (["export", "layer", "x", "--from", "http://127.0.0.1:1"], "streamer.client.request"),
    ],
)
def test_while_starting(arguments: list[str], moment: str, tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text(_INTERRUPTED)
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "interrupted", moment, *arguments],
        env={"STREAMER_STATE": str(tmp_path), "STREAMER_DISCOVER": "0", "PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True,
        timeout=30,
        preexec_fn=plain_signals,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (130, b"", b"streamer: interrupted\n")
