from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from streamer import log


@pytest.fixture(autouse=True)
def quiet_logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command run in this process must not bind its loggers to a standard error that ends with the test."""
    monkeypatch.setattr(log, "configure", lambda *args: None)
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), cache_logger_on_first_use=False)
    yield
    structlog.configure(**before)
