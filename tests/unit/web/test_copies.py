"""`POST /v1/copies`: a context comes in, one image with files of it comes out, or a problem and nothing at all."""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from support import images, sites
from support.asking import problem
from support.clients import Answer
from support.images import directory, file, layer, symlink
from support.keys import Keys, scope
from support.sites import Site

from streamer.access.scope import EVERYTHING, READING, Kind

INNER = layer(file("inner", b"inside", uid=3))
CONTEXT = layer(
    file("one", b"1", uid=12),
    directory("dir", mode=0o700),
    file("dir/a", b"a"),
    symlink("out", "../../../etc/passwd"),
    file("inner.tgz", gzip.compress(INNER)),
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    made = Keys(tmp_path_factory.mktemp("keys") / "tokens")
    made.add("all", EVERYTHING)
    made.add("build", scope([Kind.BUILD]))
    made.add("reading", scope(READING))
    made.add("elsewhere", scope([Kind.BUILD], stores=["docker"]))
    made.add("team", scope([Kind.BUILD], names=["team/*"]))
    return made


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, keys: Keys) -> Iterator[Site]:
    state = tmp_path_factory.mktemp("site") / "state"
    with sites.site(state, keys=keys.watched(), max_import_bytes=1 << 20, upload_timeout=60) as opened:
        yield opened
        for _ in range(6000):
            if not os.listdir(state / "staging"):
                break
            time.sleep(0.01)
        assert os.listdir(state / "staging") == []
        assert opened.running.background.running == 0


def post(site: Site, keys: Keys, query: str, data: bytes = CONTEXT, key: str = "all") -> Answer:
    return site.ask(f"/v1/copies?{query}", "POST", keys.header(key), data)


def said(answer: Answer) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(answer.body)
    assert answer.headers["location"] == f"/v1/images/{value['image']['id']}/archive"
    return value


@pytest.mark.parametrize("compression", images.COMPRESS)
def test_a_context_in_any_compression(site: Site, keys: Keys, compression: str) -> None:
    data = images.COMPRESS[compression](CONTEXT)
    query = "image=two&source=one&source=dir&destination=/x/&chown=7&t=copied:1&t=other&nocache=true"
    answer = post(site, keys, query, data)
    assert answer.status == 201, answer
    value = said(answer)
    assert value["cached"] is False
    assert value["created_by"].startswith("/bin/sh -c #(nop) COPY --chown=7 multi:")
    made = site.call(site.store.image, "copied:1")
    assert made.id == value["image"]["id"]
    assert value["image"]["names"] == ["copied:1", "other:latest"]
    assert made.layers[-1].diff_id == value["image"]["layers"][-1]
    assert b"".join(made.layers[-1].assemble()).count(b"x/one\0") == 1


def test_the_second_time_it_is_there_already(site: Site, keys: Keys) -> None:
    query = "image=two&source=dir&destination=/cached"
    first, again = post(site, keys, query), post(site, keys, query, gzip.compress(CONTEXT))
    assert (first.status, again.status) == (201, 200)
    assert said(again) == {**said(first), "cached": True}
    other = post(site, keys, query, layer(directory("dir", mode=0o711)))
    assert (other.status, said(other)["image"]["id"] == said(first)["image"]["id"]) == (201, False)


def test_add_unpacks(site: Site, keys: Keys) -> None:
    answer = post(site, keys, "image=scratch&source=inner.tgz&destination=/&add=true")
    assert answer.status == 201, answer
    assert said(answer)["created_by"].startswith("/bin/sh -c #(nop) ADD file:")


