"""Exports while an engine removes, makes anew, starts, stops, commits and prunes the very things that are exported.

Each export ends complete and right, or broken: never cleanly with something missing. The engine is kept waiting by none
of them, and nothing is left: no mount, no lease, no lock, no descriptor.

`STREAMER_TEST_CHURN_EXPORTS` makes it longer: the exports per engine.
"""

from __future__ import annotations

import collections
import fcntl
import itertools
import os
import random
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from support import images, payloads
from support.asking import ask
from support.churn import LIMIT, Churn, Containerd, Ending, Podman, Reading, Shell, Target, Way, export
from support.engines import Command
from support.processes import Serving

pytestmark = [pytest.mark.engine, pytest.mark.root]

EXPORTS = int(os.environ.get("STREAMER_TEST_CHURN_EXPORTS", "30"))
AT_ONCE = 6
ENGINES = ["docker", "podman", "containerd"]
BLOCKED = 0.2
"""Seconds that streamer may keep a command of the engine waiting."""
OVERLAP = 1.0
"""Seconds for which locks may follow each other without a pause; were they to overlap for good, it would be the whole
time of the test."""
SEEN = 0.1
"""Seconds between two looks at most: in more, a lock may have been given back and taken again."""


@pytest.fixture(params=ENGINES)
def churn(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Churn]:
    name: str = request.param
    command: Command = request.getfixturevalue("ctr" if name == "containerd" else name)
    made = _churn(name, command, tmp_path)
    made.set_up()
    yield made
    made.tear_down()


def _churn(name: str, command: Command, folder: Path) -> Churn:
    root = command.root
    if name == "docker":
        return Shell(command, f"docker:{root}+{root.parent}/s", folder)
    if name == "podman":
        return Podman(command, f"containers-storage:{root}+{root.parent}/run", folder)
    return Containerd(command, f"containerd:{root}/s#tests", folder)


@contextmanager
def serving(churn: Churn, folder: Path) -> Iterator[Serving]:
    settings = {"STREAMER_STORES": f"x={churn.store}", "STREAMER_STALL_TIMEOUT": "600", "STREAMER_MAX_EXPORTS": "200"}
    server = Serving(folder / "state", **settings)
    try:
        with server:
            yield server
    except BaseException:
        print("".join(server.log)[-6000:])
        raise


# Every export is whole or broken


