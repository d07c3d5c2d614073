"""Traces for OpenTelemetry, off unless configured: until then nothing of it is imported, and a span costs a comparison.

Spans of a request: `request`, in it `plan`, `first byte` (with `outline`, in the export's own thread) and `stream`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from streamer import __version__
from streamer.errors import InvalidRequest

_tracer: Any = None
_provider: Any = None
_FLUSH = 2000
"""Milliseconds for the last spans."""


def configure(endpoint: str) -> None:
    """Send spans to the collector at this base URL, which takes OTLP over HTTP. InvalidRequest without the library."""
    global _tracer, _provider
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise InvalidRequest(
            "traces need the extra `tracing` (pip install 'streamer[tracing]')", parameter="otlp_endpoint"
        ) from None
    resource = Resource.create({"service.name": "streamer", "service.version": __version__})
    _provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")))
    _tracer = _provider.get_tracer("streamer", __version__)


def close() -> None:
    """Sends what is left, in two seconds at most, and goes on without. Blocks: for a thread."""
    global _tracer, _provider
    provider, _tracer, _provider = _provider, None, None
    if provider is not None:
        provider.force_flush(_FLUSH)


@contextmanager
def span(name: str, headers: Mapping[str, str] | None = None, **attributes: str | int) -> Iterator[None]:
    """A span for the block, below the one around it; with `headers`, below the one that a request says it comes from
    (`traceparent`). An exception marks it as failed."""
    if _tracer is None:
        yield
        return
    context = None
    if headers is not None:
        from opentelemetry.propagate import extract

        context = extract(headers)
    with _tracer.start_as_current_span(name, context=context, attributes=attributes):
        yield
