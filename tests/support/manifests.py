"""The manifests of deploy/kubernetes as Kubernetes gets them."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"


def program(name: str) -> str:
    """The path of a program that a wheel of the development group brings; skips the test without it."""
    path = Path(sysconfig.get_path("scripts"), name)
    if not path.exists():
        pytest.skip(f"not installed: {name} (requirements/dev.txt)")
    return str(path)


def rendered(directory: str) -> str:
    """What `kubectl kustomize` makes of a directory, as YAML."""
    command = [program("kubectl"), "kustomize", str(KUBERNETES / directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def documents(directory: str) -> list[dict[str, Any]]:
    """The same as documents."""
    return list(yaml.safe_load_all(rendered(directory)))


def pods(directory: str) -> list[dict[str, Any]]:
    """The specification of each pod that is made of it."""
    return [each["spec"]["template"]["spec"] for each in documents(directory) if "template" in each.get("spec", {})]


def streamer(pod: dict[str, Any]) -> dict[str, Any]:
    """streamer's own container in a pod."""
    containers = [*pod["containers"], *pod.get("initContainers", ())]
    (found,) = (each for each in containers if each["name"] == "streamer")
    return dict(found)


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container["env"]}
