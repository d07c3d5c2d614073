"""What the kernel tells of frozen control groups: real ones, of both versions."""

from __future__ import annotations

import gc
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer.stores.standstill import control_groups, of_container, standstill

CGROUPS = Path("/sys/fs/cgroup")
IDENTITY = secrets.token_hex(32)
# It never sleeps, and what it does with a signal takes no time.
BUSY = "import signal\nsignal.signal(signal.SIGUSR1, lambda *_: None)\nprint(flush=True)\nwhile True: pass"
IDLE = "import signal\nsignal.signal(signal.SIGUSR1, lambda *_: None)\nprint(flush=True)\nwhile True: signal.pause()"


class Group:
    """Processes in a control group of their own, which is frozen and thawed as engines do."""

    def __init__(self, version: int) -> None:
        if version == 1:
            self._state, words = CGROUPS / "freezer" / IDENTITY / "freezer.state", ("THAWED", "FROZEN")
            self._told = (self._state, "FROZEN")
            self.folders = [CGROUPS / "freezer" / IDENTITY, CGROUPS / "cpuacct" / IDENTITY]
        else:
            root = CGROUPS if (CGROUPS / "cgroup.controllers").exists() else CGROUPS / "unified"
            self._state, words = root / f"x-{IDENTITY}.scope" / "cgroup.freeze", ("0", "1")
            self._told = (self._state.with_name("cgroup.events"), "frozen 1")
            # The processes are one further down, as podman has it.
            self.folders = [self._state.parent, self._state.parent / "container"]
        self._words = words
        self._processes: list[subprocess.Popen[bytes]] = []
        for folder in self.folders:
            folder.mkdir()

    def run(self, program: str) -> int:
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline()
        self._processes.append(process)
        for folder in self.folders[1:] if "scope" in self.folders[0].name else self.folders:
            (folder / "cgroup.procs").write_text(str(process.pid))
        return process.pid

    def freeze(self) -> None:
        self._state.write_text(self._words[1])
        file, word = self._told
        deadline = time.monotonic() + 60
        while word not in file.read_text():
            assert time.monotonic() < deadline

    def thaw(self) -> None:
        self._state.write_text(self._words[0])

    def end(self) -> None:
        if not self._processes:
            return
        self.thaw()
        for process in self._processes:
            process.kill()
            process.communicate()
        self._processes.clear()
        for folder in reversed(self.folders):
            deadline = time.monotonic() + 60
            while folder.exists():
                try:
                    folder.rmdir()
                except OSError:  # the last process is still leaving
                    assert time.monotonic() < deadline
                    time.sleep(0.005)


@pytest.fixture(params=[1, 2])
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    if request.param == 1 and not (CGROUPS / "freezer").exists():
        pytest.skip("no control groups of version 1 here (a kernel or boot option decides)")
    made = Group(request.param)
    try:
        yield made
    finally:
        made.end()


@pytest.mark.root
@pytest.mark.parametrize("program", [BUSY, IDLE])
def test_a_group_that_stays_frozen_stood_still_whatever_signals_it_got(group: Group, program: str) -> None:
    pid = group.run(program)
    group.freeze()
    seen = standstill(IDENTITY, pid)
    assert seen is not None
    assert not seen.ran()
    for _ in range(3):
        os.kill(pid, signal.SIGUSR1)
        assert not seen.ran()


def _ran_for(pid: int) -> str:
    """How long a process had a processor, in nanoseconds."""
    return Path(f"/proc/{pid}/schedstat").read_text().split()[0]


@pytest.mark.root
def test_a_group_that_was_thawed_for_a_moment_ran(group: Group) -> None:
    pid = group.run(BUSY)
    group.freeze()
    seen = standstill(IDENTITY, pid)
    assert seen is not None
    before = _ran_for(pid)
    group.thaw()
    deadline = time.monotonic() + 60
    while _ran_for(pid) == before:  # it has to wait for its turn on a machine with other work
        assert time.monotonic() < deadline
    group.freeze()
    assert seen.ran()
    assert seen.ran()
    again = standstill(IDENTITY, pid)
    assert again is not None
    assert not again.ran()


@pytest.mark.root
def test_a_group_that_runs_is_nothing_to_compare_with(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.stores.standstill.SETTLES", 0.02)
    pid = group.run(IDLE)
    assert standstill(IDENTITY, pid) is None
    group.freeze()
    assert standstill("f" * 64, pid) is None
    seen = standstill(IDENTITY, pid)
    assert seen is not None
    group.end()
    assert seen.ran()
    assert standstill(IDENTITY, pid) is None


@pytest.mark.root
def test_what_it_has_open_goes_with_it(group: Group) -> None:
    pid = group.run(IDLE)
    group.freeze()
    gc.collect()  # of tests before: what goes while this one counts would be taken for its own
    before = len(os.listdir("/proc/self/fd"))
    seen = [standstill(IDENTITY, pid) for _ in range(3)]
    assert None not in seen
    seen.clear()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_last_process_may_take_its_time(tmp_path: Path) -> None:
    """Of a runtime that does not wait for it."""
    folder = tmp_path / IDENTITY
    folder.mkdir()
    (tmp_path / "cgroup.controllers").touch()
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text(f"0::/{IDENTITY}\n")
    (folder / "cpu.stat").write_text("usage_usec 5\nuser_usec 5\n")
    asked = 0

    class Events(type(tmp_path)):  # type: ignore[misc]
        def read_text(self, *args: object, **kwargs: object) -> str:
            nonlocal asked
            if self.name == "cgroup.events":
                asked += 1
                return f"populated 1\nfrozen {int(asked > 2)}\n"
            return str(super().read_text(*args, **kwargs))

    (folder / "cgroup.events").touch()
    assert standstill(IDENTITY, 7, tmp_path, Events(tmp_path)) is not None
    assert asked == 3


@pytest.mark.parametrize("pid", [None, 0, -1, "7", True, 1 << 40])
def test_no_process(pid: object) -> None:
    assert standstill(IDENTITY, pid) is None


@pytest.mark.parametrize(
    "text", ["", "0::/\n", "0::/../{0}\n", "6:freezer:/{0}\n0::/\n", "6:freezer:/{0}\n3:cpuacct:/{0}\n"]
)
def test_groups_that_cannot_be_seen(tmp_path: Path, text: str) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text(text.format(IDENTITY))
    assert standstill(IDENTITY, 7, tmp_path, tmp_path) is None


def test_the_groups_of_every_controller() -> None:
    assert control_groups("5:cpu,cpuacct:/a:b\n1:name=systemd:/c\n0::/d\n") == {
        "cpu": "/a:b",
        "cpuacct": "/a:b",
        "name=systemd": "/c",
        "": "/d",
    }


@pytest.mark.parametrize(
    ("path", "groups"),
    [
        ("/default/web", ["default/web"]),
        ("/machine/libpod-web.scope/container", ["machine/libpod-web.scope", "machine/libpod-web.scope/container"]),
        ("/k8s/cri:web/a", ["k8s/cri:web", "k8s/cri:web/a"]),
        ("/web/docker/web", ["web/docker/web"]),
        ("/default/webs", []),
        ("/default/aweb", []),
        ("/../web", []),
        ("/", []),
    ],
)
def test_the_groups_of_a_container(path: str, groups: list[str]) -> None:
    assert of_container("web", path) == groups
