"""Where an export goes: what is understood, and what is refused by name."""

from __future__ import annotations

import pytest

from streamer.errors import InvalidRequest
from streamer.sinks.address import Address, Scheme, is_object, parse


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("s3://bucket/key", Address(Scheme.S3, "bucket", "key")),
        ("s3://my.bucket-1/a/b c/ü.tar", Address(Scheme.S3, "my.bucket-1", "a/b c/ü.tar")),
        ("gs://b/k?x=1#y", Address(Scheme.GS, "b", "k?x=1#y")),
        ("az://container/k", Address(Scheme.AZ, "container", "k")),
        ("memory://x/k", Address(Scheme.MEMORY, "x", "k")),
        ("file:///dir/a%20b.tar", Address(Scheme.FILE, "", "/dir/a b.tar")),
        ("file://localhost/dir/a.tar", Address(Scheme.FILE, "", "/dir/a.tar")),
        ("file:///dir/x/../a.tar", Address(Scheme.FILE, "", "/dir/a.tar")),
        ("/dir/a%20b.tar", Address(Scheme.FILE, "", "/dir/a%20b.tar")),
    ],
)
def test_understood(text: str, address: Address) -> None:
    assert parse(text) == address
    assert parse(address.uri) == address


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("s3://", "write it as s3://BUCKET/KEY"),
        ("s3:///key", "write it as s3://BUCKET/KEY"),
        ("s3://-bucket/key", "write it as s3://BUCKET/KEY"),
        ("s3://user:password@host/key", "write it as s3://BUCKET/KEY"),
        ("s3://bucket", "the key is missing"),
        ("s3://bucket/", "the key is missing"),
        ("s3://bucket/dir/", "the key is missing"),
        ("s3://bucket//key", "an empty component"),
        ("s3://bucket/../key", "`.` or `..`"),
        ("s3://bucket/a\nb", "a control character"),
        ("s3://bucket/" + "x" * 1025, "longer than 1024 bytes"),
        ("s3://bucket/" + "ü" * 513, "longer than 1024 bytes"),
        ("s3://bucket/\udcff", "not UTF-8"),
        ("ftp://host/x", "possible are s3://, gs://, az:// and file://"),
        ("http://host/x", "possible are"),
        ("file://host/x", "file:///DIR/NAME"),
        ("file:///x?y", "file:///DIR/NAME"),
        ("file:///", "not the name of a file"),
        ("file:///dir/..", "not the name of a file"),
        ("file:///a%00b", "not the name of a file"),
        ("", "not the name of a file"),
    ],
)
def test_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(text)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "answer"), [("s3://b/k", True), ("file:///x", True), ("a.tar", False), ("./s3://x", False), ("-", False)]
)
def test_objects_are_told_from_files(text: str, answer: bool) -> None:
    assert is_object(text) == answer
