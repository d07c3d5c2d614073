"""Docker daemons of a test's own, where the one that all share would hold too much or is configured otherwise."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.engines import Command, Engines, needs


@contextmanager
def dockerd(
    engines: Engines, containerd: Path, name: str, *options: str, driver: str = "overlay2"
) -> Iterator[Command]:
    """The docker command for a daemon that ends, with all its containers, when the block is left. Its `root` is the
    data-root as the daemon was told."""
    needs("dockerd", "docker")
    home = engines.home / name
    home.mkdir()
    (home / "daemon.json").write_text(json.dumps({"features": {"containerd-snapshotter": False}}))
    # The classic builder: the other one is not part of the daemon's graph driver, nor everywhere of its command.
    settings = {"DOCKER_CONFIG": str(home), "DOCKER_BUILDKIT": "0"}
    client = engines.command("docker", "--host", f"unix://{home}/s", root=home / "data", **settings)
    command: list[str | Path] = ["dockerd", "--storage-driver", driver, *options]
    command += ["--containerd", containerd, "--containerd-namespace", name]
    command += ["--iptables=false", "--ip-forward=false", "--ip-masq=false", "--bridge=none", "--userland-proxy=false"]
    command += ["--config-file", home / "daemon.json", "--pidfile", home / "pid", "--host", f"unix://{home}/s"]
    command += ["--data-root", home / "data", "--exec-root", home / "exec"]
    with engines.daemon(name, *command, answers=lambda: client("version", limit=30)) as pid:
        yield client
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return  # killed by its test
        containers = client.text("ps", "-aq").split()
        if containers:
            client("rm", "-f", *containers)
