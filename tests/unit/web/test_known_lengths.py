"""Archives that are outlined first: what their answers say, who gets one, and what breaks."""

from __future__ import annotations

import base64
import hashlib
import itertools
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support.asking import ask, problem, received
from support.clients import Answer, Client
from support.planned import TARGET, Planned, PlannedSite, planned_site

from streamer.errors import SourceChanged, StoreDamaged
from streamer.tar.compression import Compression
from streamer.web.digesting import Digesting, wanted

DATA = random.Random(1).randbytes(1_500_000)
DIGEST = f"sha-256=:{base64.b64encode(hashlib.sha256(DATA).digest()).decode()}:"


@pytest.fixture
def site() -> Iterator[PlannedSite]:
    with planned_site(Planned(DATA), limit=4) as opened:
        yield opened
        opened.idle()
        assert opened.planned.open == 0


def outlined(answer: Answer) -> bool:
    """Whether an answer tells length, version and ranges; it must tell all or none."""
    told = {"content-length", "etag"} <= answer.headers.keys()
    assert answer.headers["accept-ranges"] == ("bytes" if told else "none")
    assert answer.headers["cache-control"] == ("private, no-cache" if told else "no-store")
    assert answer.headers["vary"] == "Accept-Encoding, Accept"
    assert ("etag" in answer.headers) == told
    assert told or "content-length" not in answer.headers
    return told


ZSTD = {"Accept_Encoding": "gzip, deflate, br, zstd"}
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
ONLY_GZIP = {"Accept_Encoding": "gzip, identity;q=0"}

