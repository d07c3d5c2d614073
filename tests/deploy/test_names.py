"""Whatever deploy/ names of streamer exists: settings, commands and options, paths, metrics, exit codes, pages."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.commandline import run
from support.manifests import ROOT
from typer.main import get_command

from streamer.cli.main import app
from streamer.metrics import Metrics
from streamer.settings import Settings
from streamer.web import operations
from streamer.web.routes import ROUTES

DEPLOY = ROOT / "deploy"
OTHER = {"STREAMER_CONFIG", "STREAMER_TOKEN_FILE"}
"""Variables that are no settings (settings.py)."""
MADE_BY_KUBERNETES = {"STREAMER_PORT"}

_listed = subprocess.run(["git", "ls-files", "deploy"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
FILES = [ROOT / name for name in _listed.splitlines()] or [each for each in DEPLOY.rglob("*") if each.is_file()]
TEXTS = {str(file.relative_to(DEPLOY)): file.read_text() for file in FILES if file.name != "sample.py"}


def all_of(pattern: str) -> set[tuple[str, Any]]:
    return {(name, match) for name, text in TEXTS.items() for match in re.findall(pattern, text)}


def test_something_is_looked_at() -> None:
    assert {"README.md", "runbook.md", "alerts.yaml", "systemd/streamer.service"} <= set(TEXTS)
    assert len(all_of(r"STREAMER_\w+")) > 30


def test_variables() -> None:
    known = {f"STREAMER_{name.upper()}" for name in Settings.model_fields} | OTHER | MADE_BY_KUBERNETES
    assert [each for each in all_of(r"\bSTREAMER_[A-Z0-9_]+\b") if each[1] not in known] == []


def test_metrics() -> None:
    metrics = Metrics()
    for name in re.findall(r'"(streamer_\w+)"', Path(operations.__file__).read_text()):
        metrics.count(name, name, lambda: 0)  # those that others keep are registered where the site is made
    known = set()
    for family in text_string_to_metric_families(metrics.text().decode()):
        kinds = {
            "counter": ("_total",),
            "gauge": ("",),
            "histogram": ("", "_bucket", "_sum", "_count"),
        }
        known |= {family.name + ending for ending in kinds[family.type]}
    named = {each for each in all_of(r"\bstreamer_[a-z_]+\b(?!\.)") if not each[0].endswith(".py")}
    assert [each for each in named if each[1] not in known] == []
    assert len(named) > 15


def test_paths() -> None:
    patterns = [re.compile(re.sub(r"\{\w+\}", "[^/ ]+", route.path) + r"(?:\?.*)?") for route in ROUTES]
    named = all_of(r"(?<![\w.-])(/(?:v1|healthz|readyz|metrics)\b[\w/.{}-]*)")
    assert [each for each in named if not any(pattern.fullmatch(each[1]) for pattern in patterns)] == []
    assert {each[1] for each in named} >= {"/healthz", "/readyz", "/metrics", "/v1/exports"}


def test_commands_and_options() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for name, line in all_of(r"(?:^|[`$ ])streamer ((?:token new|[a-z]+)(?: [^`\n|>]*)?)[`\n|>]"):
        words = line.split()
        if words[0] not in commands:
            # A sentence about streamer, and none that could be taken for a command.
            assert not any(word.startswith("--") for word in words), (name, line)
            continue
        options = {option for each in commands[words[0]].params for option in each.opts}
        assert {word for word in words if word.startswith("--")} <= options, (name, line)


@pytest.mark.parametrize("command", ["serve", "doctor", "token", "export"])
def test_commands_that_are_named_are_there(command: str) -> None:
    assert run(command, "--help").returncode == 0


def test_ports_and_sockets_agree() -> None:
    """One port for TLS, one for plain HTTP on loopback or behind a published port, one socket."""
    assert {each[1] for each in all_of(r"(?<=:)8\d{3}\b")} <= {"8080", "8443", "8333"}
    assert {each[1] for each in all_of(r"/run/streamer/[\w.]+")} == {"/run/streamer/streamer.sock"}


def test_links() -> None:
    for name, target in all_of(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)"):
        assert (DEPLOY / name).parent.joinpath(target).exists(), (name, target)


def test_headings_that_are_linked_to() -> None:
    def anchor_of(heading: str) -> str:
        return re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")

    headings = {name: re.findall(r"^#+ (.*)$", text, re.MULTILINE) for name, text in TEXTS.items()}
    anchors = {name: {anchor_of(each) for each in found} for name, found in headings.items()}
    for name, (page, anchor) in all_of(r"\]\(([^)#:\s]*)#([^)]*)\)"):
        assert anchor in anchors[page or name], (name, page, anchor)
