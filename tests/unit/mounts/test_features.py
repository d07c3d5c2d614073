"""What is found out about the kernel, and what `streamer doctor` makes of it."""

from __future__ import annotations

import errno
import resource
import tempfile
from collections.abc import Callable

import pytest

from streamer.mounts import diagnosis, overlay
from streamer.mounts.diagnosis import findings
from streamer.mounts.features import Attempt, Features, probe, probe_again
from streamer.mounts.ways import Way

REFUSED = OSError(errno.EPERM, "Operation not permitted")
UNKNOWN = OSError(errno.ENOSYS, "Function not implemented")


def features(*errors: OSError | None, openat2: bool = True) -> Features:
    """Of a kernel that answers the three ways so, with either kind of marks."""
    pairs = list(zip(Way, errors, strict=True))
    return Features(openat2, tuple(Attempt(way, marks, error) for marks in (False, True) for way, error in pairs))


@pytest.mark.root
def test_this_kernel() -> None:
    assert probe() is probe()
    found = probe_again()
    for userxattr in (False, True):
        assert found.way(userxattr=userxattr) is not None
    assert len(found.attempts) == 6


def test_nowhere_to_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere/at/all")
    found = probe_again()
    assert found.way(userxattr=False) is None
    assert {one.errno for one in found.refusals(userxattr=True)} == {errno.ENOENT}


@pytest.mark.parametrize(
    ("errors", "way"),
    [
        ((None, None, None), Way.DESCRIPTORS),
        ((UNKNOWN, None, None), Way.STRINGS),
        ((UNKNOWN, UNKNOWN, None), Way.THREAD),
        ((REFUSED, REFUSED, REFUSED), None),
    ],
)
def test_the_best_way_is_taken(
    errors: tuple[OSError | None, ...], way: Way | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = features(*errors)
    monkeypatch.setattr(overlay, "probe", lambda: found)
    assert overlay.possible_way(userxattr=False) is way
    (first, *_) = findings(found)
    assert (first.name, first.ok) == ("overlay", way is not None)


@pytest.mark.parametrize(
    ("errors", "why"),
    [
        ((REFUSED, REFUSED, REFUSED), "this process lacks CAP_SYS_ADMIN"),
        ((UNKNOWN, UNKNOWN, UNKNOWN), "(Function not implemented): images and layers"),
        ((UNKNOWN, UNKNOWN, REFUSED), "this process lacks CAP_SYS_ADMIN"),
    ],
)
def test_a_finding_says_what_follows(errors: tuple[OSError | None, ...], why: str) -> None:
    by_name = {finding.name: finding for finding in findings(features(*errors, openat2=False))}
    assert list(by_name) == ["overlay", "overlay-userxattr", "read-any-file", "openat2", "open-files"]
    assert why in by_name["overlay"].follows
    assert not by_name["openat2"].ok
    for finding in by_name.values():
        assert finding.follows[0].isupper() or finding.follows[0].isdigit()
        assert finding.follows.endswith(".")


@pytest.mark.parametrize(("limit", "ok"), [((1024, 4096), False), ((65536, 65536), True), ((-1, -1), True)])
def test_few_open_files(limit: tuple[int, int], ok: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: limit)
    finding = findings(features(None, None, None))[-1]
    assert (finding.name, finding.ok) == ("open-files", ok)
    if not ok:
        assert "Only 1024 files" in finding.follows


@pytest.mark.parametrize("capable", [True, False])
def test_reading_any_file(capable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_capable", lambda _: capable)
    finding = findings(features(None, None, None))[2]
    assert (finding.name, finding.ok) == ("read-any-file", capable)


@pytest.mark.root
def test_of_an_ordinary_user(as_nobody: Callable[..., str]) -> None:
    code = """
        from streamer.mounts.diagnosis import findings
        drop()
        print(*(f"{finding.name}={finding.ok}" for finding in findings()))
    """
    assert as_nobody(code).split()[:4] == [
        "overlay=False",
        "overlay-userxattr=False",
        "read-any-file=False",
        "openat2=True",
    ]
