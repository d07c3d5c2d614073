"""PAX extended headers as records, under one strict reading.

Where tar programs disagree about a record (given twice, empty, of a kind that some apply and others ignore, a size that
contradicts the header's own) the archive is refused: an archive that two programs read differently hides something
from one of them (CVE-2025-62518, CVE-2026-53655, CVE-2026-59875).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from streamer.errors import InvalidArchive, LimitExceeded, Unsupported, shown
from streamer.tar.entry import Entry
from streamer.tar.fields import Fields
from streamer.tar.source import Limits

_XATTR = b"SCHILY.xattr."
_SPARSE = b"GNU.sparse."
_EFFECTIVE = frozenset((b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime"))
_OTHER_SPARSE = frozenset((b"SCHILY.realsize", b"SUN.holesdata"))
_REPEATED = frozenset((b"GNU.sparse.offset", b"GNU.sparse.numbytes"))
_LENGTH = re.compile(rb"([1-9][0-9]{0,7}) ")
_TIME = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]*))?")
_OCTAL_SIZE = 0o77777777777


class Records(dict[bytes, bytes]):
    """The records of one extended header; `pairs` has those of sparse format 0.0, whose keys repeat, in order."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.pairs: list[tuple[bytes, bytes]] = []
        for key, value in _parsed(body):
            if key in _REPEATED:
                self.pairs.append((key, value))
            elif key in self:
                raise InvalidArchive(f"an extended header has two records {shown(key)!r}")
            elif not value and (key in _EFFECTIVE or key.startswith(_SPARSE)):
                raise InvalidArchive(f"an extended header has an empty record {shown(key)!r}")
            else:
                self[key] = value

    @property
    def sparse(self) -> bool:
        return bool(self.pairs) or any(key.startswith(_SPARSE) for key in self)


def _parsed(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(body):
        match = _LENGTH.match(body, at)
        end = at + int(match[1]) if match else 0
        if not match or not match.end() < end <= len(body) or body[end - 1] != 0x0A:
            raise InvalidArchive("an extended header is malformed: a record has not the length it says")
        key, equals, value = body[match.end() : end - 1].partition(b"=")
        if not key or not equals or b"\0" in key:
            raise InvalidArchive("an extended header is malformed: a record has no proper key")
        yield key, value
        at = end


def refuse_effective(records: Records) -> None:
    """A global header may only hold what changes no member: some programs apply the others, Docker ignores them."""
    for key in records:
        if key in _EFFECTIVE or key in _OTHER_SPARSE or key.startswith((_SPARSE, _XATTR)):
            raise InvalidArchive(f"a global extended header changes {shown(key)!r} of all members")
    if records.pairs:
        raise InvalidArchive("a global extended header has a sparse map")


def applied(entry: Entry, fields: Fields, records: Records, limits: Limits) -> None:
    """Overrides the header's fields by the records; sparse ones are left to `sparse`."""
    for key in _OTHER_SPARSE:
        if key in records:
            raise Unsupported(f"{shown(entry.name)!r} is sparse in a format that is not known ({key.decode()})")
    if (path := records.get(b"path")) is not None:
        entry.name = checked_name(path, limits)
    if (linkpath := records.get(b"linkpath")) is not None:
        entry.linkname = checked_name(linkpath, limits)
    if (size := records.get(b"size")) is not None:
        entry.size = _size(entry, fields.size, decimal(entry, b"size", size))
    if (uid := records.get(b"uid")) is not None:
        entry.uid = decimal(entry, b"uid", uid)
    if (gid := records.get(b"gid")) is not None:
        entry.gid = decimal(entry, b"gid", gid)
    if (mtime := records.get(b"mtime")) is not None:
        entry.mtime = _nanoseconds(entry, mtime)
    xattrs = {
        # GNU tar's escape for the two bytes that a key cannot hold.
        key[len(_XATTR) :].replace(b"%3D", b"=").replace(b"%25", b"%"): value
        for key, value in records.items()
        if key.startswith(_XATTR)
    }
    if xattrs:
        if b"" in xattrs:
            raise _invalid(entry, "an extended attribute without a name")
        entry.xattrs = xattrs


def checked_name(name: bytes, limits: Limits) -> bytes:
    if len(name) > limits.name:
        raise LimitExceeded(
            f"a name or link target is longer than the allowed {limits.name} bytes", limit="name", value=limits.name
        )
    if b"\0" in name:
        raise InvalidArchive(f"the name {shown(name)!r} contains a NUL byte", member=shown(name))
    return name


def decimal(entry: Entry, key: bytes, value: bytes) -> int:
    """Digits only, below 2**63."""
    if not value.isdigit() or len(value) > 19 or int(value) >> 63:
        raise _invalid(entry, f"a record {shown(key)!r} that is no number")
    return int(value)


def _size(entry: Entry, written: int, given: int) -> int:
    # The record wins. A header that says something else, except 0 or the largest number where the field is too small,
    # would make a program that does not know the record find other members in the content.
    if given == written or (given > _OCTAL_SIZE and written in (0, _OCTAL_SIZE)):
        return given
    raise _invalid(entry, f"two sizes, {written} and {given}")


def _nanoseconds(entry: Entry, value: bytes) -> int:
    match = _TIME.fullmatch(value)
    if not match:
        raise _invalid(entry, "a record 'mtime' that is no time")
    sign, seconds, fraction = match.groups(b"")
    nanoseconds = int(seconds) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
    return -nanoseconds if sign else nanoseconds


def _invalid(entry: Entry, what: str) -> InvalidArchive:
    member = shown(entry.name)
    return InvalidArchive(f"{member!r} has {what}", member=member)
