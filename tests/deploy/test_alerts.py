"""The rules: accepted by promtool, each about metrics, labels and codes that exist, each firing when it should and not
otherwise, each with its paragraph in the runbook."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.manifests import ROOT

from streamer import errors
from streamer.export.plan import Kind
from streamer.jobs.job import State
from streamer.web import problems

RULES = ROOT / "deploy/alerts.yaml"
RUNBOOK = ROOT / "deploy/runbook.md"
ALERTS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]

OUTCOMES = {"complete", "client_gone", "stalled", "internal"}
"""Of an export, besides the code of what failed (web/respond.py)."""


@dataclass(frozen=True)
class Case:
    """`series` by name and labels, as promtool writes values: one a minute. After `minutes` the alert
    fires, with `quiet` in place of them it never does."""

    alert: str
    series: dict[str, str]
    quiet: dict[str, str]
    minutes: int = 40


def counter(step: float) -> str:
    return f"0+{step}x90"


def gauge(value: float) -> str:
    return f"{value}+0x90"


def buckets(name: str, labels: str, slow: bool) -> dict[str, str]:
    """A histogram of one observation a second: all below `le`, or all above it but below the next."""
    above = {"streamer_store_seconds": ("1", "10"), "streamer_loop_lag_seconds": ("0.5", "1")}
    low, high = above.get(name, ("10", "60"))
    return {
        f'{name}_bucket{{{labels}le="{low}"}}': counter(0 if slow else 60),
        f'{name}_bucket{{{labels}le="{high}"}}': counter(60),
        f'{name}_bucket{{{labels}le="+Inf"}}': counter(60),
    }


def exports(outcome: str, step: float) -> dict[str, str]:
    return {f'streamer_exports_total{{kind="container",outcome="{outcome}"}}': counter(step)}


def refused(code: str, step: float) -> dict[str, str]:
    return {f'streamer_problems_total{{code="{code}"}}': counter(step)}


CASES = [
    Case("StreamerDown", {'up{job="streamer"}': gauge(0)}, {'up{job="streamer"}': gauge(1)}),
    Case("StreamerFaulty", refused("internal", 1), refused("not_found", 9)),
    Case("StreamerFaulty", exports("internal", 1), exports("source_failed", 9)),
    Case(
        "StreamerExportsBreak",
        exports("source_failed", 1) | exports("complete", 9),
        exports("client_gone", 5) | exports("stalled", 5) | exports("complete", 9),
    ),
    Case("StreamerSourcesFail", refused("store_damaged", 2), refused("not_found", 100)),
    Case("StreamerNotPermitted", refused("not_permitted", 1), refused("forbidden", 1)),
    Case(
        "StreamerMountsFail", {"streamer_mounts_failed_total": counter(1)}, {"streamer_mounts_failed_total": gauge(7)}
    ),
    Case("StreamerExportsHang", {"streamer_abandoned_exports": gauge(1)}, {"streamer_abandoned_exports": gauge(0)}),
    Case(
        "StreamerLeasesLeft",
        {"streamer_leases": gauge(2), "streamer_open_exports": gauge(0)},
        {"streamer_leases": gauge(2), "streamer_open_exports": gauge(2)},
    ),
    Case("StreamerBusy", refused("busy", 1), refused("draining", 1)),
    Case("StreamerClientsStall", exports("stalled", 1), exports("client_gone", 9)),
    Case(
        "StreamerConnectionsRefused",
        {"streamer_connections_refused_total": counter(1)},
        {"streamer_connections_refused_total": gauge(1)},
    ),
    Case(
        "StreamerSlowHeaders",
        {"streamer_slow_headers_total": counter(120)},
        {"streamer_slow_headers_total": counter(6)},
    ),
    Case("StreamerCallersRefused", refused("unauthenticated", 120), refused("unauthenticated", 6)),
    Case(
        "StreamerStoreSlow",
        buckets("streamer_store_seconds", 'store="docker",', True),
        buckets("streamer_store_seconds", 'store="docker",', False),
    ),
    Case(
        "StreamerFirstByteSlow",
        buckets("streamer_first_byte_seconds", 'kind="container",', True),
        buckets("streamer_first_byte_seconds", 'kind="container",', False),
    ),
    Case(
        "StreamerLoopLags",
        buckets("streamer_loop_lag_seconds", "", True),
        buckets("streamer_loop_lag_seconds", "", False),
    ),
    Case(
        "StreamerJobsFail",
        {'streamer_jobs_ended_total{state="failed"}': counter(1)},
        {'streamer_jobs_ended_total{state="done"}': counter(1)},
    ),
    Case(
        "StreamerJobsWait",
        {'streamer_jobs{state="queued"}': gauge(1), 'streamer_jobs{state="running"}': gauge(4)},
        {'streamer_jobs{state="queued"}': gauge(0), 'streamer_jobs{state="running"}': gauge(4)},
        minutes=65,
    ),
]


def promtool() -> str:
    found = os.environ.get("PROMTOOL") or shutil.which("promtool")
    if not found:
        pytest.skip("not installed: promtool (.ci/run unpacks it; PROMTOOL names it)")
    return found


def test_accepted_by_prometheus() -> None:
    done = subprocess.run([promtool(), "check", "rules", RULES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


def test_each_fires_when_it_should_and_not_otherwise(tmp_path: Path) -> None:
    assert {case.alert for case in CASES} == {each["alert"] for each in ALERTS}
    tests = []
    for case in CASES:
        for series, expected in ((case.series, True), (case.quiet, False)):
            tests.append(
                {
                    "interval": "1m",
                    "input_series": [{"series": _named(name), "values": values} for name, values in series.items()],
                    "promql_expr_test": [
                        {
                            "expr": f'count(ALERTS{{alertname="{case.alert}",alertstate="firing"}}) or vector(0)',
                            "eval_time": f"{case.minutes}m",
                            "exp_samples": [{"labels": "{}", "value": int(expected)}],
                        }
                    ],
                }
            )
    (tmp_path / "tests.yaml").write_text(
        yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests})
    )
    done = subprocess.run(
        [promtool(), "test", "rules", tmp_path / "tests.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _named(series: str) -> str:
    """With the labels that every scrape adds."""
    name, _, labels = series.rstrip("}").partition("{")
    return f'{name}{{instance="node:8443"{"," if labels else ""}{labels}}}'


@pytest.mark.parametrize("alert", ALERTS, ids=lambda each: each["alert"])
def test_labels_are_ones_that_exist(alert: dict[str, Any]) -> None:
    codes = set(problems.STATUS) | {each.code for each in _all(errors.StreamerError)}
    known = {
        "code": codes,
        "outcome": codes | OUTCOMES,
        "kind": {each.value for each in Kind},
        "job": {"streamer"},
        "state": set(State),
    }
    for label, value in re.findall(r'(\w+)[=!]~?"([^"]*)"', alert["expr"]):
        assert set(value.split("|")) <= known[label], (label, value)


def _all(root: type[errors.StreamerError]) -> set[type[errors.StreamerError]]:
    return {root}.union(*(_all(each) for each in root.__subclasses__()))


@pytest.mark.parametrize("alert", ALERTS, ids=lambda each: each["alert"])
def test_the_runbook_says_what_to_do(alert: dict[str, Any]) -> None:
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert page == RUNBOOK.name
    headings = re.findall(r"^### (\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert anchor == alert["alert"].lower()
    assert alert["alert"] in headings


def test_the_runbook_knows_no_other_alerts() -> None:
    mentioned = set(re.findall(r"\bStreamer[A-Z]\w+", RUNBOOK.read_text()))
    assert mentioned == {each["alert"] for each in ALERTS}
