"""Files and directories that are named by an option or by the environment: what is wrong with one is said alike."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from support import confined
from support.commandline import run, start

from streamer.cli.main import app


def test_typer_leaves_it_to_whoever_opens_them() -> None:
    root = typer.main.get_command(app)
    commands = [root, *root.commands.values()]  # type: ignore[attr-defined]
    described = [(each.name, one.opts[0], one.type_descriptor) for each in commands for one in each.params]
    paths = [(name, option, it.parameter_info) for name, option, it in described if it.annotation is Path]
    assert {option for _, option, _ in paths} >= {"--state", "--config", "--tokens", "--token-file", "--ca"}
    assert [(name, option) for name, option, it in paths if it.readable or it.exists] == []


@pytest.fixture
def closed() -> Iterator[Path]:
    """A directory that is its owner's alone, in one that is everybody's."""
    place = Path(tempfile.mkdtemp(prefix="closed-"))  # pytest's own directories are root's alone
    try:
        place.chmod(0o755)
        (place / "dir").mkdir(0o700)
        (place / "file").touch(0o600)
        yield place
    finally:
        shutil.rmtree(place)


DOWNLOAD = ("export", "layer", "x", "-o", "/dev/null", "--from", "https://127.0.0.1:1")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (("ls", "--state", "{}/dir"), {}, "cannot look for a store at {}/dir: Permission denied"),
        (("ls",), {"STREAMER_STATE": "{}/dir"}, "cannot look for a store at {}/dir: Permission denied"),
        (("config", "--config", "{}/file"), {}, "cannot read settings from {}/file: Permission denied"),
        (("config",), {"STREAMER_CONFIG": "{}/file"}, "cannot read settings from {}/file: Permission denied"),
        (("serve", "--tokens", "{}/file"), {}, "cannot read tokens from {}/file: Permission denied"),
        (("serve",), {"STREAMER_TOKENS": "{}/file"}, "cannot read tokens from {}/file: Permission denied"),
        ((*DOWNLOAD, "--token-file", "{}/file"), {}, "cannot read a token from {}/file: Permission denied"),
        (DOWNLOAD, {"STREAMER_TOKEN_FILE": "{}/file"}, "cannot read a token from {}/file: Permission denied"),
        ((*DOWNLOAD, "--ca", "{}/file"), {}, "cannot read authorities to trust from {}/file: Permission denied"),
    ],
)
def test_not_permitted(closed: Path, arguments: tuple[str, ...], environment: dict[str, str], message: str) -> None:
    state = {"STREAMER_STATE": f"{closed}/own"}
    given = {name: value.format(closed) for name, value in {**state, **environment}.items()}
    command = confined.streamer(*(each.format(closed) for each in arguments))
    done = confined.run(command, user=confined.USER, **given)
    shown = [line for line in done.stderr.decode().splitlines() if line.startswith("streamer: ")]
    assert (done.returncode, shown) == (8, [f"streamer: {message.format(closed)}"])


@pytest.mark.parametrize("arguments", [("ls",), ("import", "{}/a.tar"), ("ls", "--store", "x=local:{}/file")])
def test_a_store_that_is_a_file(tmp_path: Path, archive: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "a.tar").symlink_to(archive)
    done = run("--state", tmp_path / "file", *(each.format(tmp_path) for each in arguments))
    message = f"streamer: there can be no store at {tmp_path}/file: it is no directory\n"
    assert (done.returncode, done.stderr.decode()) == (2, message)


@pytest.mark.parametrize("arguments", [("--config", "{}"), ()])
def test_settings_that_are_a_directory(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    named = {"environment": {"STREAMER_CONFIG": str(tmp_path)}} if not arguments else {}
    with start("config", *(each.format(tmp_path) for each in arguments), **named) as process:
        _, shown = process.communicate(timeout=30)
    message = f"streamer: cannot read settings from {tmp_path}: Is a directory\n"
    assert (process.returncode, shown.decode()) == (2, message)
