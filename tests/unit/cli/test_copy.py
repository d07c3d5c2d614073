"""`streamer copy` and `streamer add` as people and scripts run them."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from backports import zstd
from support import commandline, confined, images
from support.images import directory, file, layer
from typer.testing import CliRunner, Result

from streamer.cli.main import app
from streamer.database import Database
from streamer.stores.local.schema import MIGRATIONS

BASE = images.image(
    layer(directory("etc/"), file("etc/passwd", b"root:x:0:0::/:\nweb:x:7:8::/:\n"), file("etc/group", b"web:x:9:\n")),
    names=["base:1"],
    config={"WorkingDir": "/w", "OnBuild": ["RUN it"]},
)
INNER = layer(directory("in/"), file("in/file", b"inside", mode=0o640, uid=3))


@pytest.fixture
def context(tmp_path: Path) -> Path:
    place = tmp_path / "context"
    (place / "dir").mkdir(parents=True)
    for name, text in {
        "one": "one",
        "two": "22",
        "dir/a": "a" * 5000,
        "ignored": "x",
        ".dockerignore": "ignored",
    }.items():
        (place / name).write_text(text)
        (place / name).chmod(0o644)
    (place / "inner.tar.zst").write_bytes(zstd.compress(INNER))
    (tmp_path / "base.tar").write_bytes(images.pack(images.docker(BASE)))
    assert called("import", tmp_path / "base.tar", "--state", tmp_path / "state").exit_code == 0
    return place


def called(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def run(tmp_path: Path, *arguments: object) -> Result:
    return called(*arguments, "--context", tmp_path / "context", "--state", tmp_path / "state")


def listed(tmp_path: Path, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(called("ls", "--json", *arguments, "--state", tmp_path / "state").stdout)
    return found


def members(tmp_path: Path, image: str) -> dict[str, tarfile.TarInfo]:
    place = tmp_path / "rootfs.tar"
    saved = called("export", "rootfs", image, "-o", place, "--state", tmp_path / "state")
    assert saved.exit_code == 0, saved.stderr
    with tarfile.open(place) as archive:
        return {member.name: member for member in archive}


def test_a_copy(tmp_path: Path, context: Path) -> None:
    options = ("--chown", "web", "--chmod", "600", "-t", "a:1", "-t", "b")
    done = run(tmp_path, "copy", "base:1", "one", "two", "sub/", *options)
    assert (done.exit_code, done.stderr) == (0, "")
    found = members(tmp_path, "a:1")
    assert {"w/sub/one", "w/sub/two"} < found.keys()
    assert (found["w/sub/one"].mode, found["w/sub/one"].uid, found["w/sub/one"].gid) == (0o600, 7, 9)
    (made,) = [each for each in listed(tmp_path) if each["id"] == done.stdout.strip()]
    assert made["names"] == ["a:1", "b:latest"]


def test_what_is_said_in_json(tmp_path: Path, context: Path) -> None:
    first = json.loads(run(tmp_path, "copy", "base:1", "one", "/x", "--json", "-t", "a").stdout)
    again = json.loads(run(tmp_path, "copy", "base:1", "one", "/x", "--json").stdout)
    assert first["created_by"].startswith("/bin/sh -c #(nop) COPY file:")
    assert first["created_by"].endswith(" in /x ")
    assert first["image"]["names"] == ["a:latest"]
    assert first == {**again, "cached": False}
    assert again["cached"] is True
    other = json.loads(run(tmp_path, "copy", "base:1", "one", "/x", "--json", "--no-cache").stdout)
    assert other["cached"] is False and other["image"]["id"] != first["image"]["id"]


def test_archives_are_unpacked_by_add_only(tmp_path: Path, context: Path) -> None:
    assert run(tmp_path, "add", "base:1", "inner.tar.zst", "/new", "-t", "a").exit_code == 0
    found = members(tmp_path, "a")
    assert (found["new/in/file"].mode, found["new/in/file"].uid) == (0o640, 3)
    assert run(tmp_path, "copy", "base:1", "inner.tar.zst", "/new", "-t", "b").exit_code == 0
    assert members(tmp_path, "b")["new"].isreg()


def test_onto_nothing(tmp_path: Path, context: Path) -> None:
    assert run(tmp_path, "copy", "scratch", ".", "/", "-t", "a").exit_code == 0
    assert members(tmp_path, "a").keys() == {".dockerignore", "dir", "dir/a", "inner.tar.zst", "one", "two"}


def test_triggers_stay(tmp_path: Path, context: Path) -> None:
    assert run(tmp_path, "copy", "base:1", "one", "/", "-t", "a").exit_code == 0
    assert called("export", "image", "a", "-o", tmp_path / "a.tar", "--state", tmp_path / "state").exit_code == 0
    with tarfile.open(tmp_path / "a.tar") as archive:
        (manifest,) = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        config = json.load(archive.extractfile(manifest["Config"]))["config"]  # type: ignore[arg-type]
    assert (config["OnBuild"], config["WorkingDir"], config["Image"]) == (["RUN it"], "/w", BASE.id)


REFUSED: dict[str, tuple[list[str], int, str]] = {
    "no image": (["copy", "nothing", "one", "/x"], 3, "nothing"),
    "no source": (["copy", "base:1", "/x"], 2, "name what is to be copied"),
    "no destination": (["copy", "base:1", "one", ""], 2, "the destination is empty"),
    "missing": (["copy", "base:1", "missing", "/x"], 3, "missing: file not found in build context"),
    "ignored": (["copy", "base:1", "ignored", "/x"], 3, "ignored: file not found in build context"),
    "outside": (["copy", "base:1", "../x", "/x"], 2, "forbidden path outside the build context"),
    "several": (["add", "base:1", "one", "two", "/x"], 2, "ADD with more than one source"),
    "below a file": (["copy", "base:1", "one", "/etc/passwd/x"], 2, "etc/passwd: it is no directory"),
    "a directory onto a file": (["copy", "base:1", "dir", "/etc/passwd"], 2, "etc/passwd: it is no directory"),
    "an unknown owner": (["copy", "base:1", "one", "/x", "--chown", "me"], 2, "no user 'me'"),
    "a mode": (["copy", "base:1", "one", "/x", "--chmod", "u+x"], 2, "--chmod=u+x is not an octal mode"),
    "a name": (["copy", "base:1", "one", "/x", "-t", "A"], 2, "'A' is not an image name"),
    "a URL": (["copy", "base:1", "http://127.0.0.1/x", "/x"], 2, "COPY cannot take a URL"),
    "a forbidden address": (["add", "base:1", "http://127.0.0.1/x", "/x"], 8, "127.0.0.1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, context: Path, name: str) -> None:
    arguments, code, message = REFUSED[name]
    done = run(tmp_path, *arguments)
    assert done.exit_code == code, done.stderr
    assert message in done.stderr
    assert done.stdout == ""
    assert len(listed(tmp_path, "--all")) == 1
    assert os.listdir(tmp_path / "state/staging") == []


def test_a_mistyped_state_does_not_become_a_store(tmp_path: Path, context: Path) -> None:
    done = called("copy", "base:1", "one", "/x", "--context", context, "--state", tmp_path / "other")
    assert done.exit_code == 3
    assert not (tmp_path / "other").exists()


def test_no_such_context(tmp_path: Path, context: Path) -> None:
    done = called("copy", "base:1", "one", "/x", "--context", "/nonexistent", "--state", tmp_path / "state")
    assert done.exit_code == 3
    assert "cannot read the context /nonexistent" in done.stderr


def test_the_second_time_nothing_is_read_to_be_copied(
    tmp_path: Path, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: Counter[str] = Counter()
    numbers = {path.stat().st_ino: path.name for path in context.rglob("*")}
    original = os.pread

    def pread(fd: int, length: int, offset: int) -> bytes:
        data = original(fd, length, offset)
        read[numbers.get(os.fstat(fd).st_ino, "")] += len(data)
        return data

    monkeypatch.setattr(os, "pread", pread)
    first = run(tmp_path, "copy", "base:1", "dir", "/x").stdout
    assert read.pop("a") == 10_000  # to be hashed, and to be stored
    assert run(tmp_path, "copy", "base:1", "dir", "/x").stdout == first
    assert read.pop("a") == 5000


CHANGES: dict[str, tuple[Callable[[Path], object], bool]] = {
    "times": (lambda context: [os.utime(each, (1, 1)) for each in (context / "dir", context / "dir/a")], True),
    "what is not copied": (lambda context: (context / "one").write_text("other"), True),
    "a mode": (lambda context: (context / "dir/a").chmod(0o600), False),
    "a mode of the directory": (lambda context: (context / "dir").chmod(0o700), False),
    "a byte": (lambda context: (context / "dir/a").write_text("a" * 4999 + "b"), False),
    "a name": (lambda context: (context / "dir/a").rename(context / "dir/b"), False),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_the_cache_is_asked_for(tmp_path: Path, context: Path, name: str) -> None:
    change, hits = CHANGES[name]
    assert run(tmp_path, "copy", "base:1", "dir", "/x").exit_code == 0
    change(context)
    assert json.loads(run(tmp_path, "copy", "base:1", "dir", "/x", "--json").stdout)["cached"] is hits


@pytest.mark.parametrize("options", [("--chown", "7"), ("--chmod", "600"), ("-t", "x")])
def test_options_that_the_cache_is_asked_for(tmp_path: Path, context: Path, options: tuple[str, str]) -> None:
    assert run(tmp_path, "copy", "base:1", "one", "/x").exit_code == 0
    again = json.loads(run(tmp_path, "copy", "base:1", "one", "/x", "--json", *options).stdout)
    assert again["cached"] is (options[0] == "-t")


def test_a_store_of_the_first_version(tmp_path: Path, context: Path) -> None:
    """A database as the first release made it, below which everything else is as it was."""
    for each in (tmp_path / "state").glob("streamer.db*"):
        each.unlink()
    anyio.run(first_version, tmp_path / "state/streamer.db")
    options = ("copy", "base:1", "dir", "/x", "--chown", "web", "-t", "a", "--json")
    first, again = (json.loads(run(tmp_path, *options).stdout) for _ in range(2))
    assert (first["cached"], again["cached"]) == (False, True)
    assert {"etc/passwd", "x/a"} < members(tmp_path, "a").keys()


async def first_version(database: Path) -> None:
    (diff,) = BASE.diff_ids
    owner = "trusted" if os.geteuid() == 0 else f"{os.geteuid()}:{os.getegid()}"
    async with Database.open(database, MIGRATIONS[:1]) as old, old.write() as transaction:
        await transaction.run("INSERT INTO properties VALUES ('owner', ?)", owner)
        await transaction.run("INSERT INTO layers VALUES (?, ?, NULL, ?)", diff, diff, len(BASE.layers[0]))
        await transaction.run("INSERT INTO configs VALUES (?, ?, ?)", BASE.id, BASE.data, diff)
        await transaction.run("INSERT INTO images VALUES (?)", BASE.id)
        await transaction.run("INSERT INTO names VALUES ('docker.io/library/base', '1', ?)", BASE.id)


def arguments(tmp_path: Path, command: str, source: str, name: str) -> tuple[object, ...]:
    place = ("--context", tmp_path / "context", "--state", tmp_path / "state")
    return (command, "base:1", source, "/new/", *place, "-t", name, "--no-cache")


def test_two_processes_at_once(tmp_path: Path, context: Path) -> None:
    (context / "big").write_bytes(os.urandom(8 << 20))
    wanted = {"a": "big", "b": "dir", "c": "big", "d": "one"}
    started = {name: commandline.start(*arguments(tmp_path, "copy", source, name)) for name, source in wanted.items()}
    outputs = {name: process.communicate(timeout=120) for name, process in started.items()}
    assert [process.returncode for process in started.values()] == [0, 0, 0, 0], outputs
    for name, source in wanted.items():
        (image,) = [each for each in listed(tmp_path) if f"{name}:latest" in each["names"]]
        assert image["id"] == outputs[name][0].decode().strip()
        assert {each for each in members(tmp_path, name) if each.startswith("new/")} == {
            "new/a" if source == "dir" else f"new/{source}"
        }
    assert os.listdir(tmp_path / "state/staging") == []


@pytest.mark.slow
def test_killed_in_the_middle(tmp_path: Path, context: Path) -> None:
    """Whatever the moment: nothing is left once the store is opened again, and the same succeeds."""
    (context / "big").write_bytes(os.urandom(48 << 20))
    killed = 0
    for turn in range(4):
        with commandline.start(*arguments(tmp_path, "copy", "big", "big")) as process:
            while not os.listdir(tmp_path / "state/staging"):
                if process.poll() is not None:
                    break
            time.sleep(0.04 * turn)  # any moment will do
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
        names = [each["names"] for each in listed(tmp_path)]
        assert os.listdir(tmp_path / "state/staging") == os.listdir(tmp_path / "state/trash") == []
        if ["big:latest"] not in names:
            # Killed after the image was there and before it had its name, it is there without one.
            assert len(listed(tmp_path, "layers")) == 1 + names.count([])
    assert killed
    assert run(tmp_path, "copy", "base:1", "big", "/new/", "-t", "big").exit_code == 0
    assert members(tmp_path, "big")["new/big"].size == 48 << 20


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_an_ordinary_user(tmp_path: Path, context: Path) -> None:
    """Without root: files have, in the image, the owners that the copy gives them."""
    place = Path(tempfile.mkdtemp(prefix="copy-"))  # pytest's own directories are root's alone
    try:
        place.chmod(0o755)
        shutil.copytree(context, place / "context")
        shutil.copy(tmp_path / "base.tar", place)
        (place / "state").mkdir()
        for each in (place / "state", place / "context", *(place / "context").rglob("*")):
            os.chown(each, confined.USER, confined.USER)

        def ask(*options: object) -> bytes:
            done = confined.run(confined.streamer(*options, "--state", place / "state"), user=confined.USER)
            assert done.returncode == 0, done.stderr
            return done.stdout

        def last(*options: object) -> dict[str, tuple[int, int, int]]:
            made = json.loads(ask(*options, "--json", "--context", place / "context"))
            layer = ask("export", "layer", made["image"]["layers"][-1])
            with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
                return {member.name: (member.uid, member.gid, member.mode) for member in archive}

        ask("import", place / "base.tar")
        assert last("copy", "base:1", "one", "/x", "--chown", "web", "-t", "a") == {"x": (7, 9, 0o644)}
        assert last("add", "a", "inner.tar.zst", "/y")["y/in/file"] == (3, 0, 0o640)
    finally:
        shutil.rmtree(place)