def test_every_export_is_whole_or_broken(
    churn: Churn, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    endings: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    with serving(churn, tmp_path) as server:
        before = warmed(churn, server)
        turns = list(itertools.product(churn.targets(), (*Way, Way.EAGER, Way.STEPS)))
        random.Random(1).shuffle(turns)
        turn = itertools.cycle(turns)
        lock = threading.Lock()

        def one(_: int) -> None:
            while True:
                with lock:
                    target, way = next(turn)
                ending, faults = _judged(churn, server.port, target, way)
                endings[f"{way.name.lower()} {ending.how}"] += 1
                if faults:
                    wrong.append(f"{target.path}, {way.name}: {ending.how} {ending.detail}: {faults}")
                if ending.status == 200:
                    return

        with churn.working(), ThreadPoolExecutor(AT_ONCE) as readers:
            list(readers.map(one, range(EXPORTS)))
        assert not wrong, "\n".join(wrong)
        nothing_held(churn, server, before)
        server.process.terminate()
        assert server.ends() == 0
    record_property("endings", dict(endings))
    told(churn, endings)
    # Otherwise nothing is proved: exports that nobody disturbed, and exports whose source was gone.
    assert sum(count for how, count in endings.items() if "complete" in how) >= EXPORTS // 5
    assert sum(count for how, count in endings.items() if "broken" in how) >= EXPORTS // 20


def test_a_body_with_a_fault_is_not_whole() -> None:
    good = payloads.payload("lower", 1)
    faults = payloads.tree("lower")
    assert faults(images.layer(*good), True) == []
    torn = [
        (info, data[:-1] + bytes([data[-1] ^ 1]) if number == 7 else data) for number, (info, data) in enumerate(good)
    ]
    for members in (good[:-1], good[:5] + good[6:], [], torn):
        assert faults(images.layer(*members), True) != []
    assert faults(images.layer(*good, end=b""), True) != []
    assert payloads.tree(changes=True)(images.layer(*good), True) != []
    made = images.image(images.layer(*good))
    assert payloads.saved(made)(images.pack(images.both(made)), True) == []
    assert payloads.saved(made)(images.pack(images.both(images.image(images.layer(*torn)))), True) != []


def _judged(churn: Churn, port: int, target: Target, way: Way) -> tuple[Ending, list[str]]:
    """How one export ended, and what is wrong with that."""
    box = churn.box
    settled = False

    def begun() -> None:
        nonlocal settled
        settled = box is not None and churn.box == box

    ending = export(churn, port, target.path, way, begun)
    if ending.how == "complete":
        return ending, target.faults(ending.body, settled)
    if ending.status != 200 and target.refusals.get(ending.how) != ending.status:
        return ending, [f"refused with {ending.status}"]
    return ending, []


# No command of the engine waits


def test_no_command_waits_for_a_stalled_reader(churn: Churn, tmp_path: Path) -> None:
    """Of everything there is somebody reads a little and then no more, while all of it is used and removed."""
    alone: dict[str, float] = {}
    watched: dict[str, float] = {}
    with serving(churn, tmp_path) as server:
        before = warmed(churn, server)
        for turn in range(8):  # the best of them: the machine has other work as well
            for times, readers in ((alone, 0), (watched, 1)):
                churn.took.clear()
                churn.make_box()
                with ExitStack() as stack:
                    stalled = [_stalled(stack, server.port, target) for target in churn.targets()[: 6 * readers]]
                    churn.use_box(run=True)
                    churn.replace_data()
                    churn.remove_box()
                    churn.prune()
                    endings = [reading.rest() for reading in stalled]
                for name, seconds in churn.took.items():
                    times[name] = min([*seconds, times.get(name, LIMIT)])
                assert not readers or whole_or_broken(churn, endings) > 0
            slower = {name: each - alone[name] for name, each in watched.items() if each > alone[name] + BLOCKED}
            if turn and not slower:
                break
        assert slower == {}
        nothing_held(churn, server, before)


def whole_or_broken(churn: Churn, endings: list[Ending]) -> int:
    """How many are broken; what was small enough for all the buffers on the way may be whole."""
    for target, ending in zip(churn.targets(), endings, strict=False):
        assert ending.how == "broken" or target.faults(ending.body, True) == [], target.path
    return sum(ending.how == "broken" for ending in endings)


def _stalled(stack: ExitStack, port: int, target: Target) -> Reading:
    reading = stack.enter_context(closing(Reading(port, target.path)))
    assert reading.refused is None, (target.path, reading.refused)
    reading.taste()
    return reading


@pytest.mark.parametrize("churn", ["podman"], indirect=True)
def test_no_lock_is_held_while_anybody_could_wait(churn: Churn, tmp_path: Path) -> None:
    """Readings of the whole store in a tight loop: shared locks must not even overlap for long, as together they would
    keep out everybody who wants an exclusive one."""
    stop = threading.Event()

    def ask_on(path: str) -> int:
        for count in itertools.count():
            if stop.is_set():
                return count
            assert ask(server.port, path).status == 200
        raise AssertionError

    paths = ["/v1/images", "/v1/containers", "/v1/layers", "/v1/images", "/v1/containers"]
    with serving(churn, tmp_path) as server, ThreadPoolExecutor(len(paths)) as readers, ExitStack() as stack:
        before = warmed(churn, server)
        churn.make_box()
        for target in churn.targets():
            if "commit" not in target.path:
                _stalled(stack, server.port, target)
        asking = [readers.submit(ask_on, path) for path in paths]
        try:
            with Locks(churn.command.root) as locks:
                for _ in range(3):
                    churn.command("images")
                    churn.command("ps", "-a")
                    churn.command("tag", "churn/tool:1", "churn/tool:2")
                    churn.command("rmi", "churn/tool:2")
        finally:
            stop.set()
        assert min(each.result(LIMIT) for each in asking) > 3
        assert locks.longest < OVERLAP
        stack.close()
        churn.remove_box()
        nothing_held(churn, server, before)


class Locks:
    """Watches a store's lock files: `longest` is how many seconds one was held without a pause, by open descriptors.

    The engine's own locks belong to processes, so they are told apart; several that overlap count as one. A time
    in which the watch itself was kept from looking is not counted."""

    def __init__(self, root: Path) -> None:
        self._paths = sorted(root.rglob("*.lock"))
        assert self._paths
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.longest = 0.0

    def __enter__(self) -> Locks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        files = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in self._paths]
        since: dict[int, float] = {}
        looked = dict.fromkeys(files, 0.0)
        try:
            while not self._stop.wait(0.001):
                for number in files:
                    now = time.monotonic()
                    if now - looked[number] > SEEN or not held_by_descriptor(number):
                        since.pop(number, None)
                    else:
                        self.longest = max(self.longest, now - since.setdefault(number, now))
                    looked[number] = now
        finally:
            for number in files:
                os.close(number)


_FLOCK = "hhqqi4x"
"""fcntl(2): type, whence, start, length, PID (-1 for a lock of an open file description)."""


