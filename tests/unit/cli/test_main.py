"""The command line's surface, in this process: parsing, help, what is refused before any store is opened."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from support import commandline
from typer.testing import CliRunner

from streamer import __version__
from streamer.cli import exit as exits
from streamer.cli import help, options
from streamer.cli.main import app

runner = CliRunner()

COMMANDS = (
    "ls",
    "sum",
    "changes",
    "export",
    "context",
    "build",
    "copy",
    "add",
    "prune",
    "import",
    "create",
    "mount",
    "unmount",
    "commit",
    "tag",
    "rm",
    "serve",
    "token",
    "config",
    "doctor",
)


def test_version() -> None:
    result = runner.invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"streamer {__version__}\n")


def test_help_names_every_command_and_every_exit_code() -> None:
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    assert all(f" {name} " in result.stdout for name in COMMANDS)
    assert all(f"{number}  {meaning}" in result.stdout for number, meaning in exits.MEANINGS)


@pytest.mark.parametrize("command", [each for each in COMMANDS if each not in ("token", "sum", "context")])
def test_every_command_takes_state_and_store(command: str) -> None:
    result = runner.invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "--state" in result.stdout
    assert "--store" in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_paragraphs_of_help_are_broken_by_the_terminal(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "2000")
    shown = runner.invoke(app, [command, "--help"]).stdout
    before = shown.partition("\u256d")[0].splitlines()  # the first box
    paragraphs = [line.strip() for line in before if line.strip()]
    assert all(line.endswith(".") for line in paragraphs[1:]), paragraphs


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_and_has_an_example(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = runner.invoke(app, [command, "--help"]).stdout
    assert f"\n streamer {command}" in shown.rpartition("Example")[2]
    assert all(f" {example}" in shown for example in help.EXAMPLES[command])
    assert not any(text in shown for text in ("<bool>", "<str>", "<list", "|xz", "|oci"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["export"], "Missing argument 'KIND'"),
        (["export", "nonsense", "x"], "Invalid value for 'KIND': 'nonsense' is not one of 'layer', 'diff'"),
        (["export", "layer"], "Missing argument 'REF' (see `streamer export --help`)"),
        (["export", "container", "a", "b"], "cannot export 2 things as one container"),
        (["export", "layer", "a", "--format", "docker-legacy"], "--format is for saved images only"),
        (["export", "layer", "a", "--format", "oci"], "--format is for saved images only"),
        (["export", "layer", "a", "--compression", "lz4"], "Invalid value for '--compression'"),
        (["export", "layer", "a", "--mtime", "-1"], "Invalid value for '--mtime'"),
        (["export", "layer", "a", "--mtime", "yesterday"], "'yesterday' is not a number of seconds (see"),
        (["export", "layer", "a", "--compresion", "x"], "No such option: --compresion. Did you mean '--compression'?"),
        (["unmount", "/mnt"], "unmount takes the container's name or ID, not the directory"),
        (["export", "layer", "a", "--path", "", "--state", "/nonexistent/streamer"], "--path is empty"),
        (["ls", "containers", "--all"], "--all is for images: of containers, all are listed"),
        (["ls", "nonsense"], "Invalid value for 'WHAT'"),
        (["ls", "--nonsense"], "No such option: --nonsense"),
        (["--state", "", "ls"], "--state is empty"),
        (["ls", "--store", "nonsense"], "'nonsense' is not NAME=KIND:LOCATION"),
        (["--store", "a=zfs:/x", "ls"], "'zfs' is not a kind of store"),
        (["serve", "--listen", ""], ""),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = runner.invoke(app, arguments, env={"STREAMER_STATE": str(tmp_path / "state")})
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("streamer: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


def test_choices_are_those_of_the_enumerations() -> None:
    from streamer.export.image import Format
    from streamer.export.plan import Kind
    from streamer.stores.base import ArchiveKind
    from streamer.tar.compression import Compression
    from streamer.tar.entry import Profile

    assert set(get_args(options.Kind)) == set(Kind) - {"changes", "context"}
    assert set(get_args(options.Compression)) == set(Compression)
    assert set(get_args(options.Profile)) == set(Profile)
    assert set(get_args(options.Format)) == set(Format)
    assert set(get_args(options.ImportFormat)) == set(ArchiveKind)


def test_help_loads_nothing_heavy() -> None:
    """What makes it slow, asserted by name and not by the clock."""
    code = "import sys, streamer.cli.main; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    heavy = {"aiohttp", "anyio", "pydantic", "rich", "structlog", "sqlite3", "isal", "streamer.service"}
    assert heavy & set(loaded.stdout.split()) == set()


def test_python_dash_m() -> None:
    result = commandline.run("--version")
    assert (result.returncode, result.stdout) == (0, f"streamer {__version__}\n".encode())


@pytest.mark.parametrize("arguments", [["--help"], ["export", "--help"], ["--version"]])
def test_a_reader_that_left(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = commandline.run(*arguments, stdout=writer)
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, b"")


@pytest.mark.parametrize("arguments", [["--help"], ["export", "--help"], ["build", "-h"], ["--version"], ["config"]])
def test_a_full_disk(arguments: list[str], tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        result = commandline.run("--state", tmp_path, *arguments, stdout=full)
    shown = b"streamer: cannot write standard output: No space left on device\n"
    assert (result.returncode, result.stderr) == (7, shown)
