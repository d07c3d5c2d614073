"""What is known of a request afterwards: IDs, the access log, metrics, traces."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families
from support.asking import ask
from support.clients import Client
from support.keys import Keys
from support.planned import TARGET, Planned, PlannedSite, planned_site
from support.stores import DirectoryStore

from streamer import tracing
from streamer.access.scope import EVERYTHING
from streamer.errors import SourceFailed
from streamer.stores.catalog import Catalog
from streamer.web.operations import watched
from streamer.web.site import Site

DATA = bytes(200_000)


@pytest.fixture
def site() -> Iterator[PlannedSite]:
    with planned_site(Planned(DATA)) as opened:
        yield opened


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as caught:
        yield caught


@pytest.mark.parametrize("given", ["a", "7f3c-1", "Root=1-67891233-abcdef012345678912345678", "x" * 128, "a@b/c+d=~."])
def test_an_id_that_is_given_is_kept(site: PlannedSite, given: str) -> None:
    for target in (TARGET, "/healthz", "/nothing"):
        assert ask(site.port, target, headers=f"X-Request-Id: {given}\r\n").headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", " ", "a b", "x" * 129, '"', "ü", "a\x1b[31m", "a,b", "-a", "{}", "a\tb"])
def test_another_is_replaced(site: PlannedSite, given: str) -> None:
    with Client(site.port) as client:
        client.send(f"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {given}\r\n\r\n".encode())
        answer = client.answer()
    if answer.status != 400:
        assert answer.headers["x-request-id"] != given
        assert len(answer.headers["x-request-id"]) == 16
    assert ask(site.port, "/healthz").headers["x-request-id"] != ask(site.port, "/healthz").headers["x-request-id"]


def lines(logs: list[Any], event: str, count: int = 0) -> list[dict[str, Any]]:
    """Those of an event, once there are `count`: a client may have its answer before anything is said of it."""
    comes(lambda: sum(each["event"] == event for each in logs) >= count)
    return [each for each in logs if each["event"] == event]


def comes(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_one_line_a_request_and_the_id_in_all(site: PlannedSite, logs: list[Any]) -> None:
    answer = ask(site.port, f"{TARGET}?length=unknown", headers="X-Request-Id: one\r\n")
    assert answer.body == DATA
    (line,) = lines(logs, "request", 1)
    assert line.pop("seconds") >= 0
    assert line == {
        "event": "request",
        "log_level": "info",
        "request_id": "one",
        "method": "GET",
        "path": TARGET,
        "status": 200,
        "bytes": len(DATA),
        "client": "127.0.0.1",
        "outcome": "complete",
    }
    (export,) = lines(logs, "export complete", 1)
    assert export["request_id"] == "one", "although another thread said it"


def test_a_body_that_was_broken_off(site: PlannedSite, logs: list[Any]) -> None:
    def fault(chunks: Iterator[bytes]) -> Iterator[bytes]:
        for _ in range(5):
            yield next(chunks)
        raise SourceFailed("Input/output error")

    site.planned.fault, site.planned.piece = fault, 1000
    assert not ask(site.port, TARGET, headers="X-Request-Id: two\r\n").complete
    site.idle()
    (line,) = lines(logs, "request", 1)
    assert (line["outcome"], line["status"], line["request_id"]) == ("source_failed", None, "two")
    assert {each["request_id"] for each in logs} == {"two"}


def test_problems_and_probes(site: PlannedSite, logs: list[Any]) -> None:
    ask(site.port, "/nothing%1b%0a?x=%00")
    ask(site.port, "/healthz")
    probe, problem = sorted(lines(logs, "request", 2), key=lambda line: line["path"])
    assert (problem["status"], problem["path"]) == (404, "/nothing%1b%0a")
    assert problem["bytes"] > 0
    assert (probe["log_level"], problem["log_level"]) == ("debug", "info")


def test_tokens_are_named_and_never_shown(tmp_path, logs: list[Any]) -> None:
    keys = Keys(tmp_path / "tokens")
    secret = keys.add("backup", EVERYTHING)
    with planned_site(Planned(DATA), keys=keys.watched()) as site:
        assert ask(site.port, TARGET, headers=keys.header("backup")).status == 200
        assert ask(site.port, TARGET, headers="Authorization: Bearer wrong\r\n").status == 401
    # In whatever order: the first may be told of after the second was answered.
    assert sorted(each["client"] for each in lines(logs, "request", 2)) == ["127.0.0.1", "token backup"]
    assert secret not in repr(logs)


def test_it_can_be_turned_off(logs: list[Any]) -> None:
    with planned_site(Planned(DATA), access_log=False) as site:
        assert ask(site.port, TARGET).headers["x-request-id"]
    assert lines(logs, "request") == []


def test_metrics(site: PlannedSite) -> None:
    ask(site.port, TARGET)
    ask(site.port, "/nothing")
    text = ask(site.port, "/metrics").body.decode()
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["streamer_first_byte_seconds_count", "container"] == 1
    assert found["streamer_problems_total", "not_found"] == 1
    assert found[("streamer_connections",)] >= 1
    assert found[("streamer_abandoned_exports",)] == 0


def test_what_others_count(site: PlannedSite) -> None:
    made = Site(
        catalog=Catalog({"memory": DirectoryStore()}),
        local=None,
        exporter=site.running.exporter,
        background=site.running.background,
    )
    watched(made)
    site.portal.call(made.catalog.containers)
    made.exporter.mounts.on_mounted(0.5)
    made.connections.refused, made.connections.slow = 3, 4
    text = made.metrics.text().decode()
    for line in (
        'streamer_store_seconds_count{store="memory"} 1.0',
        "streamer_mount_seconds_sum 0.5",
        "streamer_connections_refused_total 3.0",
        "streamer_slow_headers_total 4.0",
        "streamer_mounts_failed_total 0.0",
    ):
        assert line in text


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    tracing.configure("http://127.0.0.1:9")
    exporter = InMemorySpanExporter()
    provider = tracing._provider
    provider._active_span_processor._span_processors = (SimpleSpanProcessor(exporter),)
    yield exporter
    tracing.close()
    provider.shutdown()


def test_traces(site: PlannedSite, spans: InMemorySpanExporter) -> None:
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    answer = ask(site.port, f"{TARGET}?length=known", headers=f"traceparent: 00-{trace}-{parent}-01\r\n")
    assert answer.body == DATA
    comes(lambda: len(spans.get_finished_spans()) == 5)
    found = {each.name: each for each in spans.get_finished_spans()}
    assert set(found) == {"request", "plan", "first byte", "outline", "stream"}
    assert {f"{each.context.trace_id:032x}" for each in found.values()} == {trace}
    request = found["request"]
    assert f"{request.parent.span_id:016x}" == parent
    for name, above in (
        ("plan", "request"),
        ("first byte", "request"),
        ("stream", "request"),
        ("outline", "first byte"),
    ):
        assert found[name].parent.span_id == found[above].context.span_id, name
    assert request.attributes["request_id"] == answer.headers["x-request-id"]


def test_a_failure_marks_its_spans(site: PlannedSite, spans: InMemorySpanExporter) -> None:
    site.planned.refusal = SourceFailed("nothing there")
    assert ask(site.port, f"{TARGET}?length=known").status == 500
    comes(lambda: {"request", "outline", "first byte"} <= {each.name for each in spans.get_finished_spans()})
    failed = {each.name for each in spans.get_finished_spans() if not each.status.is_ok}
    assert {"outline", "first byte"} <= failed


def test_nothing_of_it_is_imported_unless_wanted() -> None:
    code = "import sys, streamer.service, streamer.web.app; sys.exit('opentelemetry' in ' '.join(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
