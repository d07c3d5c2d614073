"""Where an export goes: `s3://bucket/key`, `gs://bucket/key`, `az://container/key`, `file:///dir/name`, `/dir/name`."""

from __future__ import annotations

import enum
import os
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes, urlsplit

from streamer.errors import InvalidRequest

_LONGEST_KEY = 1024
"""Bytes: S3's limit, and that of Google and Azure."""
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


class Scheme(enum.StrEnum):
    S3 = "s3"
    GS = "gs"
    AZ = "az"
    FILE = "file"
    MEMORY = "memory"
    """Of this process only: for tests."""


@dataclass(frozen=True, slots=True)
class Address:
    """One object: `bucket` (Azure's container; empty for a file) and `key` (for a file its absolute path)."""

    scheme: Scheme
    bucket: str
    key: str

    def __str__(self) -> str:
        return self.key if self.scheme is Scheme.FILE else f"{self.scheme.value}://{self.bucket}/{self.key}"

    @property
    def uri(self) -> str:
        """What `parse` makes this very address of, also for a file."""
        return f"file://{quote(self.key)}" if self.scheme is Scheme.FILE else str(self)


def is_object(text: str) -> bool:
    """Whether the text names an object, and not a file by its plain path."""
    return any(text.startswith(f"{scheme.value}://") for scheme in Scheme)


def parse(text: str) -> Address:
    """The address that a URI or a plain path names. InvalidRequest says what is wrong with it."""
    if text.startswith("file://"):
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            raise _wrong(text, "write it as file:///DIR/NAME")
        return _file(text, os.fsdecode(unquote_to_bytes(parts.path)))
    for scheme in Scheme:
        if text.startswith(f"{scheme.value}://"):
            return _object(scheme, text)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        raise _wrong(text, "possible are s3://, gs://, az:// and file://")
    return _file(text, os.path.abspath(text) if text else "")


def _object(scheme: Scheme, text: str) -> Address:
    bucket, _, key = text.removeprefix(f"{scheme.value}://").partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise _wrong(text, f"write it as {scheme.value}://BUCKET/KEY")
    if not key or key.endswith("/"):
        raise _wrong(text, "the key is missing: name the object")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise _wrong(text, "its key is not UTF-8") from None
    if size > _LONGEST_KEY:
        raise _wrong(text, f"its key is longer than {_LONGEST_KEY} bytes")
    if not key.isprintable() or any(part in ("", ".", "..") for part in key.split("/")):
        raise _wrong(text, "its key has a control character, or an empty component, `.` or `..`")
    return Address(scheme, bucket, key)


def _file(text: str, path: str) -> Address:
    if not path.startswith("/") or "\0" in path or os.path.basename(path) in ("", ".", ".."):
        raise _wrong(text, "it is not the name of a file")
    return Address(Scheme.FILE, "", os.path.normpath(path))


def _wrong(text: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"cannot export to {text[:300]!r}: {why}", parameter="destination")
