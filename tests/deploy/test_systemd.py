"""The units: accepted by systemd's own checks, bounded in what they expose, and started for real by a systemd of the
test's own, under the whole sandbox."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from support import confined, images
from support.confined import ROOT
from support.docker_roots import DockerRoot
from support.engines import needs

UNITS = ROOT / "deploy/systemd"
EXPOSURE = 3.0
"""Of 10. What is left is what it is for: mounting, reading everybody's files, sockets, root (see deploy/README.md)."""
READY = 90.0

_NEEDED = ("sysinit", "basic", "sockets", "shutdown", "multi-user", "network")
"""Targets that the units stand on, here without what they would start of the machine's own."""

# systemd as the first process of a PID namespace, on the machine's files, with nothing of what it writes seen outside.
_BOOT = (
    """
set -e
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /var/lib
mkdir "$HOME_OF_TEST/etc"
cp -a /etc/. "$HOME_OF_TEST/etc"
mount --bind "$HOME_OF_TEST/etc" /etc
"""
    + confined.SET_UP.replace('exec "$@"', "")
    + """
exec env -i PATH="$PATH" container=other SYSTEMD_UNIT_PATH="$UNITS" /lib/systemd/systemd --system --log-target=null
"""
)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units as they are, except that the program is the one of this tree."""
    for unit in UNITS.iterdir():
        shutil.copy(unit, tmp_path)
    service = tmp_path / "streamer.service"
    text = service.read_text()
    assert text.count("ExecStart=/opt/streamer/bin/streamer serve\n") == 1
    service.write_text(text.replace("/opt/streamer/bin/streamer serve", f"{sys.executable} -m streamer serve"))
    return tmp_path


@pytest.mark.parametrize("dropped_in", [False, True], ids=["root", "unprivileged"])
def test_checks_of_systemd(units: Path, dropped_in: bool) -> None:
    needs("systemd-analyze")
    if dropped_in:
        drop_in(units, UNITS / "unprivileged.conf")
    names = [str(units / "streamer.service"), str(units / "streamer.socket")]
    verified = subprocess.run(["systemd-analyze", "verify", *names], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    measured = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", "--json=short", names[0]],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    open_ = {each["name"] for each in json.loads(measured.stdout) if each["set"] is False}
    assert "NoNewPrivileges=" not in open_
    bound = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE * 10:.0f}", names[0]],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert bound.returncode == 0, bound.stdout[-400:]


def drop_in(units: Path, *files: Path) -> None:
    place = units / "streamer.service.d"
    place.mkdir(exist_ok=True)
    for file in files:
        shutil.copy(file, place)


class Machine:
    """A systemd as the first process of its own namespaces, with the units and what they stand on."""

    def __init__(self, units: Path, home: Path) -> None:
        for name in _NEEDED:
            (units / f"{name}.target").write_text("[Unit]\nDefaultDependencies=no\n")
        (units / "default.target").symlink_to("multi-user.target")
        self._process = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc", "--cgroup", "sh", "-c", _BOOT],
            env={**confined.environment(), "HOME_OF_TEST": str(home), "UNITS": str(units)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._first = 0

    def __enter__(self) -> Machine:
        end = time.monotonic() + READY
        while time.monotonic() < end:
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            if children:
                self._first = int(children[0])
                if self.run("systemctl", "is-system-running", check=False).strip() == "running":
                    return self
            time.sleep(0.05)
        self.__exit__()
        raise AssertionError("systemd did not come up")

    def __exit__(self, *_: object) -> None:
        for pid in (self._first, self._process.pid):
            if pid:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        self._process.wait(60)

    def run(self, *command: str, check: bool = True) -> str:
        return self.bytes(*command, check=check).decode()

    def bytes(self, *command: str, check: bool = True) -> bytes:
        """What a command in there writes to its standard output."""
        enter = ("nsenter", f"--target={self._first}", "--mount", "--pid", "--ipc", "--uts", "--cgroup", "--")
        done = subprocess.run([*enter, *command], capture_output=True, timeout=120, check=False)
        assert not check or done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def shown(self, *properties: str) -> dict[str, str]:
        lines = self.run("systemctl", "show", f"--property={','.join(properties)}", "streamer.service").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def asked(self, path: str) -> bytes:
        return self.bytes("curl", "-sSf", "--unix-socket", "/run/streamer/streamer.sock", f"http://localhost{path}")


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that every user reaches, outside of what the units hide."""
    with tempfile.TemporaryDirectory(prefix="units-", dir="/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.mark.root
@pytest.mark.parametrize("user", ["root", "unprivileged"])
def test_started_for_real(units: Path, home: Path, user: str) -> None:
    needs("/lib/systemd/systemd", "curl")
    made = images.image(images.layer(images.file("secret", b"s", mode=0, uid=1234, gid=1234)), names=["a:1"])
    store = DockerRoot(home / "docker").add(made)
    store.container("web", made, "new")
    secret = next(store.overlay.glob("*/diff/secret"))
    os.chown(secret, 1234, 1234)
    secret.chmod(0)
    test = home / "test.conf"
    # What hides homes and /tmp would hide what is tested as well: bound back in. The rest of the sandbox is as shipped.
    seen = {str(path) for path in (ROOT, Path(sys.prefix), Path(sys.base_prefix), home)}
    test.write_text(
        f"[Service]\nProtectHome=tmpfs\nBindReadOnlyPaths={' '.join(sorted(seen))}\n"
        f"Environment=PYTHONPATH={ROOT} STREAMER_STORES=docker=docker:{store.path}\n"
    )
    drop_in(units, test, *([UNITS / "unprivileged.conf"] if user == "unprivileged" else []))
    shutil.copytree(units, home / "units")
    with Machine(home / "units", home) as machine:
        machine.run("systemctl", "start", "streamer.socket")
        assert machine.shown("ActiveState") == {"ActiveState": "inactive"}
        assert json.loads(machine.asked("/readyz"))["stores"] == {"docker": "ok"}  # the socket starts the service
        with tarfile.open(fileobj=BytesIO(machine.asked("/v1/containers/web/archive?profile=full"))) as archive:
            assert {"secret", "new"} <= set(archive.getnames())
        state = machine.shown("ActiveState", "StatusText", "MainPID", "NRestarts", "WatchdogUSec")
        assert state["ActiveState"] == "active"
        assert state["StatusText"].startswith("serving at unix:")
        status = machine.run("cat", f"/proc/{state['MainPID']}/status")
        assert ("\nUid:\t0\t0\t0\t0\n" in status) == (user == "root")
        for name in ("CapPrm", "CapEff", "CapBnd"):
            held = int(re.search(rf"^{name}:\s*(\w+)$", status, re.MULTILINE)[1], 16)  # type: ignore[index]
            assert held == 1 << 21 | 1 << 2, name
        assert "NoNewPrivs:\t1\n" in status
        assert "Seccomp:\t2\n" in status
        machine.run("systemctl", "reload", "streamer.service")
        assert machine.shown("ActiveState", "NRestarts") == {"ActiveState": "active", "NRestarts": "0"}
        machine.run("systemctl", "stop", "streamer.service")
        ended = machine.shown("Result", "ExecMainStatus", "ActiveState")
        assert ended == {"Result": "success", "ExecMainStatus": "0", "ActiveState": "inactive"}
