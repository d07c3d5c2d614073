"""The lists: everything in the store, in the shape that the document promises."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from support.sites import LIKE_TWO, ONE, PORT, TWO, Site

from streamer.web.openapi import document


def listed(site: Site, path: str, schema: str) -> list[dict[str, Any]]:
    answer = site.ask(path)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("application/json")
    value: list[dict[str, Any]] = json.loads(answer.body)
    Draft202012Validator({**document(), "$ref": f"#/components/schemas/{schema}"}).validate(value)
    return value


def test_stores(site: Site) -> None:
    kind, _, location = site.store.location.partition(":")
    assert listed(site, "/v1/stores", "Stores") == [{"name": "local", "kind": kind, "location": location}]


@pytest.mark.parametrize("query", ["", "?store=local"])
def test_images(site: Site, query: str) -> None:
    found = {each["id"]: each for each in listed(site, f"/v1/images{query}", "Images")}
    assert found.keys() == {made.id for made in (ONE, TWO, PORT, LIKE_TWO)}
    for made in (ONE, TWO, PORT, LIKE_TWO):
        value = found[made.id]
        assert value["names"] == made.names
        assert value["layers"] == made.diff_ids
        assert value["size"] == sum(map(len, made.layers))
        assert (value["store"], value["os"], value["architecture"]) == ("local", "linux", "amd64")


def test_containers(site: Site) -> None:
    found = {each["name"]: each for each in listed(site, "/v1/containers", "Containers")}
    assert found.keys() == {"box", *(f"many-{number}" for number in range(17))}
    assert found["box"]["image"] == TWO.id
    assert found["box"]["image_name"] == "two:latest"
    assert found["box"]["status"] == ""


def test_layers(site: Site) -> None:
    found = listed(site, "/v1/layers", "Layers")
    sizes = {each["diff_id"]: each["size"] for each in found}
    expected = {
        diff_id: len(data)
        for made in (ONE, TWO, PORT, LIKE_TWO)
        for diff_id, data in zip(made.diff_ids, made.layers, strict=True)
    }
    assert sizes == expected
    assert len(found) == len(expected), "a layer that images share is listed once"
