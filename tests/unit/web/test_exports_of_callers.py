"""Export jobs and tokens: nobody has exported, or learns of, what its token may not read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import sites
from support.exporting import asked, ended
from support.keys import Keys, scope
from support.sites import ONE, TWO, Site

from streamer.access.scope import EVERYTHING, Kind

HIDDEN_LAYER = next(each for each in TWO.diff_ids if each not in ONE.diff_ids)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    made = Keys(tmp_path_factory.mktemp("keys") / "tokens")
    made.add("all", EVERYTHING)
    made.add("nojobs", scope(set(Kind) - {Kind.JOBS}))
    made.add("images", scope(["jobs", "image"]))
    made.add("team", scope(names=["team/*", "box"]))
    made.add("tag", scope(names=["team/app/one:1"]))
    made.add("latest", scope(names=["*:latest"]))
    made.add("local", scope(stores=["local"]))
    made.add("elsewhere", scope(stores=["docker"]))
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, keys: Keys, folder: Path) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("site")
    with sites.site(root / "state", keys=keys.watched(), jobs=root / "jobs", directories=[folder]) as opened:
        yield opened


class Callers:
    """Requests with tokens, by their names."""

    def __init__(self, site: Site, keys: Keys, folder: Path) -> None:
        self._site, self._keys, self._folder = site, keys, folder
        self._count = 0

    def ask(self, token: str, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        authorization = f"Bearer {self._keys.secrets[token]}"
        status, answer, _ = asked(self._site.port, method, path, body, Authorization=authorization, **headers)
        return status, answer

    def submit(self, token: str, source: dict[str, Any], destination: str = "", **headers: str) -> tuple[int, Any]:
        self._count += 1
        body = {"source": source, "destination": destination or f"file://{self._folder}/{self._count}.tar"}
        return self.ask(token, "POST", "/v1/exports", body, **headers)

    def ended(self, id: str) -> Any:
        return ended(self._site.port, id, Authorization=f"Bearer {self._keys.secrets['all']}")


@pytest.fixture
def callers(site: Site, keys: Keys, folder: Path) -> Callers:
    return Callers(site, keys, folder)


def image(*refs: str, **more: str) -> dict[str, Any]:
    return {"kind": "image", "refs": refs, **more}


def other(kind: str, ref: str, **more: str) -> dict[str, Any]:
    return {"kind": kind, "ref": ref, **more}


@pytest.mark.parametrize(
    ("token", "source", "missing"),
    [
        ("all", image("two"), None),
        ("all", image("team/app/one"), None),  # all of its tags, none of which is latest
        ("all", image(TWO.id), None),
        ("nojobs", image("two"), "kinds=jobs"),
        ("images", image("two"), None),
        ("images", other("rootfs", "two"), "kinds=rootfs"),
        ("images", other("container", "box"), "kinds=container"),
        ("team", image("team/app/one:1", "team/app/one:2.0"), None),
        ("team", image("team/app/one"), None),
        ("team", image("team/app/one:1", "two"), "names="),
        ("team", image("two"), "names="),
        ("team", image("none"), "names="),
        ("team", image(ONE.id), "names=" + ONE.id),
        ("team", other("rootfs", ONE.id[:19]), "names=" + ONE.id[:19]),
        ("team", other("layer", ONE.diff_ids[1]), None),
        ("team", other("layer", HIDDEN_LAYER), "names="),
        ("team", other("diff", "box"), None),
        ("team", other("diff", "many-0"), "names="),
        ("tag", image("team/app/one:1"), None),
        ("tag", image("team/app/one"), "names=team/app/one"),
        ("latest", image("two:latest"), None),
        ("latest", image("two"), "names=two"),  # all of its tags, also those that come
        ("latest", other("rootfs", "two"), None),
        ("latest", other("container", "box"), "names="),
        ("local", image("two", store="local"), None),
        ("local", image(TWO.id, store="local"), None),
        ("local", image("two"), "stores=*"),
        ("elsewhere", image("two"), "stores=*"),
        ("elsewhere", image("two", store="local"), "stores=local"),
    ],
)
def test_what_a_job_may_be_begun_for(callers: Callers, token: str, source: dict[str, Any], missing: str | None) -> None:
    status, answer = callers.submit(token, source)
    if missing is None:
        assert status == 201, answer
        assert callers.ask(token, "GET", f"/v1/exports/{answer['id']}")[0] == 200, "who began it, may follow it"
    else:
        assert (status, answer["code"]) == (403, "forbidden"), answer
        assert answer["missing"].startswith(missing)


@pytest.mark.parametrize("destination", ["", "s3://exports/x.tar", "gs://exports/x.tar", "file:///etc/passwd"])
def test_no_destination_without_the_scope(callers: Callers, destination: str) -> None:
    for token, missing in (("nojobs", "kinds=jobs"), ("team", "names='two'")):
        status, answer = callers.submit(token, image("two"), destination)
        assert (status, answer["missing"]) == (403, missing)


SOURCES = {
    "two": image("two"),
    "one": image("team/app/one:1"),
    "layer": other("layer", ONE.diff_ids[1]),
    "hidden layer": other("layer", HIDDEN_LAYER),
    "here": image("two", store="local"),
    "rootfs": other("rootfs", "two"),
}


@pytest.fixture(scope="module")
def jobs(site: Site, keys: Keys, folder: Path) -> dict[str, str]:
    """An ended job for each source, in their order."""
    callers = Callers(site, keys, folder)
    made: dict[str, str] = {}
    for name, source in SOURCES.items():
        status, answer = callers.submit("all", source, f"file://{folder}/known-{len(made)}.tar")
        assert status == 201, answer
        made[name] = answer["id"]
    for id in made.values():
        callers.ended(id)
    return made


KNOWN = {
    "all": set(SOURCES),
    "images": {"two", "one", "here"},
    "team": {"one", "layer"},
    "tag": {"one", "layer"},
    "latest": {"hidden layer", "rootfs"},
    "local": {"here"},
    "elsewhere": set(),
}


@pytest.mark.parametrize("token", KNOWN)
def test_only_jobs_of_what_may_be_read_are_there(callers: Callers, jobs: dict[str, str], token: str) -> None:
    status, found = callers.ask(token, "GET", "/v1/exports?limit=1000&destination=file://")
    assert status == 200
    listed = {job["id"] for job in found}
    assert {name for name, id in jobs.items() if id in listed} == KNOWN[token]
    for name, id in jobs.items():
        for method in ("GET", "DELETE"):
            status, answer = callers.ask(token, method, f"/v1/exports/{id}")
            if name in KNOWN[token]:
                assert (status, answer["id"]) == (200, id)
            else:
                nothing = callers.ask(token, method, "/v1/exports/nothing")[1]
                assert status == 404
                assert {key: str(value).replace(id, "nothing") for key, value in answer.items()} == {
                    key: str(value) for key, value in nothing.items()
                }


@pytest.mark.parametrize("token", KNOWN)
def test_nor_can_others_be_followed(site: Site, keys: Keys, jobs: dict[str, str], token: str) -> None:
    for name, id in jobs.items():
        for method in ("GET", "HEAD"):
            answer = site.ask(f"/v1/exports/{id}/events", method, keys.header(token))
            assert answer.status == (200 if name in KNOWN[token] else 404)
            if method == "GET":
                assert (b"event: end" in answer.body) == (name in KNOWN[token])


def test_jobs_that_are_not_shown_take_no_place_in_a_list(callers: Callers, jobs: dict[str, str], folder: Path) -> None:
    path = f"/v1/exports?limit=1&destination=file://{folder}/known-"
    for token, newest in (("all", "rootfs"), ("images", "here"), ("team", "layer"), ("elsewhere", None)):
        _, found = callers.ask(token, "GET", path)
        assert [job["id"] for job in found] == ([jobs[newest]] if newest else [])


def test_keys_are_each_tokens_own(callers: Callers, folder: Path) -> None:
    """What others use is not told, and does not stand in the way."""
    source = image("team/app/one:1")

    def submit(token: str, name: str) -> tuple[int, Any]:
        return callers.submit(token, source, f"file://{folder}/{name}.tar", Idempotency_Key="nightly")

    first, theirs, again = submit("all", "key-a"), submit("team", "key-b"), submit("all", "key-a")
    assert (first[0], theirs[0], again[0]) == (201, 201, 200)
    assert first[1]["id"] == again[1]["id"] != theirs[1]["id"]
    assert submit("all", "key-b")[0] == 409
