"""`pause=` over HTTP: where it is known, what it may be, and a container that no engine runs."""

from __future__ import annotations

import pytest
from support.asking import problem
from support.sites import Site

CONTAINERS = ["/v1/containers/box/archive", "/v1/containers/box/diff"]
OTHERS = ["/v1/images/two/rootfs", "/v1/images/two/archive", "/v1/containers/box/changes"]


@pytest.mark.parametrize("target", CONTAINERS)
def test_nothing_to_pause_with(site: Site, target: str) -> None:
    answer = site.ask(f"{target}?pause=true")
    assert answer.status == 422
    assert problem(answer)["detail"].startswith("cannot pause container box of store ")


@pytest.mark.parametrize("target", CONTAINERS)
def test_not_asked_for(site: Site, target: str) -> None:
    assert site.get(f"{target}?pause=false") == site.get(target)


@pytest.mark.parametrize("value", ["", "1", "True", "yes", "%FF"])
def test_other_values(site: Site, value: str) -> None:
    answer = site.ask(f"{CONTAINERS[0]}?pause={value}")
    assert answer.status == 400
    assert "possible: true, false" in problem(answer)["detail"]


@pytest.mark.parametrize("target", OTHERS)
def test_elsewhere_it_is_unknown(site: Site, target: str) -> None:
    answer = site.ask(f"{target}?pause=true")
    assert answer.status == 400
    assert "unknown parameter 'pause'" in problem(answer)["detail"]
