from __future__ import annotations

from collections.abc import Iterator

import pytest
from support import sites
from support.sites import Site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One served store for all tests of a module: they change nothing in it."""
    with sites.site(tmp_path_factory.mktemp("site") / "state") as opened:
        yield opened
