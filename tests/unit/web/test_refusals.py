"""What is asked wrongly: status, code, and a sentence that names what is wrong. One row, one request."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from support.asking import problem
from support.sites import TWO, Site

NOWHERE = "sha256:" + "0" * 64
LAYER = f"/v1/layers/{TWO.diff_ids[0]}/archive"
BOX = "/v1/containers/box/archive"
ARCHIVES = [LAYER, BOX, "/v1/containers/box/diff", "/v1/images/two/rootfs"]
SAVED = ["/v1/images/two/archive", "/v1/images/archive?name=two"]
LISTS = ["/v1/images", "/v1/containers", "/v1/layers"]
BARE = ["/v1/stores", "/healthz", "/readyz", "/metrics", "/openapi.json"]

Row = tuple[str, int, str, str]

UNKNOWN: list[Row] = [
    (f"/v1/layers/{NOWHERE}/archive", 404, "not_found", NOWHERE),
    ("/v1/layers/sha256:ff00ff00/archive", 404, "not_found", "ff00ff00"),
    ("/v1/layers/nonsense/archive", 400, "invalid_reference", "nonsense"),
    ("/v1/layers/sha256:..%2F..%2Fetc/archive", 400, "invalid_reference", "../../etc"),
    ("/v1/containers/nobody/archive", 404, "not_found", "nobody"),
    ("/v1/containers/nobody/diff", 404, "not_found", "nobody"),
    ("/v1/containers/nobody/changes", 404, "not_found", "nobody"),
    (f"/v1/containers/{'0' * 64}/archive", 404, "not_found", "0000"),
    ("/v1/containers/..%2Fetc/archive", 400, "invalid_reference", "../etc"),
    ("/v1/containers/%FF/archive", 400, "invalid_reference", "FF"),
    ("/v1/containers/a%00b/archive", 400, "invalid_reference", "x00"),
    ("/v1/images/nothing/archive", 404, "not_found", "nothing"),
    ("/v1/images/nothing/rootfs", 404, "not_found", "nothing"),
    ("/v1/images/two:3/archive", 404, "not_found", "two:3"),
    ("/v1/images/team/app/one/rootfs", 404, "not_found", "team/app/one"),  # there is no :latest
    (f"/v1/images/{NOWHERE}/archive", 404, "not_found", NOWHERE),
    ("/v1/images/two@" + NOWHERE + "/archive", 404, "not_found", "two@"),
    ("/v1/images/UPPER/archive", 400, "invalid_reference", "lower case"),
    ("/v1/images/two:..%2Fx/archive", 400, "invalid_reference", "two:../x"),
    ("/v1/images/%2e%2e/%2e%2e/archive", 400, "invalid_reference", "../.."),
    ("/v1/images/a%00b/rootfs", 400, "invalid_reference", "x00"),
    ("/v1/images/archive/archive", 404, "not_found", "'archive'"),
    ("/v1/images/archive?name=two&name=nothing", 404, "not_found", "nothing"),
    ("/v1/images/archive?name=", 400, "invalid_reference", "''"),
    ("/v1/nothing", 404, "not_found", "/v1/nothing"),
    ("/", 404, "not_found", "'/'"),
    ("//", 404, "not_found", "'//'"),
    ("/v1", 404, "not_found", "/v1"),
    ("/v1/images/", 404, "not_found", "/v1/images/"),
    ("/v1/images/two", 404, "not_found", "/v1/images/two"),
    ("/v1/images//archive", 404, "not_found", ""),
    ("/v1/containers/box", 404, "not_found", "/v1/containers/box"),
    ("/v1/containers/box/archive/", 404, "not_found", ""),
    ("/v1/containers/a/b/archive", 404, "not_found", "a/b"),
    ("/v1/images/../../etc/passwd", 404, "not_found", ""),
]


@pytest.mark.parametrize(("target", "status", "code", "said"), UNKNOWN, ids=lambda value: str(value)[:60])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_unknown_references_and_paths(site: Site, method: str, target: str, status: int, code: str, said: str) -> None:
    answer = site.ask(target, method)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    if method == "GET":
        members = problem(answer)
        assert members["code"] == code
        assert said in members["detail"]


@pytest.mark.parametrize("target", [*ARCHIVES, *SAVED, *LISTS, *BARE, "/v1/containers/box/changes"])
def test_an_unknown_parameter_is_named_and_the_known_ones_listed(site: Site, target: str) -> None:
    glue = "&" if "?" in target else "?"
    for given in ("wrong=1", "wrong", "wrong=", "=wrong", "Store=local", "%FF=1", "path%00=1"):
        members = problem(site.ask(f"{target}{glue}{given}"))
        assert (members["status"], members["code"]) == (400, "invalid_request")
        assert "unknown parameter" in members["detail"]
        assert "possible here: " in members["detail"]
        assert isinstance(members["parameter"], str)
    if target in BARE:
        assert "possible here: none" in members["detail"]


WRONG_VALUES = {
    "compression": ["lz4", "", "GZIP", "gzip,zstd", "%FF", "none%20"],
    "profile": ["gnu", "", "Docker", "docker-legacy"],
    "mtime": ["", "x", "-1", "%2B1", "1.5", "1e3", "0x10", "1_0", "%201", "%D9%A1", "8589934592", "9" * 5000],
    "include": ["%5B", "a%5B", "!", "%5C"],
    "exclude": ["%5B", "!"],
    "path": ["", "%00", "a%00b"],
    "store": ["", "other", "LOCAL", "%FF"],
    "format": ["tar", "", "OCI", "docker"],
}


def _values(*names: str) -> list[tuple[str, str]]:
    return [(name, value) for name in names for value in WRONG_VALUES[name]]


@pytest.mark.parametrize("target", ARCHIVES)
def test_a_wrong_value_is_refused_by_name(site: Site, target: str) -> None:
    for name, value in _values("compression", "profile", "mtime", "include", "exclude", "path", "store"):
        members = problem(site.ask(f"{target}?{name}={value}"))
        assert (members["status"], members["code"]) == (400, "invalid_request"), (name, value)
        if name in ("include", "exclude"):
            assert "pattern" in members["detail"]
        else:
            assert members["parameter"] == name
            assert name in members["detail"]
            assert len(members["detail"]) < 300


@pytest.mark.parametrize("target", SAVED)
def test_a_wrong_value_for_a_saved_image_is_refused_by_name(site: Site, target: str) -> None:
    glue = "&" if "?" in target else "?"
    for name, value in _values("compression", "store", "format"):
        members = problem(site.ask(f"{target}{glue}{name}={value}"))
        assert (members["status"], members["parameter"]) == (400, name)
    for name in ("include", "exclude", "path", "profile", "mtime"):
        members = problem(site.ask(f"{target}{glue}{name}=1"))
        assert (members["status"], members["parameter"]) == (400, name)


@pytest.mark.parametrize("name", ["compression", "profile", "mtime", "path", "store"])
def test_a_parameter_given_twice_is_refused_by_name(site: Site, name: str) -> None:
    value = {"compression": "gzip", "profile": "full", "mtime": "1", "path": "etc", "store": "local"}[name]
    members = problem(site.ask(f"{BOX}?{name}={value}&{name}={value}"))
    assert (members["status"], members["parameter"]) == (400, name)
    assert "more than once" in members["detail"]


def test_a_missing_parameter_is_named(site: Site) -> None:
    members = problem(site.ask("/v1/images/archive"))
    assert (members["status"], members["parameter"]) == (400, "name")


METHODS: list[tuple[str, str]] = [
    *[(target, "GET, HEAD") for target in (LAYER, BOX, "/v1/containers/box/diff", "/v1/images/two/archive")],
    ("/v1/images/archive", "GET, HEAD"),
    ("/v1/images/two/rootfs", "GET, HEAD"),
    ("/v1/images", "GET, HEAD, POST"),
    ("/v1/containers/box/changes", "GET, HEAD"),
    ("/v1/containers", "GET, HEAD"),
    ("/v1/layers", "GET, HEAD"),
    *[(target, "GET, HEAD") for target in BARE],
]


@pytest.mark.parametrize(("target", "allowed"), METHODS)
def test_a_wrong_method_is_told_the_right_ones(site: Site, target: str, allowed: str) -> None:
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"):
        if method in allowed.split(", "):
            continue
        answer = site.ask(target, method)
        assert answer.status == 405, method
        assert answer.headers["allow"] == allowed
        if method != "HEAD":
            assert problem(answer)["code"] == "method_not_allowed"


def _ids(value: Any) -> list[str]:
    assert all(set(each) <= {"id", "store"} for each in value), value
    return [each["id"] for each in value]


@pytest.mark.parametrize("what", ["archive", "rootfs"])
def test_an_ambiguous_image_is_told_the_candidates(site: Site, what: str) -> None:
    prefix = TWO.id.removeprefix("sha256:")[:2]
    for reference in (prefix, f"sha256:{prefix}"):
        members = problem(site.ask(f"/v1/images/{reference}/{what}"))
        assert (members["status"], members["code"]) == (409, "ambiguous")
        assert TWO.id in _ids(members["candidates"])
        assert len(members["candidates"]) >= 2


def test_an_ambiguous_container_is_told_the_candidates(site: Site) -> None:
    known = [each.id for each in site.call(site.store.containers)]
    digit, _ = Counter(each[0] for each in known).most_common(1)[0]
    for what in ("archive", "diff", "changes"):
        members = problem(site.ask(f"/v1/containers/{digit}/{what}"))
        assert (members["status"], members["code"]) == (409, "ambiguous")
        assert sorted(_ids(members["candidates"])) == sorted(each for each in known if each[0] == digit)


def test_an_ambiguous_layer_is_told_the_candidates(site: Site) -> None:
    prefix = TWO.diff_ids[0].removeprefix("sha256:")[:2]
    members = problem(site.ask(f"/v1/layers/{prefix}/archive"))
    assert (members["status"], members["code"]) == (409, "ambiguous")
    assert TWO.diff_ids[0] in _ids(members["candidates"])


PATHS = [
    ("nothing", 404),
    ("etc/nothing/at/all", 404),
    ("%FF", 404),
    ("late/x/y", 404),
    ("late/x", 404),
    ("a" * 300, 400),
    ("a" * 300 + "/x", 400),
    ("..", 422),
    ("etc/..", 422),
]


@pytest.mark.root
@pytest.mark.parametrize("target", [BOX, "/v1/images/two/rootfs"])
@pytest.mark.parametrize(("path", "status"), PATHS, ids=lambda value: str(value)[:20])
def test_a_path_that_is_not_there(site: Site, target: str, path: str, status: int) -> None:
    members = problem(site.ask(f"{target}?path={path}"))
    assert members["status"] == status, members


def test_bodies_of_refusals_do_not_show_where_the_store_is(site: Site) -> None:
    state = site.store.location.partition(":")[2]
    for target, *_ in UNKNOWN:
        assert state.encode() not in site.ask(target).body
