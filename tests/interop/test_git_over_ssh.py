"""Contexts from git over ssh, from a real server, by `streamer context`: what is fetched, and what it never asks."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ssh
from support.commandline import Terminal
from support.engines import needs
from support.gits import git, repository
from support.ssh import Home

pytestmark = [pytest.mark.engine, pytest.mark.root]

FILES = {"Dockerfile": "FROM scratch\n", "sub/Dockerfile": "FROM sub\n", "sub/a": "1"}
ROOT = str(Path(__file__).parents[2])


@pytest.fixture
def served(tmp_path: Path) -> Path:
    place = repository(tmp_path / "served/one.git", FILES)
    git(place, "branch", "old")
    repository(place, {"sub/b": "2"})
    return place


@pytest.fixture(autouse=True)
def installed() -> None:
    if not os.access(ssh.SSHD, os.X_OK):
        pytest.skip("not installed: sshd (.ci/run lists the packages)")
    needs("git", "ssh", "ssh-keygen", "unshare", "setsid")


@pytest.fixture
def home(tmp_path: Path, installed: None) -> Iterator[Home]:
    with ssh.sshd(tmp_path / "sshd", "PasswordAuthentication no") as made:
        made.know(f"[127.0.0.1]:{made.port}")
        yield made


def context(home: Home, source: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(_command(home, source), env=_environment(), capture_output=True, timeout=60)


def _command(home: Home, source: str) -> list[str]:
    return [*home.prefix(), sys.executable, "-W", "error", "-m", "streamer", "context", source]


def _environment() -> dict[str, str]:
    # An askpass program and a display are how ssh and git would ask where there is no terminal.
    asking = {"SSH_ASKPASS": "/bin/false", "GIT_ASKPASS": "/bin/false", "DISPLAY": ":9", "SSH_ASKPASS_REQUIRE": "force"}
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": ROOT,
        "STREAMER_FETCH_ALLOW": "127.0.0.1",
        "LC_ALL": "C",
        **asking,
    }


def content(done: subprocess.CompletedProcess[bytes]) -> dict[str, bytes]:
    assert done.returncode == 0, done.stderr.decode()
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        files = {each.name: archive.extractfile(each) for each in archive if each.isfile()}
        return {name: file.read() for name, file in files.items() if file is not None and not name.startswith(".git/")}


def refused(done: subprocess.CompletedProcess[bytes], code: int, *said: str) -> None:
    assert (done.returncode, done.stdout) == (code, b""), done.stderr.decode()
    for each in said:
        assert each in done.stderr.decode().replace("\n", " ")


OLD = {name: text.encode() for name, text in FILES.items()}
NEW = {**OLD, "sub/b": b"2"}
SUB = {"Dockerfile": b"FROM sub\n", "a": b"1", "b": b"2"}


@pytest.mark.parametrize(("fragment", "expected"), [("", NEW), ("#old", OLD), ("#main:sub", SUB)])
def test_a_url(home: Home, served: Path, fragment: str, expected: dict[str, bytes]) -> None:
    assert content(context(home, f"ssh://git@127.0.0.1:{home.port}{served}{fragment}")) == expected


def test_the_short_form(home: Home, served: Path) -> None:
    """Its port can be said in the user's own configuration only, and then known_hosts has the name without it."""
    home.configure(f"Host 127.0.0.1\n  Port {home.port}\n")
    home.know("127.0.0.1")
    assert content(context(home, f"git@127.0.0.1:{served}#old")) == OLD


def test_a_submodule(home: Home, served: Path) -> None:
    above = repository(served.parent / "above.git", {"Dockerfile": "FROM scratch\n"})
    (above / ".gitmodules").write_text('[submodule "m"]\n\tpath = m\n\turl = ../one.git\n')
    commit = git(served, "rev-parse", "HEAD").strip()
    git(above, "add", ".gitmodules")
    git(above, "update-index", "--add", "--cacheinfo", f"160000,{commit},m")
    git(above, "commit", "-q", "-m", "module")
    found = content(context(home, f"ssh://git@127.0.0.1:{home.port}{above}"))
    assert {name: found[name] for name in ("m/sub/a", "m/sub/b")} == {"m/sub/a": b"1", "m/sub/b": b"2"}


def test_a_host_that_is_not_known(home: Home, served: Path) -> None:
    (home.ssh / "known_hosts").unlink()
    done = context(home, f"ssh://git@127.0.0.1:{home.port}{served}")
    refused(done, 8, f"the host key of [127.0.0.1]:{home.port} is not known", "known_hosts")
    assert not (home.ssh / "known_hosts").exists(), "nobody was trusted in passing"


def test_a_host_with_another_key(home: Home, served: Path, tmp_path: Path) -> None:
    home.know(f"[127.0.0.1]:{home.port}", ssh.other_key(tmp_path / "other"))
    known = (home.ssh / "known_hosts").read_text()
    refused(context(home, f"ssh://git@127.0.0.1:{home.port}{served}"), 8, "has another host key than known_hosts says")
    assert (home.ssh / "known_hosts").read_text() == known


def test_a_key_that_is_not_accepted(home: Home, served: Path) -> None:
    home.accepted.write_text("")
    refused(context(home, f"ssh://git@127.0.0.1:{home.port}{served}"), 8, "accepts none of this user's keys")


def test_a_repository_that_is_not_there(home: Home, served: Path) -> None:
    done = context(home, f"ssh://git@127.0.0.1:{home.port}{served}-not")
    refused(done, 10, "does not appear to be a git repository")


def test_nobody_there(home: Home) -> None:
    done = context(home, "ssh://git@127.0.0.1:1/x")
    refused(done, 10, "Connection refused")


def test_an_address_that_is_not_allowed(home: Home, served: Path) -> None:
    environment = {**_environment(), "STREAMER_FETCH_ALLOW": ""}
    command = _command(home, f"ssh://git@127.0.0.1:{home.port}{served}")
    refused(subprocess.run(command, env=environment, capture_output=True, timeout=60), 8, "not a public address")


@pytest.mark.parametrize("why", ["unknown host", "locked key", "password"])
def test_nothing_is_asked(why: str, served: Path, tmp_path: Path) -> None:
    """Not even at a terminal, where there would be somebody to answer."""
    with ssh.sshd(tmp_path / "asking", "PasswordAuthentication yes", "KbdInteractiveAuthentication yes") as asking:
        if why != "unknown host":
            asking.know(f"[127.0.0.1]:{asking.port}")
        if why == "locked key":
            asking.make_key("a phrase")
        if why == "password":
            asking.accepted.write_text("")
        with Terminal() as terminal:
            command = _command(asking, f"ssh://git@127.0.0.1:{asking.port}{served}")
            with (tmp_path / "out").open("wb") as out:
                done = subprocess.run(
                    ["setsid", "--ctty", "--wait", *command],
                    stdin=terminal.slave,
                    stdout=out,
                    stderr=terminal.slave,
                    env={**_environment(), "COLUMNS": "400"},
                    timeout=60,
                )
            shown = terminal.drain().decode()
    assert done.returncode == 8, shown
    assert (tmp_path / "out").read_bytes() == b""
    for asked in ("assword:", "Enter passphrase", "yes/no", "sername"):
        assert asked not in shown
