from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from support.commandline import run
from support.sample import archive as made

from streamer import log


@pytest.fixture(autouse=True)
def quiet_logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command run in this process must not bind its loggers to a standard error that ends with the test."""
    monkeypatch.setattr(log, "configure", lambda *args: None)
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), cache_logger_on_first_use=False)
    yield
    structlog.configure(**before)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`support.sample.IMAGE`, saved."""
    path = tmp_path_factory.mktemp("archive") / "sample.tar"
    path.write_bytes(made())
    return path


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory, archive: Path) -> Path:
    """A store with that image, for tests that change nothing in it."""
    path = tmp_path_factory.mktemp("sample") / "state"
    assert run("--state", path, "import", archive).returncode == 0
    return path


@pytest.fixture
def state(tmp_path: Path, sample: Path) -> Path:
    """A copy of `sample` of the test's own."""
    subprocess.run(["cp", "-a", sample, tmp_path / "state"], check=True)
    return tmp_path / "state"
