"""Reading a query: whatever it holds, values or an InvalidRequest; and file names that no browser misreads."""

from __future__ import annotations

import os
import re
from urllib.parse import quote_from_bytes

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from streamer.errors import InvalidRequest
from streamer.export.naming import basename
from streamer.export.plan import ExportPlan, Kind
from streamer.tar.compression import Compression
from streamer.web import parameters, respond

KNOWN = (*parameters.ARCHIVE, parameters.NAME)


def read(query: str) -> dict[str, object]:
    return parameters.read(make_mocked_request("GET", str(URL("/?" + query, encoded=True))), KNOWN)


@given(st.binary())
def test_any_bytes_are_a_path(path: bytes) -> None:
    query = f"name=x&path={quote_from_bytes(path, safe='')}"
    if not path or b"\0" in path:
        with pytest.raises(InvalidRequest):
            read(query)
    else:
        assert read(query)["path"] == path


@given(st.lists(st.binary(), min_size=1))
def test_any_bytes_are_patterns_in_their_order(patterns: list[bytes]) -> None:
    query = "&".join(["name=x", *(f"include={quote_from_bytes(each, safe='')}" for each in patterns)])
    assert read(query)["include"] == [os.fsdecode(each) for each in patterns]


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#")))
def test_any_query_is_read_or_refused(query: str) -> None:
    try:
        values = read(query)
    except InvalidRequest as error:
        assert "parameter" in error.details
    else:
        assert values.keys() <= {parameter.name for parameter in KNOWN}
        assert values["name"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("name=a%2Fb%3A1", {"name": ["a/b:1"]}),
        ("name=a+b", {"name": ["a b"]}),
        ("name=a%2Bb", {"name": ["a+b"]}),
        ("name=a;mtime=1", {"name": ["a;mtime=1"]}),
        ("&&name=a&", {"name": ["a"]}),
        ("name=%C3%A4", {"name": ["ä"]}),
        ("name=%", {"name": ["%"]}),
        ("name=a&mtime=007", {"name": ["a"], "mtime": 7}),
        ("name=a&mtime=8589934591", {"name": ["a"], "mtime": (1 << 33) - 1}),
    ],
)
def test_what_is_read(query: str, expected: dict[str, object]) -> None:
    assert read(query) == expected


@given(st.text(max_size=300), st.sampled_from(Compression))
def test_file_names_are_plain(name: str, compression: Compression) -> None:
    """CVE-2022-36359, CVE-2023-29401: what is in a name must not become part of the header, nor a name of its own."""
    plan = ExportPlan(Kind.CONTAINER, "t", basename(name), lambda _session: iter(()), compression)
    value = respond.headers(plan)["Content-Disposition"]
    found = re.fullmatch(r'attachment; filename="([A-Za-z0-9._-]+)"', value)
    assert found is not None
    assert found[1].endswith(".tar" + compression.suffix)
    assert not found[1].startswith((".", "-"))
    assert len(found[1]) < 140


@pytest.mark.parametrize("text", ["0", "1001", "0000199999999", "-1", "1.0", "", "²"])
def test_how_many_jobs_may_be_listed(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parameters._limit(text)
    assert parameters._limit("1000") == 1000