FAILURES: dict[str, tuple[str, int, str, str]] = {
    "no image": ("image=nothing&source=one&destination=/x", 404, "not_found", "nothing"),
    "missing": ("image=two&source=missing&destination=/x", 404, "not_found", "missing: file not found"),
    "outside": ("image=two&source=../x&destination=/x", 400, "invalid_request", "forbidden path outside"),
    "a link that leads out": ("image=two&source=out&destination=/x", 404, "not_found", "out: file not found"),
    "several": ("image=two&source=one&source=dir&destination=/x", 400, "invalid_request", "more than one source"),
    "no source": ("image=two&destination=/x", 400, "invalid_request", "parameter source is missing"),
    "no destination": ("image=two&source=one", 400, "invalid_request", "parameter destination is missing"),
    "a NUL": ("image=two&source=a%00&destination=/x", 400, "invalid_request", "parameter source cannot be"),
    "an owner": ("image=two&source=one&destination=/x&chown=me", 400, "invalid_request", "no user 'me'"),
    "a mode": ("image=two&source=one&destination=/x&chmod=9", 400, "invalid_request", "--chmod=9"),
    "a name": ("image=two&source=one&destination=/x&t=A", 400, "invalid_reference", "'A'"),
    "a URL": ("image=two&source=http://x/y&destination=/x&add=true", 403, "not_permitted", "the setting fetch"),
    "a URL of COPY": ("image=two&source=http://x/y&destination=/x", 400, "invalid_request", "COPY cannot take a URL"),
    "unknown": ("image=two&source=one&destination=/x&from=y", 400, "invalid_request", "from"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures(site: Site, keys: Keys, name: str) -> None:
    query, status, code, message = FAILURES[name]
    answer = post(site, keys, query)
    assert answer.status == status, answer
    members = problem(answer)
    assert members["code"] == code
    assert message in members["detail"]


BAD: dict[str, tuple[bytes, int, str]] = {
    "cut": (CONTEXT[:1500], 400, "invalid_archive"),
    "a name that leads out": (layer(file("../x", b"x")), 400, "invalid_archive"),
    "a bomb": (gzip.compress(layer(file("x", bytes(2 << 20)))), 413, "limit_exceeded"),
    "no archive": (b"FROM scratch\n" * 100, 400, "invalid_archive"),
    "nothing": (b"", 400, "invalid_archive"),
}


@pytest.mark.parametrize("name", BAD)
def test_contexts_that_are_refused(site: Site, keys: Keys, name: str) -> None:
    data, status, code = BAD[name]
    answer = post(site, keys, "image=two&source=*&destination=/x/", data)
    assert (answer.status, problem(answer)["code"]) == (status, code)


SCOPES: dict[str, tuple[str, str, str, int]] = {
    "a build": ("build", "two", "", 201),
    "a token for reading": ("reading", "two", "", 403),
    "another store": ("elsewhere", "two", "", 403),
    "no name": ("team", "scratch", "", 403),
    "a name of others": ("team", "scratch", "&t=mine", 403),
    "an allowed name": ("team", "scratch", "&t=team/x", 201),
    "an image of others": ("team", "two", "&t=team/x", 403),
    "an allowed image": ("team", "team/app/one:1", "&t=team/x", 201),
}


def test_copies_count_as_builds(tmp_path: Path) -> None:
    limiter = anyio.CapacityLimiter(1)
    with sites.site(tmp_path / "state", builds=limiter) as site:
        site.call(limiter.acquire_on_behalf_of, limiter)
        path = "/v1/copies?image=two&source=one&destination=/busy"
        answer = site.ask(path, "POST", "", CONTEXT)
        assert (answer.status, problem(answer)["code"]) == (503, "busy")
        limiter.release_on_behalf_of(limiter)
        assert site.ask(path, "POST", "", CONTEXT).status == 201
        assert limiter.borrowed_tokens == 0


@pytest.mark.parametrize("name", SCOPES)
def test_what_a_token_allows(site: Site, keys: Keys, name: str) -> None:
    key, image, more, status = SCOPES[name]
    answer = post(site, keys, f"image={image}&source=one&destination=/{key}&nocache=true{more}", key=key)
    assert answer.status == status, answer