CHOICES: list[tuple[dict[str, Any], str, dict[str, str], bool | int]] = [
    ({}, "", {}, True),
    ({}, "?length=auto", {}, True),
    ({}, "?length=known", {}, True),
    ({}, "?length=unknown", {}, False),
    ({"steady": False}, "", {}, False),
    ({"steady": False}, "?length=auto", {}, False),
    ({"steady": False}, "?length=unknown", {}, False),
    ({"known": False}, "", {}, False),
    ({"known": False}, "?length=unknown", {}, False),
    ({"known": False}, "?length=known", {}, 422),
    ({}, "?compression=gzip", {}, False),
    ({}, "?compression=none&length=known", {}, True),
    ({}, "?compression=zstd&length=known", {}, 400),
    ({}, "?pause=true&length=known", {}, 400),
    ({}, "?pause=false&length=known", {}, True),
    ({}, "?length=", {}, 400),
    ({}, "?length=KNOWN", {}, 400),
    ({}, "?length=known&length=known", {}, 400),
    # Who asks for a coding gets it, unless he asks for what only the archive as it is has.
    ({}, "", ZSTD, False),
    ({}, "", {"Accept_Encoding": "identity"}, True),
    ({}, "?length=known", ZSTD, True),
    ({}, "", ZSTD | {"If_None_Match": '"other"'}, True),
    ({}, "", ZSTD | {"If_Match": '"v1"'}, True),
    ({"steady": False}, "", ZSTD | {"If_None_Match": '"v1"'}, False),
    # A browser asks for a coding always, but could resume no download that has one.
    ({}, "", ZSTD | BROWSER, True),
    ({}, "?length=unknown", ZSTD | BROWSER, False),
    ({"steady": False}, "", ZSTD | BROWSER, False),
    ({}, "", ONLY_GZIP | BROWSER, False),
    ({}, "", ZSTD | {"Accept": "*/*"}, False),
    ({}, "", ONLY_GZIP, False),
    ({}, "?length=known", ONLY_GZIP, 406),
    ({}, "", ONLY_GZIP | {"If_Match": '"v1"'}, 412),
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_may_be_written_without_a_sign_has_a_length_and_no_version(method: str) -> None:
    with planned_site(Planned(DATA, steady=False)) as site:
        for headers in (
            {},
            {"Range": "bytes=5-9"},
            {"Range": "bytes=5-9", "If_Range": '"v1"'},
            {"If_None_Match": '"v1"'},
        ):
            answer = site.ask("?length=known", method, **headers)
            assert answer.status == 200
            assert answer.headers["content-length"] == str(len(DATA))
            assert answer.headers["accept-ranges"] == "none"
            assert answer.headers["cache-control"] == "no-store"
            assert "etag" not in answer.headers
            assert answer.body == (DATA if method == "GET" else b"")
        assert site.ask("?length=known", method, If_Match='"v1"').status == 412
        assert "repr-digest" not in site.ask("?length=known", "HEAD", Want_Repr_Digest="sha-256=1").headers


@pytest.mark.parametrize(("plan", "query", "headers", "result"), CHOICES)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_is_outlined(
    method: str, plan: dict[str, Any], query: str, headers: dict[str, str], result: bool | int
) -> None:
    with planned_site(Planned(DATA, **plan)) as site:
        answer = site.ask(query, method, **headers)
        if isinstance(result, bool):
            assert answer.status == 200
            assert outlined(answer) == result
            assert ("content-encoding" in answer.headers) == ("Accept_Encoding" in headers and not result)
            assert bool(site.planned.hints) == result
            if not result and method == "HEAD":
                assert site.planned.spans == [], "something was read although nothing can be said"
            if method == "GET" and "content-encoding" not in answer.headers and "compression=gzip" not in query:
                assert answer.body == DATA
        else:
            assert answer.status == result
            assert site.planned.spans == []
            assert method == "HEAD" or problem(answer)["detail"]


SAID = [
    ("?compression=zstd&length=known", {}, "length=known does not go with compression=zstd: how long a compressed"),
    ("?pause=true&length=known", {}, "length=known does not go with pause=true: a container stands still for one"),
    ("?length=known", {"known": False}, "the length of container box of store memory cannot be known before"),
    ("?length=never", {}, "parameter length cannot be 'never'; possible: auto, known, unknown"),
]


@pytest.mark.parametrize(("query", "plan", "said"), SAID)
def test_why_a_length_cannot_be_known(query: str, plan: dict[str, Any], said: str) -> None:
    with planned_site(Planned(DATA, **plan)) as site:
        assert problem(site.ask(query))["detail"].startswith(said)


def test_a_size_that_the_plan_knows_is_told_without_an_outline() -> None:
    with planned_site(Planned(DATA, known=False, size=len(DATA))) as site:
        for method in ("GET", "HEAD"):
            told = site.ask("", method)
            assert told.headers["content-length"] == str(len(DATA))
            assert told.headers["accept-ranges"] == "none"
            untold = site.ask("?length=unknown", method)
            assert "content-length" not in untold.headers


def test_head_says_what_get_says_and_opens_no_part(site: PlannedSite) -> None:
    head = site.ask("", "HEAD", Range="bytes=5-9")
    assert site.planned.spans == []
    answer = site.ask()
    for each in (head, answer):
        each.headers.pop("date")
        each.headers.pop("x-request-id")
    assert head.headers == answer.headers
    assert answer.headers["content-length"] == str(len(DATA))
    assert answer.body == DATA


def test_the_first_byte_wanted_is_a_hint(site: PlannedSite) -> None:
    for header in ("bytes=0-", "bytes=700000-", "bytes=-10", "bytes=5-3"):
        site.ask("", Range=header)
    assert site.planned.hints == [0, 700_000, 0, 0]
    site.planned.size = len(DATA)
    site.ask("", Range="bytes=-10")
    assert site.planned.hints[-1] == len(DATA) - 10
    assert site.planned.spans[-1] == (len(DATA) - 10, len(DATA))


def test_parts_make_the_whole(site: PlannedSite) -> None:
    pick = random.Random(2)
    with Client(site.port) as client:
        for _ in range(5):
            cuts = sorted({0, len(DATA), *(pick.randrange(len(DATA)) for _ in range(12))})
            parts = []
            for start, stop in itertools.pairwise(cuts):
                client.request(TARGET, headers=f'Range: bytes={start}-{stop - 1}\r\nIf-Range: "v1"\r\n')
                answer = received(client)
                assert answer.status == 206
                parts.append(answer.body)
            assert b"".join(parts) == DATA


def test_a_version_that_is_no_more_gives_the_whole_of_the_new_one(site: PlannedSite) -> None:
    site.planned.etag, site.planned.data = "v2", DATA[::-1]
    answer = site.ask("", Range="bytes=100-", If_Range='"v1"')
    assert (answer.status, answer.body) == (200, DATA[::-1])
    assert answer.headers["etag"] == '"v2"'


def test_not_modified_says_what_a_cache_needs_and_nothing_else(site: PlannedSite) -> None:
    for method in ("GET", "HEAD"):
        with Client(site.port) as client:
            client.request(TARGET, method, 'If-None-Match: W/"v1"\r\n')
            answer = client.head()
            assert answer.status == 304
            assert answer.headers.keys() == {
                "etag",
                "cache-control",
                "vary",
                "x-content-type-options",
                "date",
                "x-request-id",
                "server",
            }
            client.request("/healthz")  # nothing of a body is in the way
            assert received(client).status == 200
    assert site.planned.spans == []


def test_refusals_are_problems(site: PlannedSite) -> None:
    members = problem(site.ask("", If_Match='"other"'))
    assert (members["status"], members["code"]) == (412, "precondition_failed")
    assert "container box of store memory" in members["detail"]
    for header in ("bytes=1500000-", "bytes=-0"):
        answer = site.ask("", Range=header)
        members = problem(answer)
        assert (members["status"], members["code"], members["size"]) == (416, "range_not_satisfiable", 1_500_000)
        assert answer.headers["content-range"] == "bytes */1500000"
    assert site.planned.spans == []


def test_conditions_where_there_is_no_version(site: PlannedSite) -> None:
    assert problem(site.ask("?length=unknown", If_Match='"v1"'))["code"] == "precondition_failed"
    assert site.ask("?length=unknown", If_Match="*").body == DATA
    answer = site.ask("?length=unknown", If_None_Match='"v1"', Range="bytes=0-9", If_Range='"v1"')
    assert (answer.status, answer.body) == (200, DATA)


def test_a_digest_that_is_known_is_that_of_the_whole_whatever_part_is_sent() -> None:
    known = Planned(DATA, digest="sha256:" + hashlib.sha256(DATA).hexdigest())
    with planned_site(known) as site:
        for method, header in [("HEAD", ""), ("GET", ""), ("GET", "bytes=5-9"), ("GET", "bytes=0-")]:
            answer = site.ask("", method, **({"Range": header} if header else {}))
            assert answer.headers["repr-digest"] == DIGEST
        assert site.ask("", "HEAD", Want_Repr_Digest="sha-256=10").headers["repr-digest"] == DIGEST
        assert site.planned.spans == [(0, len(DATA)), (5, 10), (0, len(DATA))]


def test_http_1_0_gets_what_has_a_length(site: PlannedSite) -> None:
    for headers, status, body in [("", 200, DATA), ("Range: bytes=9-\r\n", 206, DATA[9:])]:
        with Client(site.port) as client:
            client.request(TARGET, headers=headers, version="1.0")
            answer = received(client)
            assert (answer.status, answer.body) == (status, body)
    with Client(site.port) as client:
        client.request(TARGET + "?length=unknown", version="1.0")
        assert problem(received(client))["code"] == "http_version"


# --- digests made on demand


@pytest.mark.parametrize(
    ("lines", "result"),
    [
        ([], False),
        ([""], False),
        (["sha-256=1"], True),
        (["sha-256=10"], True),
        (["sha-256=0"], False),
        (["sha-256=11"], False),
        (["sha-256=-1"], False),
        (["sha-256"], False),
        (["sha-256=1.5"], False),
        (["sha-512=10"], False),
        (["sha-512=10, sha-256=3"], True),
        (["sha-512=10,sha-256=3 "], True),
        (["sha-512=3", "sha-256=3"], True),
        (["sha-256=0, sha-256=4"], True),
        (["SHA-256=4"], False),
        (["sha-256=4,"], False),
        (["sha-256 = 4"], False),
        (["x=y, sha-256=4"], False),
        (["sha-256=" + "1" * 5000], False),
    ],
)
def test_whether_a_digest_is_wanted(lines: list[str], result: bool) -> None:
    assert wanted(lines) is result


def test_head_makes_a_digest_that_is_wanted(site: PlannedSite) -> None:
    answer = site.ask("", "HEAD", Want_Repr_Digest="sha-256=1", If_Match='"v1"')
    assert answer.headers["repr-digest"] == DIGEST
    assert answer.headers["etag"] == '"v1"'
    assert answer.headers["content-length"] == str(len(DATA))
    assert site.planned.spans == [(0, len(DATA))]


@pytest.mark.parametrize(
    ("query", "method", "headers", "status"),
    [
        ("", "HEAD", {}, 200),
        ("", "HEAD", {"Want_Repr_Digest": "sha-256=0"}, 200),
        ("", "HEAD", {"Want_Repr_Digest": "sha-512=9"}, 200),
        ("", "HEAD", {"Want_Repr_Digest": "sha-256=1", "If_Match": '"v0"'}, 412),
        ("", "HEAD", {"Want_Repr_Digest": "sha-256=1", "If_None_Match": '"v1"'}, 304),
        ("?length=unknown", "HEAD", {"Want_Repr_Digest": "sha-256=1"}, 200),
        ("?compression=gzip", "HEAD", {"Want_Repr_Digest": "sha-256=1"}, 200),
    ],
)
def test_nothing_is_read_for_a_digest_that_nobody_gets(
    site: PlannedSite, query: str, method: str, headers: dict[str, str], status: int
) -> None:
    answer = site.ask(query, method, **headers)
    assert answer.status == status
    assert "repr-digest" not in answer.headers
    assert site.planned.spans == []


def test_get_makes_no_digest(site: PlannedSite) -> None:
    answer = site.ask("", "GET", Want_Repr_Digest="sha-256=1")
    assert "repr-digest" not in answer.headers
    assert site.planned.spans == [(0, len(DATA))]


def test_a_digest_of_what_changes_while_it_is_made_is_a_problem(site: PlannedSite) -> None:
    for fault in (changing(3), shorter, longer):
        site.planned.fault = fault
        answer = site.ask("", "HEAD", Want_Repr_Digest="sha-256=1")
        assert answer.status == 500
        assert "repr-digest" not in answer.headers
        assert "etag" not in answer.headers


def test_making_a_digest_is_an_open_export() -> None:
    gate = threading.Event()
    with planned_site(Planned(DATA, gate=gate), limit=1) as site:
        with Client(site.port) as client:
            client.request(TARGET, "HEAD", "Want-Repr-Digest: sha-256=1\r\n")
            while not site.planned.spans:
                gate.wait(0.001)
            assert site.running.exporter.statistics().open == 1
            assert problem(site.ask("?length=unknown"))["code"] == "busy"
            gate.set()
            assert client.head().headers["repr-digest"] == DIGEST
        site.idle()


def test_a_client_that_leaves_ends_the_making_of_its_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, left = threading.Event(), threading.Event()
    original = Digesting.leave

    def leave(made: Digesting) -> None:
        original(made)
        left.set()

    monkeypatch.setattr(Digesting, "leave", leave)
    read: list[int] = []

    def counted(pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            read.append(len(piece))
            yield piece

    with planned_site(Planned(DATA, gate=gate, fault=counted)) as site:
        with Client(site.port) as client:
            client.request(TARGET, "HEAD", "Want-Repr-Digest: sha-256=1\r\n")
            while not site.planned.spans:
                gate.wait(0.001)
        assert left.wait(60)
        gate.set()
        site.idle()
        assert site.planned.open == 0
    assert len(read) <= 2, "it was read on although nobody waited"


# --- sources that break


def changing(after: int) -> Any:
    def fault(pieces: Iterator[bytes]) -> Iterator[bytes]:
        for number, piece in enumerate(pieces):
            if number == after:
                raise SourceChanged("cannot export container box: it changed")
            yield piece

    return fault


def shorter(pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield from list(pieces)[:-1]


def longer(pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield from pieces
    yield b"x"


def test_an_outline_that_fails_is_a_problem(site: PlannedSite) -> None:
    site.planned.refusal = StoreDamaged("cannot export container box: its store is damaged")
    for headers in ({}, {"Range": "bytes=5-"}, {"If_None_Match": '"v1"'}):
        assert problem(site.ask("", **headers))["code"] == "store_damaged"
        assert site.ask("", "HEAD", **headers).status == 500


@pytest.mark.parametrize("range_", ["", "bytes=10-", "bytes=10-1200000", "bytes=-1400000"])
def test_a_part_that_fails_before_its_first_byte_is_a_problem(site: PlannedSite, range_: str) -> None:
    site.planned.fault = changing(0)
    answer = site.ask("", **({"Range": range_} if range_ else {}))
    assert problem(answer)["code"] == "source_changed"
    assert "etag" not in answer.headers
    assert "content-range" not in answer.headers


@pytest.mark.parametrize("fault", [changing(5), shorter, longer], ids=["changing", "shorter", "longer"])
@pytest.mark.parametrize("range_", ["", "bytes=10-", "bytes=10-1200000", "bytes=-1400000"])
def test_a_part_that_fails_later_breaks_off(site: PlannedSite, range_: str, fault: Any) -> None:
    site.planned.fault = fault
    answer = site.ask("", **({"Range": range_} if range_ else {}))
    assert answer.status == (206 if range_ else 200)
    assert not answer.complete
    assert len(answer.body) < int(answer.headers["content-length"])


def test_everything_else_goes_on_after_a_broken_body(site: PlannedSite) -> None:
    site.planned.fault = changing(5)
    assert not site.ask().complete
    site.planned.fault = iter
    assert site.ask().body == DATA
    assert ask(site.port, "/healthz").status == 200


@pytest.mark.parametrize("compression", [each.value for each in Compression if each is not Compression.NONE])
def test_a_compressed_archive_has_no_version(site: PlannedSite, compression: str) -> None:
    for method in ("GET", "HEAD"):
        assert not outlined(site.ask(f"?compression={compression}", method, Range="bytes=0-9"))
