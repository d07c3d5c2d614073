"""What holds for every test: marks that need a privilege, and skips that CI does not accept."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from support import overlays

pytest_plugins = ["support.engines"]

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

NO_SKIPS = "STREAMER_NO_SKIPS"
"""Set to 1 where everything a test could need is there: a skip would hide a test that this machine can run."""

# Settings of whoever runs the tests are nothing a test may depend on either; STREAMER_TEST_* are the tests' own.
for name in [name for name in os.environ if name.upper().startswith("STREAMER_")]:
    if name != NO_SKIPS and not name.startswith("STREAMER_TEST_"):
        del os.environ[name]

os.environ["STREAMER_DISCOVER"] = "0"  # what engines of the machine itself hold is nothing a test may depend on

# Children of tests with a `preexec_fn` run Python before they become another program: gRPC would start its threads
# again in there, and abort when their descriptors are closed.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"


# How long an example takes, or its making, says something of the machine only.
settings.register_profile("streamer", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("streamer")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") and (reason := overlays.possible()):
        pytest.skip(f"{reason} (run the tests as root on a kernel with overlayfs)")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _without_skips((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _without_skips((yield))


def _without_skips(report: Report) -> Report:
    """The report, failed instead of skipped where skips are forbidden; an expected failure is not a skip."""
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get(NO_SKIPS) == "1":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: {reason}; skips are forbidden here ({NO_SKIPS}=1)"
    return report
