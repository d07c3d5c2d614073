"""What was measured on, and with which programs."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from bench.server import nginx_version

ROOT = Path(__file__).resolve().parent.parent


def describe(work: Path, versions: Mapping[str, str]) -> dict[str, str]:
    """In the order in which it is to be read; `versions` are those of the engines that run."""
    tree = _said("git", "-C", str(ROOT), "status", "--porcelain", "--", "streamer")
    found = {
        "CPU": f"{cpu_model(_read('/proc/cpuinfo'))}, {len(os.sched_getaffinity(0))} cores",
        "memory": memory(_read("/proc/meminfo")),
        "kernel": f"{platform.system()} {platform.release()}",
        "disk": disk(work),
        "Python": platform.python_version(),
        "streamer": f"commit {commit()}{' with changes that are not committed' if tree else ''}",
        "curl": _first("curl", "--version"),
        "GNU tar": _first("tar", "--version"),
        "bsdtar": _first("bsdtar", "--version"),
        "gzip": _first("gzip", "--version"),
        "pigz": _first("pigz", "--version"),
        "nginx": nginx_version() or "not installed",
    }
    return {**found, **versions}


def commit() -> str:
    return _said("git", "-C", str(ROOT), "rev-parse", "--short=10", "HEAD") or "unknown"


def cpu_model(cpuinfo: str) -> str:
    """The first processor's name; other architectures than x86 have other words for it, or none."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip().lower() in ("model name", "cpu model", "hardware", "uarch"):
            return value.strip()
    return platform.machine()


def memory(meminfo: str) -> str:
    for line in meminfo.splitlines():
        if line.startswith("MemTotal:"):
            return f"{int(line.split()[1]) / (1 << 20):.1f} GiB"
    return "unknown"


def mount_of(path: str, mountinfo: str) -> tuple[str, str]:
    """Type of file system and device that hold a path: the last mount that is longest."""
    best, found = "", ("unknown", "unknown")
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        place = before.split()[4]
        inside = path == place or path.startswith(place.rstrip("/") + "/")
        if inside and len(place) >= len(best):
            best, found = place, (after.split()[0], after.split()[1])
    return found


def disk(work: Path) -> str:
    kind, device = mount_of(str(work.resolve()), _read("/proc/self/mountinfo"))
    queue = Path("/sys/class/block") / Path(device).name / "queue"
    told = [f"{kind} on {device}"]
    if rotational := _read(queue / "rotational").strip():
        told.append("says it rotates" if rotational == "1" else "says it does not rotate")
    if ahead := _read(queue / "read_ahead_kb").strip():
        told.append(f"read-ahead {ahead} KiB")
    virtual = Path(device).name.startswith(("vd", "xvd"))
    return ", ".join(told) + (
        "; virtual: cold is cold for this machine, its host may have it cached" if virtual else ""
    )


def _first(program: str, *arguments: str) -> str:
    if shutil.which(program) is None:
        return "not installed"
    return (_said(program, *arguments) or "unknown").splitlines()[0]


def _said(*command: str) -> str:
    """Standard output, or standard error where there is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except OSError:
        return ""
    return (done.stdout.strip() or done.stderr.strip()) if done.returncode == 0 else ""


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
