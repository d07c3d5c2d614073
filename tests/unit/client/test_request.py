"""Targets as the service itself reads them: path by its router, query by its parameters."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from streamer.client.request import MEDIA_TYPES, archive
from streamer.errors import InvalidReference
from streamer.export import plan
from streamer.web import parameters
from streamer.web.routes import ROUTES


@pytest.mark.parametrize(
    ("kind", "refs", "path"),
    [
        ("layer", ["sha256:ab"], "/v1/layers/sha256:ab/archive"),
        ("container", ["web"], "/v1/containers/web/archive"),
        ("container", ["a/b ?#%"], "/v1/containers/a%2Fb%20%3F%23%25/archive"),
        ("diff", ["web"], "/v1/containers/web/diff"),
        ("image", ["docker.io/a/b:1"], "/v1/images/docker.io/a/b:1/archive"),
        ("image", ["a@sha256:ab"], "/v1/images/a@sha256:ab/archive"),
        ("image", ["a:1", "b c"], "/v1/images/archive?name=a%3A1&name=b%20c"),
        ("rootfs", ["a/b:1"], "/v1/images/a/b:1/rootfs"),
        ("container", ["\udcff"], "/v1/containers/%FF/archive"),
    ],
)
def test_path(kind: str, refs: list[str], path: str) -> None:
    assert archive(kind, refs).target == path


@pytest.mark.parametrize("ref", ["", ".", "..", "a//b", "a/../b", "/a"])
def test_names_that_a_path_would_swallow(ref: str) -> None:
    with pytest.raises(InvalidReference):
        archive("image", [ref])


def test_every_option_arrives_as_it_was_given() -> None:
    given: dict[str, Any] = {
        "store": "mine",
        "compression": "zstd",
        "profile": "full",
        "include": ["a b", "*.py", "\udcff"],
        "exclude": ["&x=1", "+"],
        "mtime": 7,
        "path": b"etc/\xff \n",
        "pause": True,
        "length": "known",
    }
    request = archive("container", ["web"], **given)
    known = next(route.parameters for route in ROUTES if route.path == "/v1/containers/{container}/archive")
    read = parameters.read(make_mocked_request("GET", request.target), known)
    assert {name: getattr(value, "value", value) for name, value in read.items()} == given


def test_defaults_are_not_asked_for() -> None:
    assert "?" not in archive("image", ["a"], compression="none", format="oci").target
    assert archive("image", ["a"], format="docker-legacy").target.endswith("?format=docker-legacy")


def test_media_types_are_those_of_the_service() -> None:
    assert dict(MEDIA_TYPES) == {one.value: text for one, text in plan._MEDIA_TYPES.items()}
