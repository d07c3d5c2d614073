"""A thousand random conditional requests against a model of RFC 9110 (13.1, 13.2.2, 14.1.2, 14.2) that knows what each
header was meant to say, and parses nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from support.asking import received
from support.clients import Client
from support.planned import TARGET, Planned, PlannedSite, planned_site

REQUESTS = 1000
ETAG = "0123abcd"
DATA = random.Random(9110).randbytes(5000)
SIZE = len(DATA)
GARBAGE = [
    "",
    "x",
    '"',
    f'"{ETAG}',
    ETAG,
    f"W/{ETAG}",
    "Tue, 24 Nov 2026 06:25:42 GMT",
    f'"{ETAG}" "b"',
    f'"{ETAG}"; q=1',
]


@dataclass
class Condition:
    """A header with entity tags: its text, and what it names."""

    text: str
    strong: bool = False
    """It names the archive's version by a strong tag."""
    weak: bool = False
    """It names the archive's version by any tag."""
    any: bool = False


@dataclass
class Part:
    """A Range header: its text, and the places it names; None if it is to be ignored."""

    text: str
    places: range | None


def tag(pick: random.Random) -> tuple[str, bool, bool]:
    """Text, names the version strongly, names it at all."""
    value = pick.choice([ETAG, ETAG, "other", "", ETAG + "x", "a,b"])
    weak = pick.random() < 0.3
    same = value == ETAG
    return f'{"W/" if weak else ""}"{value}"', same and not weak, same


def conditions(pick: random.Random, single: bool) -> Condition:
    roll = pick.random()
    if roll < 0.15:
        return Condition(pick.choice(GARBAGE))
    if roll < 0.3 and not single:
        return Condition(pick.choice(["*", " *", "* "]), any=True)
    tags = [tag(pick) for _ in range(1 if single else pick.randint(1, 4))]
    text = "".join(f"{pick.choice([', ', ',', ' , ', ',, '])}{each[0]}" for each in tags).lstrip(", ")
    return Condition(text, any(each[1] for each in tags), any(each[2] for each in tags))


def part(pick: random.Random) -> Part:
    def place() -> int:
        return pick.choice([0, 1, SIZE - 1, SIZE, SIZE + 1, 10 * SIZE, pick.randrange(SIZE), pick.randrange(SIZE)])

    kind = pick.choice(["closed", "closed", "open", "open", "suffix", "several", "unit", "garbage"])
    first, last = place(), place()
    unit = pick.choice(["bytes", "bytes", "Bytes"])
    if kind == "closed":
        return Part(f"{unit}={first}-{last}", range(first, last + 1) if first <= last else None)
    if kind == "open":
        return Part(f"{unit}={first:0{pick.randint(1, 9)}}-", range(first, max(first, SIZE)))
    if kind == "suffix":
        return Part(f"{unit}=-{last}", range(max(0, SIZE - last), SIZE))
    if kind == "several":
        return Part(f"{unit}={first}-,{last}-", None)
    if kind == "unit":
        return Part(f"{pick.choice(['items', 'byte', 'none', 'bytes '])}={first}-{last}", None)
    return Part(pick.choice(["", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=1-2-3", "bytes=-1-2", "=0-1"]), None)


@dataclass
class Request:
    method: str
    range: Part | None = None
    if_range: Condition | None = None
    if_match: Condition | None = None
    if_none_match: Condition | None = None

    @property
    def headers(self) -> str:
        named = {"Range": self.range, "If-Range": self.if_range, "If-Match": self.if_match}
        named["If-None-Match"] = self.if_none_match
        return "".join(f"{name}: {each.text}\r\n" for name, each in named.items() if each is not None)


def random_request(pick: random.Random) -> Request:
    def sometimes(share: float) -> bool:
        return pick.random() < share

    return Request(
        pick.choice(["GET", "GET", "GET", "HEAD"]),
        part(pick) if sometimes(0.8) else None,
        conditions(pick, single=True) if sometimes(0.4) else None,
        conditions(pick, single=False) if sometimes(0.3) else None,
        conditions(pick, single=False) if sometimes(0.3) else None,
    )


def expected(request: Request) -> tuple[int, list[int]]:
    """Status and places of the body, step by step as 13.2.2 has it."""
    if request.if_match is not None and not (request.if_match.any or request.if_match.strong):
        return 412, []
    if request.if_none_match is not None and (request.if_none_match.any or request.if_none_match.weak):
        return 304, []
    everything = list(range(SIZE))
    if request.method != "GET":
        return 200, []
    if request.range is None or request.range.places is None:
        return 200, everything
    if request.if_range is not None and not request.if_range.strong:
        return 200, everything
    there = [place for place in request.range.places if place < SIZE]
    return (206, there) if there else (416, [])


@pytest.fixture(scope="module")
def site() -> Iterator[PlannedSite]:
    with planned_site(Planned(DATA, ETAG, piece=700)) as opened:
        yield opened


@pytest.mark.parametrize("seed", range(4))
def test_random_requests_get_what_the_rfc_says(site: PlannedSite, seed: int) -> None:
    pick = random.Random(seed)
    seen = set()
    with Client(site.port) as client:
        for _ in range(REQUESTS // 4):
            request = random_request(pick)
            status, places = expected(request)
            client.request(TARGET, request.method, request.headers)
            # A 304 has no body, whatever the method.
            answer = received(client, "HEAD" if status == 304 else request.method)
            assert answer.status == status, request
            assert answer.complete
            seen.add((request.method, status))
            if status in (200, 206):
                assert answer.headers["etag"] == f'"{ETAG}"'
                assert answer.headers["accept-ranges"] == "bytes"
                length = len(places) if request.method == "GET" else SIZE
                assert answer.headers["content-length"] == str(length), request
                assert answer.body == bytes(DATA[place] for place in places), request
            if status == 206:
                assert answer.headers["content-range"] == f"bytes {places[0]}-{places[-1]}/{SIZE}"
            elif status == 416:
                assert answer.headers["content-range"] == f"bytes */{SIZE}"
            else:
                assert "content-range" not in answer.headers
    assert seen == {("GET", status) for status in (200, 206, 304, 412, 416)} | {("HEAD", s) for s in (200, 304, 412)}
    site.idle()
    assert site.planned.open == 0
