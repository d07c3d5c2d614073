"""Processes with exactly the privileges that are asked for: a user, some capabilities, no way to more.

    run(("streamer", "ls"), user=65532, capabilities=("sys_admin",))

The interpreter of the tests may lie below a directory that only its owner may enter. Each process has a mount namespace
of its own, in which those that lead to it are open to everybody, and what is named in `read_only` cannot be written.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
USER = 65532
"""No user of this machine; the one of the container image."""
READ = ("dac_read_search",)
BOTH = ("sys_admin", *READ)

# Of every closed directory only what leads on is left. Nothing of this is seen outside of the namespace.
SET_UP = """
set -e
for closed in $CLOSED; do
  mount --bind "$INSIDE" /mnt
  mount -t tmpfs -o mode=755 tmpfs "$closed"
  mkdir -p "$INSIDE"
  mount --move /mnt "$INSIDE"
done
for place in $READ_ONLY; do
  mount --bind "$place" "$place"
  mount -o remount,bind,ro "$place"
done
exec "$@"
"""


def streamer(*arguments: object) -> tuple[str, ...]:
    """The command line of `streamer ARGUMENTS`."""
    return (sys.executable, "-W", "error", "-m", "streamer", *map(str, arguments))


def prefix(user: int, capabilities: Sequence[str]) -> tuple[str, ...]:
    """What goes before a command for it to run as `user` with these capabilities (`sys_admin`) and no others. A user
    other than root is given them as ambient ones, as systemd does; root has what its bounding set allows, as in a
    container."""
    held = "".join(f",+{each}" for each in capabilities)
    # Of the capabilities that this process itself lacks, none can be taken from the bounding set.
    base = ("setpriv", "--no-new-privs", f"--bounding-set=-all{held}")
    if user == 0:
        return (*base, "--inh-caps=-all")
    who = (f"--reuid={user}", f"--regid={user}", "--clear-groups")
    return (*base, *who, f"--inh-caps=-all{held}", f"--ambient-caps=-all{held}")


def command(
    arguments: Sequence[str], user: int = 0, capabilities: Sequence[str] = (), options: Sequence[str] = ()
) -> tuple[str, ...]:
    """The whole command line; `options` are further ones of unshare(1)."""
    return ("unshare", "--mount", *options, "sh", "-c", SET_UP, "sh", *prefix(user, capabilities), *arguments)


def environment(read_only: Sequence[Path] = (), **more: str) -> Mapping[str, str]:
    """The variables that `command` needs, and `more`."""
    inside = Path(sys.base_prefix)
    closed = [str(each) for each in reversed(inside.parents) if not os.stat(each).st_mode & 0o001]
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "STREAMER_DISCOVER": "0",
        "CLOSED": " ".join(closed[:1]),
        "INSIDE": str(inside),
        "READ_ONLY": " ".join(map(str, read_only)),
        **more,
    }


def run(
    arguments: Sequence[str],
    user: int = 0,
    capabilities: Sequence[str] = (),
    *,
    read_only: Sequence[Path] = (),
    **more: str,
) -> subprocess.CompletedProcess[bytes]:
    """Runs it to its end."""
    return subprocess.run(
        command(arguments, user, capabilities),
        env=environment(read_only, **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
        cwd="/",
    )


@contextmanager
def serving(
    arguments: Sequence[object],
    user: int = 0,
    capabilities: Sequence[str] = (),
    *,
    read_only: Sequence[Path] = (),
    **more: str,
) -> Iterator[list[str]]:
    """`streamer ARGUMENTS`, which serves, until the block is left; its addresses. It has to end with 0."""
    process = subprocess.Popen(
        command(streamer(*arguments), user, capabilities),
        env=environment(read_only, **more),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd="/",
    )
    assert process.stderr is not None
    try:
        said = b""
        for line in process.stderr:
            said += line
            if b'"serving"' in line:
                yield json.loads(line)["addresses"]
                break
        else:
            raise AssertionError(said.decode())
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0
