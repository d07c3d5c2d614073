"""Nobody gets in: every route, with every kind of token; and what a scope leaves out is as if it were not there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from support import images, sites
from support.asking import problem
from support.clients import Client
from support.exporting import asked, ended
from support.images import file, layer
from support.keys import Keys, scope
from support.sites import LIKE_TWO, ONE, PORT, TWO, Site

from streamer.access.scope import EVERYTHING, Kind
from streamer.errors import Forbidden
from streamer.stores.catalog import Catalog
from streamer.stores.local.store import LocalStore
from streamer.web.callers import CALLER, Caller
from streamer.web.openapi import document
from streamer.web.permitted import may_know, require_source
from streamer.web.routes import ROUTES
from streamer.web.site import SITE

PAST = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    made = Keys(tmp_path_factory.mktemp("keys") / "tokens")
    made.add("all", EVERYTHING)
    made.add("nothing", scope([]))
    made.add("expired", EVERYTHING, PAST)
    for kind in Kind:
        made.add(kind, scope([kind]))
    made.add("elsewhere", scope(stores=["docker"]))
    made.add("nowhere", scope(stores=[]))
    made.add("team", scope(names=["team/*", "box"]))
    made.add("nobody", scope(names=[]))
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, keys: Keys, folder: Path) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("site")
    with sites.site(root / "state", keys=keys.watched(), jobs=root / "jobs", directories=[folder]) as opened:
        yield opened


@pytest.fixture(scope="module")
def job(site: Site, keys: Keys, folder: Path) -> str:
    """An export job that ended, of an image."""
    authorization = f"Bearer {keys.secrets['all']}"
    body = {"source": {"kind": "image", "ref": "two"}, "destination": f"file://{folder}/two.tar"}
    status, made, _ = asked(site.port, "POST", "/v1/exports", body, Authorization=authorization)
    assert status == 201, made
    assert ended(site.port, made["id"], Authorization=authorization)["state"] == "done"
    return str(made["id"])


TARGETS: dict[str, tuple[str, Kind | None]] = {
    "/v1/stores": ("/v1/stores", Kind.LIST),
    "/v1/images": ("/v1/images", Kind.LIST),
    "/v1/containers": ("/v1/containers", Kind.LIST),
    "/v1/layers": ("/v1/layers", Kind.LIST),
    "/v1/layers/{digest}/archive": (f"/v1/layers/{ONE.diff_ids[0]}/archive", Kind.LAYER),
    "/v1/containers/{container}/archive": ("/v1/containers/box/archive", Kind.CONTAINER),
    "/v1/containers/{container}/diff": ("/v1/containers/box/diff", Kind.DIFF),
    "/v1/containers/{container}/changes": ("/v1/containers/box/changes", Kind.CHANGES),
    "/v1/images/archive": ("/v1/images/archive?name=team/app/one:1", Kind.IMAGE),
    "/v1/images/{image}/archive": ("/v1/images/team/app/one:1/archive", Kind.IMAGE),
    "/v1/images/{image}/rootfs": ("/v1/images/team/app/one:1/rootfs", Kind.ROOTFS),
    "/v1/exports": ("/v1/exports", Kind.JOBS),
    "/v1/exports/{id}": ("/v1/exports/{id}", Kind.JOBS),
    "/v1/exports/{id}/events": ("/v1/exports/{id}/events", Kind.JOBS),
    "/metrics": ("/metrics", Kind.METRICS),
    "/openapi.json": ("/openapi.json", None),
    "/healthz": ("/healthz", None),
    "/readyz": ("/readyz", None),
}
OPEN = ("/healthz", "/readyz")


def test_the_table_has_every_path() -> None:
    assert {*TARGETS, "/v1/builds", "/v1/contexts", "/v1/copies"} == set(document()["paths"])
    assert {route.path: route.scope for route in ROUTES if route.method == "GET"} == {
        path: kind for path, (_, kind) in TARGETS.items() if path != "/openapi.json"
    }
    changing = {(route.method, route.path): route.scope for route in ROUTES if route.method != "GET"}
    assert changing == {
        ("POST", "/v1/images"): Kind.IMPORT,
        ("POST", "/v1/builds"): Kind.BUILD,
        ("POST", "/v1/contexts"): Kind.CONTEXT,
        ("POST", "/v1/copies"): Kind.BUILD,
        ("POST", "/v1/exports"): Kind.JOBS,
        ("DELETE", "/v1/exports/{id}"): Kind.JOBS,
    }


@pytest.mark.parametrize("path", TARGETS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_each_route_with_each_token(site: Site, keys: Keys, job: str, path: str, method: str) -> None:
    target, kind = TARGETS[path]
    target = target.replace("{id}", job)
    for name in ("all", "nothing", *Kind):
        answer = site.ask(target, method, keys.header(name))
        allowed = kind is None or name in ("all", kind)
        hidden = "{id}" in path and name == Kind.JOBS  # of an image, of which it may know nothing
        assert answer.status == (404 if hidden else 200 if allowed else 403), name
        if not allowed:
            assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
            if method == "GET":
                members = problem(answer)
                assert (members["code"], members["missing"]) == ("forbidden", f"kinds={kind}")
                assert repr(str(name)) in members["detail"]
                assert repr(str(kind)) in members["detail"]
    assert site.ask(target, method, keys.header("expired")).status == (200 if path in OPEN else 401)


CREDENTIALS: dict[str, str] = {
    "none": "",
    "empty": "Authorization: \r\n",
    "only a scheme": "Authorization: Bearer\r\n",
    "nothing after the scheme": "Authorization: Bearer   \r\n",
    "no scheme": "Authorization: {all}\r\n",
    "another scheme": "Authorization: Basic {all}\r\n",
    "another scheme with a token behind": "Authorization: Basic x, Bearer {all}\r\n",
    "unknown": "Authorization: Bearer streamer_nonsense\r\n",
    "cut": "Authorization: Bearer {cut}\r\n",
    "longer": "Authorization: Bearer {all}x\r\n",
    "two in one": "Authorization: Bearer {all}, Bearer {all}\r\n",
    "two headers": "Authorization: Bearer {all}\r\nAuthorization: Bearer {all}\r\n",
    "the digest itself": "Authorization: Bearer {digest}\r\n",
    "name and digest": "Authorization: Bearer all {digest}\r\n",
    "quoted": 'Authorization: Bearer "{all}"\r\n',
    "other header": "X-Authorization: Bearer {all}\r\n",
    "proxy's header": "Proxy-Authorization: Bearer {all}\r\n",
    "cookie": "Cookie: token={all}\r\n",
    "expired": "Authorization: Bearer {expired}\r\n",
    "bytes": "Authorization: Bearer \udcff\udcfe\r\n",
    "very long": "Authorization: Bearer " + "x" * 8000 + "\r\n",
}
UNKNOWN = [
    *(target.replace("{id}", "x") for path, (target, _) in TARGETS.items() if path not in OPEN),
    "/",
    "/v1/nothing",
    "/metrics/",
    "//",
]


def made(keys: Keys, text: str) -> bytes:
    (all_of_it,) = (token for token in keys.watched().value if token.name == "all")
    return (
        text.replace("{all}", keys.secrets["all"])
        .replace("{cut}", keys.secrets["all"][:-1])
        .replace("{expired}", keys.secrets["expired"])
        .replace("{digest}", all_of_it.sha256.hex())
        .encode("utf-8", "surrogateescape")
    )


@pytest.mark.parametrize("name", CREDENTIALS)
def test_nobody_gets_in_without_a_token(site: Site, keys: Keys, name: str) -> None:
    for target in UNKNOWN:
        for method in ("GET", "HEAD", "POST", "DELETE"):
            with Client(site.port) as client:
                client.send(
                    f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n".encode()
                    + made(keys, CREDENTIALS[name])
                    + (b"Content-Length: 0\r\n\r\n" if method == "POST" else b"\r\n")
                )
                answer = client.head() if method == "HEAD" else client.answer()
            assert answer.status == 401, (method, target)
            assert answer.headers["www-authenticate"].startswith('Bearer realm="streamer"')
            if method != "HEAD":
                members = problem(answer)
                assert members["code"] == "unauthenticated"
                assert keys.secrets["all"] not in json.dumps(members)
    for target in OPEN:
        assert site.ask(target).status == 200


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
def test_the_scheme_in_any_case(site: Site, keys: Keys, scheme: str) -> None:
    assert site.ask("/v1/stores", headers=f"Authorization: {scheme} {keys.secrets['all']}\r\n").status == 200


def test_a_token_in_the_address_is_none(site: Site, keys: Keys) -> None:
    secret = keys.secrets["all"]
    for target in (f"/v1/stores?token={secret}", f"/v1/stores?access_token={secret}"):
        assert site.ask(target).status == 401


def test_readiness_tells_strangers_nothing_of_stores(site: Site, keys: Keys) -> None:
    for headers, stores in (
        ("", {}),
        (keys.header("all"), {"local": "ok"}),
        (keys.header("list"), {"local": "ok"}),
        (keys.header("layer"), {}),
        (keys.header("elsewhere"), {}),
    ):
        assert json.loads(site.ask("/readyz", headers=headers).body) == {"status": "ok", "stores": stores}


def test_no_body_is_asked_of_a_stranger(site: Site, keys: Keys) -> None:
    """Who may not come in learns it before the body, and the connection ends."""
    for headers in ("", "Authorization: Bearer x\r\n", keys.header("expired")):
        with Client(site.port) as client:
            client.request("/v1/images", "POST", f"{headers}Expect: 100-continue\r\nContent-Length: 5\r\n")
            answer = client.answer()
            assert (answer.status, answer.headers["connection"]) == (401, "close")
            client.send(b"GET /")  # five bytes: the body, and nothing after it counts
            client.send(b"healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.read(1) == b""
    with Client(site.port) as client:
        client.request("/v1/images", "POST", f"{keys.header('all')}Expect: 100-continue\r\nContent-Length: 4\r\n")
        assert client.head().status == 100
        client.send(b"abcd")
        assert problem(client.answer())["code"] == "invalid_archive"


def listed(site: Site, keys: Keys, name: str, target: str) -> list[dict[str, Any]]:
    answer = site.ask(target, headers=keys.header(name))
    assert answer.status == 200
    found: list[dict[str, Any]] = json.loads(answer.body)
    return found


@pytest.mark.parametrize("target", ["/v1/stores", "/v1/images", "/v1/containers", "/v1/layers"])
def test_a_store_that_may_not_be_read_is_not_there(site: Site, keys: Keys, target: str) -> None:
    for name in ("elsewhere", "nowhere"):
        assert listed(site, keys, name, target) == []
    assert len(listed(site, keys, "all", target)) > 0


@pytest.mark.parametrize(
    "path", [path for path, (_, kind) in TARGETS.items() if kind not in (None, "metrics", "list", "jobs")]
)
def test_nor_can_anything_in_it_be_had(site: Site, keys: Keys, path: str) -> None:
    target, _ = TARGETS[path]
    for name in ("elsewhere", "nowhere"):
        assert site.ask(target, headers=keys.header(name)).status == 404
        if path.endswith("/changes"):
            continue
        glue = "&" if "?" in target else "?"
        for store in ("local", "other"):
            members = problem(site.ask(f"{target}{glue}store={store}", headers=keys.header(name)))
            assert (members["code"], members["missing"]) == ("forbidden", f"stores={store}")


def test_only_names_that_are_allowed_are_listed(site: Site, keys: Keys) -> None:
    (image,) = listed(site, keys, "team", "/v1/images")
    assert sorted(image["names"]) == ["team/app/one:1", "team/app/one:2.0"]
    assert [each["name"] for each in listed(site, keys, "team", "/v1/containers")] == ["box"]
    assert {each["diff_id"] for each in listed(site, keys, "team", "/v1/layers")} == set(ONE.diff_ids)
    for target in ("/v1/images", "/v1/containers", "/v1/layers"):
        assert listed(site, keys, "nobody", target) == []
    assert [each["name"] for each in listed(site, keys, "team", "/v1/stores")] == ["local"]


HIDDEN_LAYER = next(each for each in TWO.diff_ids if each not in ONE.diff_ids)
NOWHERE = "sha256:" + "0" * 64
ALLOWED = [
    "/v1/images/team/app/one:1/archive",
    "/v1/images/team/app/one:2.0/rootfs",
    "/v1/images/team/app/one/archive",
    "/v1/images/archive?name=team/app/one:1&name=team/app/one:2.0",
    f"/v1/images/{ONE.id}/archive",
    f"/v1/images/{ONE.id}/rootfs",
    "/v1/containers/box/archive",
    "/v1/containers/box/diff",
    "/v1/containers/box/changes",
    *(f"/v1/layers/{each}/archive" for each in ONE.diff_ids),
]
MISSING = ["/v1/images/team/app/two:1/archive", "/v1/images/team/app/one:3/rootfs"]
REFUSED = [
    "/v1/images/two/archive",
    "/v1/images/two/rootfs",
    "/v1/images/docker.io/library/two:latest/archive",
    "/v1/images/localhost:5000/with/port:v1/rootfs",
    f"/v1/images/{TWO.id}/archive",
    f"/v1/images/{TWO.id[:19]}/rootfs",
    f"/v1/images/{PORT.id}/archive",
    f"/v1/images/{LIKE_TWO.id}/archive",
    f"/v1/images/{TWO.id[:9]}/archive",  # ambiguous, which would say that there are two
    "/v1/images/archive?name=team/app/one:1&name=two",
    "/v1/images/none/archive",
    f"/v1/images/{NOWHERE}/archive",
    "/v1/containers/many-0/archive",
    "/v1/containers/many-0/diff",
    "/v1/containers/many-0/changes",
    "/v1/containers/many-99/archive",
    f"/v1/layers/{HIDDEN_LAYER}/archive",
    f"/v1/layers/{NOWHERE}/archive",
]


def test_only_names_that_are_allowed_can_be_had(site: Site, keys: Keys) -> None:
    for target in ALLOWED:
        assert site.ask(target, headers=keys.header("team")).status == 200, target
    for target in MISSING:
        assert problem(site.ask(target, headers=keys.header("team")))["code"] == "not_found"
    for target in REFUSED:
        for method in ("GET", "HEAD"):
            answer = site.ask(target, method, keys.header("team"))
            assert answer.status == 403, target
            if method == "GET":
                assert problem(answer)["missing"].startswith("names=")
    for target in (*ALLOWED, *MISSING, *REFUSED):
        assert site.ask(target, headers=keys.header("nobody")).status == 403, target


def test_what_is_there_and_what_is_not_are_refused_alike(site: Site, keys: Keys) -> None:
    def refused(target: str, name: str) -> dict[str, Any]:
        members = problem(site.ask(target, headers=keys.header("team")))
        return {key: str(value).replace(name, "?") for key, value in members.items()}

    for path, there, missing in (
        ("/v1/containers/{}/archive", "many-0", "many-x"),
        ("/v1/images/{}/archive", "two", "six"),
        ("/v1/images/{}/rootfs", TWO.id, NOWHERE),
        ("/v1/layers/{}/archive", HIDDEN_LAYER, NOWHERE),
    ):
        assert refused(path.format(there), there) == refused(path.format(missing), missing)


def test_imports(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "tokens")
    keys.add("any", scope(["import"]))
    keys.add("elsewhere", scope(["import"], stores=["docker"]))
    keys.add("team", scope(["import"], names=["team/*"]))
    body = images.pack(images.docker(images.image(layer(file("x")), names=["two:latest"])))
    rows = [
        ("elsewhere", "", 403, "stores=local"),
        ("team", "", 403, "names=*"),
        ("team", "?name=two", 403, "names=two"),
        ("team", "?name=TEAM/x", 403, "names=TEAM/x"),
        ("team", "?name=team/x:1", 201, ""),
        ("any", "", 201, ""),
    ]
    with sites.site(tmp_path / "state", keys=keys.watched()) as site:
        for name, query, status, missing in rows:
            answer = site.ask(f"/v1/images{query}", "POST", keys.header(name), body)
            assert answer.status == status, (name, query, answer)
            if missing:
                assert problem(answer)["missing"] == missing


@pytest.mark.parametrize(
    ("limits", "kind", "refs", "store", "allowed"),
    [
        ({}, "container", ["box"], None, True),
        ({"kinds": ["layer"]}, "container", ["box"], None, False),
        ({"stores": ["local"]}, "container", ["box"], "local", True),
        ({"stores": ["local"]}, "container", ["box"], None, False),
        ({"stores": ["docker"]}, "container", ["box"], "local", False),
        ({"names": ["box"]}, "container", ["box"], None, True),
        ({"names": ["box"]}, "container", ["many-0"], None, False),
        ({"names": ["team/*"]}, "image", ["team/app/one:1", "team/app/one:2.0"], None, True),
        ({"names": ["team/*"]}, "image", ["team/app/one:1", "two"], None, False),
        ({"names": ["two"]}, "rootfs", ["two"], None, True),
        ({"names": ["two"]}, "rootfs", ["two:latest"], None, True),
        ({"names": ["*:latest"]}, "rootfs", ["two"], None, True),
        ({"names": ["*:latest"]}, "image", ["two:latest"], None, True),
        ({"names": ["*:latest"]}, "image", ["two"], None, False),  # which is all of its tags
        ({"names": ["two"]}, "image", ["two"], None, True),
        ({"names": ["*:latest"]}, "container", ["box"], None, False),
        ({"names": ["*:*"]}, "layer", ["sha256:" + "0" * 64], None, False),
    ],
)
def test_what_a_caller_may_know_of_jobs(
    limits: dict[str, Any], kind: str, refs: list[str], store: str | None, allowed: bool
) -> None:
    assert may_know(Caller("token a", "a", scope(**limits)), Kind(kind), refs, store) == allowed


async def test_what_a_job_may_be_begun_for(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path / "state") as store:
        await sites.filled(store)
        app = web.Application()
        app[SITE] = sites_catalog(store)

        async def begun(limits: dict[str, Any], kind: str, *refs: str, store: str | None = None) -> bool:
            request = make_mocked_request("POST", "/v1/exports", app=app)
            request[CALLER] = Caller("token a", "a", scope(**limits))
            try:
                await require_source(request, Kind(kind), refs, store)
            except Forbidden:
                return False
            return True

        assert await begun({}, "image", "two", PORT.id)
        assert await begun({"names": ["team/*"]}, "image", "team/app/one:1")
        assert not await begun({"names": ["team/*"]}, "image", ONE.id), "by a name, not an ID"
        assert not await begun({"names": ["team/*"]}, "image", "two")
        assert await begun({"names": ["team/*"]}, "layer", ONE.diff_ids[1])
        assert not await begun({"names": ["team/*"]}, "layer", HIDDEN_LAYER)
        assert await begun({"names": ["box"]}, "diff", "box")
        assert not await begun({"names": ["box"]}, "diff", "many-1")
        assert not await begun({"kinds": ["image"]}, "diff", "box")
        assert await begun({"stores": ["local"]}, "diff", "box", store="local")
        assert not await begun({"stores": ["local"]}, "diff", "box")
        assert not await begun({"stores": ["other"]}, "diff", "box", store="local")
        assert not await begun({"names": ["*" + ONE.id[-3:]]}, "rootfs", ONE.id), "a pattern of names finds no ID"


def sites_catalog(store: LocalStore) -> Any:
    return SimpleNamespace(catalog=Catalog({"local": store}))


def test_a_token_taken_away_counts_at_once(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "tokens")
    keys.add("a", EVERYTHING)
    watched = keys.watched()
    with sites.site(tmp_path / "state", keys=watched) as site, Client(site.port) as client:
        client.request("/v1/stores", headers=keys.header("a"))
        assert client.answer().status == 200
        keys.path.write_text("")
        watched.refresh()
        client.request("/v1/stores", headers=keys.header("a"))
        assert client.answer().status == 401, "on a connection that was open before, too"


SHAPES: dict[str, bytes] = {
    "length and chunked": b"{post}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": b"{post}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST /v1/images HTTP/1.1\r\n{host}Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
    "xchunked": b"POST /v1/images HTTP/1.1\r\n{host}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "folded token": b"GET /v1/stores HTTP/1.1\r\n{host}Authorization:\r\n Bearer {all}\r\n\r\n",
    "bare LF": b"GET /v1/stores HTTP/1.1\nHost: localhost\nAuthorization: Bearer {all}\n\n",
    "token behind a bare LF": b"GET /v1/stores HTTP/1.1\r\n{host}X: a\nAuthorization: Bearer {all}\r\n\r\n",
    "token behind a NUL": b"GET /v1/stores HTTP/1.1\r\n{host}X: a\0\r\nAuthorization: Bearer {all}\r\n\r\n",
    "space before the colon": b"GET /v1/stores HTTP/1.1\r\n{host}Authorization : Bearer {all}\r\n\r\n",
    "two hosts": b"GET /v1/stores HTTP/1.1\r\n{host}{host}Authorization: Bearer {all}\r\n\r\n",
    "no host": b"GET /v1/stores HTTP/1.1\r\nAuthorization: Bearer {all}\r\n\r\n",
    "absolute form": b"GET http://evil.example/v1/stores HTTP/1.1\r\n{host}Authorization: Bearer {all}\r\n\r\n",
    "other host": b"GET /v1/stores HTTP/1.1\r\nHost: evil.example\r\nAuthorization: Bearer {all}\r\n\r\n",
    "foreign page": b"POST /v1/images HTTP/1.1\r\n{host}Origin: http://evil.example\r\nAuthorization: Bearer {all}\r\n"
    b"Content-Length: 9\r\n\r\n",
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_token_does_not_help_what_is_malformed_or_meant_for_others(site: Site, keys: Keys, name: str) -> None:
    """And what is hidden behind it, with a good token, is never answered on a connection that is to be closed."""
    secret = keys.secrets["all"].encode()
    host = b"Host: localhost\r\n"
    shape = (
        SHAPES[name]
        .replace(b"{post}", b"POST /v1/images HTTP/1.1\r\n{host}")
        .replace(b"{host}", host)
        .replace(b"{all}", secret)
    )
    if b"POST" in shape and b"Authorization" not in shape:
        shape = shape.replace(host, host + b"Authorization: Bearer " + secret + b"\r\n")
    hidden = b"GET /v1/stores HTTP/1.1\r\n" + host + b"Authorization: Bearer " + secret + b"\r\n\r\n"
    with Client(site.port) as client:
        client.send(shape + hidden)
        answer = client.answer()
        assert answer.status in (400, 403)
        assert problem(answer)["code"] in ("malformed", "not_permitted")
        if answer.headers.get("connection") == "close":
            assert client.read(1) == b""
        else:  # a request like others, refused for whom it is meant: the next one is one of its own
            assert name in ("absolute form", "other host")
            assert client.answer().status == 200
