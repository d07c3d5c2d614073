"""Content codings: only what is asked for, the one wanted most, and never two compressions at once."""

from __future__ import annotations

import gzip
import json
import sys

import pytest
from support.asking import problem
from support.sites import Site

from streamer.tar.compression import Compression
from streamer.web.negotiate import coding
from streamer.web.problems import NotAcceptable

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

NONE, GZIP, ZSTD = Compression.NONE, Compression.GZIP, Compression.ZSTD


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], NONE),
        ([""], NONE),
        (["gzip"], GZIP),
        (["GZip"], GZIP),
        (["x-gzip"], GZIP),
        (["zstd"], ZSTD),
        (["gzip, deflate, br, zstd"], ZSTD),
        (["gzip", "zstd"], ZSTD),
        (["gzip;q=1.0, zstd;q=0.5"], GZIP),
        (["gzip ; Q=0.5 , zstd;q=0.501"], ZSTD),
        (["deflate, br"], NONE),
        (["identity"], NONE),
        (["identity, gzip"], NONE),
        (["identity;q=0.5, gzip"], GZIP),
        (["identity;q=0.5, gzip;q=0.2"], NONE),
        (["*"], ZSTD),
        (["*;q=0.5, gzip;q=0.7"], GZIP),
        (["zstd;q=0, *"], GZIP),
        (["gzip;q=0"], NONE),
        (["gzip;q=0, zstd;q=0"], NONE),
        (["identity;q=0, gzip;q=0.001"], GZIP),
        (["*;q=0, gzip"], GZIP),
        (["*;q=0, identity"], NONE),
        # Not well formed: asks for nothing.
        (["gzip;q=2"], NONE),
        (["gzip;q=0.0001"], NONE),
        (["gzip;q=x"], NONE),
        (["gzip zstd"], NONE),
        (["gzip;level=9"], NONE),
        (["\xff"], NONE),
        ([", ,gzip,,"], GZIP),
    ],
)
def test_what_is_asked_for(lines: list[str], expected: Compression) -> None:
    assert coding(lines) is expected


@pytest.mark.parametrize("line", ["*;q=0", "identity;q=0", "identity;q=0, gzip;q=0, zstd;q=0", "identity;q=0, br"])
def test_nothing_acceptable(line: str) -> None:
    with pytest.raises(NotAcceptable):
        coding([line])


TARGET = "/v1/containers/box/archive"


def test_bodies(site: Site) -> None:
    plain = site.ask(TARGET)
    assert "content-encoding" not in plain.headers
    assert plain.headers["vary"] == "Accept-Encoding, Accept"
    for name, decode in (("gzip", gzip.decompress), ("zstd", zstd.decompress)):
        coded = site.ask(TARGET, headers=f"Accept-Encoding: {name}\r\n")
        assert coded.headers["content-encoding"] == name
        assert coded.headers["content-type"] == plain.headers["content-type"]
        assert coded.headers["content-disposition"] == plain.headers["content-disposition"]
        assert "content-length" not in coded.headers
        assert decode(coded.body) == plain.body


def test_never_two_compressions(site: Site) -> None:
    answer = site.ask(f"{TARGET}?compression=gzip", headers="Accept-Encoding: zstd, gzip\r\n")
    assert "content-encoding" not in answer.headers
    assert answer.headers["content-type"] == "application/gzip"
    assert gzip.decompress(answer.body) == site.ask(TARGET).body


def test_a_coded_body_promises_neither_length_nor_digest(site: Site) -> None:
    layer = json.loads(site.ask("/v1/layers").body)[0]
    target = f"/v1/layers/{layer['diff_id']}/archive"
    for method in ("GET", "HEAD"):
        plain = site.ask(target, method=method)
        assert {"content-length", "repr-digest"} <= set(plain.headers)
        coded = site.ask(target, method=method, headers="Accept-Encoding: zstd\r\n")
        assert coded.headers["content-encoding"] == "zstd"
        assert not {"content-length", "repr-digest"} & set(coded.headers)


def test_nothing_acceptable_is_told(site: Site) -> None:
    answer = site.ask(TARGET, headers="Accept-Encoding: identity;q=0\r\n")
    assert (answer.status, problem(answer)["code"]) == (406, "not_acceptable")
