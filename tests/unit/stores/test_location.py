"""Locations of stores as `--store` takes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamer.errors import InvalidRequest
from streamer.stores.location import Location, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mine=local:/srv/store", Location("mine", "local", "/srv/store")),
        ("d=docker:/var/lib/docker", Location("d", "docker", "/var/lib/docker")),
        ("d=docker:/x+/run/d.sock", Location("d", "docker", "/x", "/run/d.sock")),
        ("d=docker:/a+b", Location("d", "docker", "/a+b")),
        ("d=docker:/a+b+/run/s", Location("d", "docker", "/a+b", "/run/s")),
        ("c=containers-storage:/g+/r", Location("c", "containers-storage", "/g", "/r")),
        ("c=containerd:/s", Location("c", "containerd", "/s")),
        ("c=containerd:/s#k8s.io", Location("c", "containerd", "/s", "k8s.io")),
        ("o=oci-layout:/a#b+/c", Location("o", "oci-layout", "/a#b+/c")),
        ("n=local:rel=ative:x", Location("n", "local", "rel=ative:x")),
    ],
)
def test_parsed(text: str, expected: Location) -> None:
    assert parse(text) == expected
    assert f"{expected.name}={expected.text}" == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not NAME=KIND:LOCATION"),
        ("docker:/var/lib/docker", "is not NAME=KIND:LOCATION"),
        ("d=docker:", "is not NAME=KIND:LOCATION"),
        ("=docker:/x", "is not NAME=KIND:LOCATION"),
        ("d=/x", "is not NAME=KIND:LOCATION"),
        ("d=btrfs:/x", "'btrfs' is not a kind of store: local, docker, containers-storage, containerd, oci-layout"),
        ("a b=docker:/x", "a store's name is"),
        ("/=docker:/x", "a store's name is"),
    ],
)
def test_refused(text: str, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        parse(text)


def test_a_directory_that_is_there_is_meant_as_a_whole(tmp_path: Path) -> None:
    place = tmp_path / "c++" / "docker"
    place.mkdir(parents=True)
    assert parse(f"x=docker:{place}") == Location("x", "docker", str(place))