def held_by_descriptor(number: int) -> bool:
    wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(number, fcntl.F_OFD_GETLK, wanted))
    return kind != fcntl.F_UNLCK and pid == -1


def test_the_watch_sees_locks(tmp_path: Path) -> None:
    path = tmp_path / "layers.lock"
    path.touch()
    with path.open() as holder, Locks(tmp_path) as locks:
        wanted = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(holder, fcntl.F_OFD_SETLK, wanted)
        eventually(lambda: locks.longest > 0.05, "the lock was not seen")


# Nothing is left


def test_sigkill_leaves_nothing(churn: Churn, tmp_path: Path) -> None:
    churn.make_box()
    with ExitStack() as stack, serving(churn, tmp_path) as server:
        targets = [target for target in churn.targets() if "commit" not in target.path]
        readings = [_stalled(stack, server.port, target) for target in targets]
        server.process.kill()
        server.ends()
        assert whole_or_broken(churn, [reading.rest() for reading in readings]) > 0
    assert mounted(churn, os.getpid()) == []
    if isinstance(churn, Containerd):
        assert churn.leases()
        assert [lease for lease in churn.leases() if "containerd.io/gc.expire=" not in lease] == []
    # Whatever the engine is asked to do, it does, and who comes next exports.
    churn.remove_box()
    churn.round()
    churn.make_box()
    with serving(churn, tmp_path) as server:
        for target in churn.targets():
            ending, faults = _judged(churn, server.port, target, Way.EAGER)
            assert (ending.how, faults) == ("complete", []), (target.path, ending.how, ending.detail)


def warmed(churn: Churn, server: Serving) -> collections.Counter[str]:
    """What the server has open after one export of everything: what it opens once is open by now."""
    churn.make_box()
    churn.use_box(run=False)
    try:
        for target in churn.targets():
            ending, faults = _judged(churn, server.port, target, Way.EAGER)
            assert (ending.how, faults) == ("complete", []), (target.path, ending.how, ending.detail)
    finally:
        churn.remove_box()
    eventually(lambda: open_exports(server) == 0, "an export does not end")
    return opened(server.process.pid)


def nothing_held(churn: Churn, server: Serving, before: collections.Counter[str]) -> None:
    """No export, lease, mount, file or lock in the server that was not there before, nor anything in the engine."""
    eventually(lambda: open_exports(server) == 0, "an export does not end")
    eventually(lambda: opened(server.process.pid) <= before, lambda: str(opened(server.process.pid) - before))
    assert mounted(churn, server.process.pid) == []
    if isinstance(churn, Containerd):
        eventually(lambda: churn.leases() == [] and churn.views() == [], lambda: f"{churn.leases()} {churn.views()}")
    if isinstance(churn, Podman):
        for path in churn.command.root.rglob("*.lock"):
            with path.open() as file:
                assert not held_by_descriptor(file.fileno()), path


def open_exports(server: Serving) -> float:
    """Exports and leases of mounts."""
    lines = ask(server.port, "/metrics").body.decode().splitlines()
    wanted = ("streamer_open_exports ", "streamer_leases ")
    values = [float(line.split()[1]) for line in lines if line.startswith(wanted)]
    assert len(values) == len(wanted)
    return sum(values)


def opened(pid: int) -> collections.Counter[str]:
    """What a process has open, but sockets: what a client left half closed is the kernel's to end."""
    found: collections.Counter[str] = collections.Counter()
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{number}")
        except FileNotFoundError:
            continue
        if not target.startswith("socket:"):
            found[target] += 1
    return found


def mounted(churn: Churn, pid: int) -> list[str]:
    """Mounts below the engine's directories that any thread of the process sees: the engine has a namespace of its own,
    so there should be none."""
    lines: set[str] = set()
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/mountinfo", encoding="utf-8", errors="surrogateescape") as info:
            lines |= {line for line in info if str(churn.command.root.parent) in line}
    return sorted(lines)


def eventually(true: Callable[[], bool], what: str | Callable[[], str], limit: float = 60) -> None:
    deadline = time.monotonic() + limit
    while not true():
        assert time.monotonic() < deadline, what if isinstance(what, str) else what()
        time.sleep(0.01)


def told(churn: Churn, endings: collections.Counter[str]) -> None:
    """For whoever runs it with `-s`: how exports ended, and the engine's latencies in milliseconds."""
    print(f"\n{churn.store.partition(':')[0]}: {churn.rounds} rounds, {dict(sorted(endings.items()))}")
    for name, seconds in sorted(churn.took.items()):
        middle = sorted(seconds)[len(seconds) // 2]
        print(f"  {name:20} n={len(seconds):3} p50={middle * 1000:5.0f} ms max={max(seconds) * 1000:5.0f} ms")
