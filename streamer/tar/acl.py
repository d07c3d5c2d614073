"""POSIX ACLs as text. The kernel keeps them as binary attributes; tar programs restore them from text records.

The attribute: a little-endian u32 version (2), then entries of u16 tag, u16 permissions, u32 ID (posix_acl_xattr.h of
Linux).
The text: the short form of acl_from_text(3) with numeric IDs, as star's SCHILY.acl records hold it.
"""

from __future__ import annotations

import struct

ATTRIBUTES = {b"system.posix_acl_access": b"SCHILY.acl.access", b"system.posix_acl_default": b"SCHILY.acl.default"}
"""Names of the attributes, and of the PAX records that say the same as text."""

_VERSION = 2
_ENTRY = struct.Struct("<HHI")
_TAGS = {0x01: b"user", 0x02: b"user", 0x04: b"group", 0x08: b"group", 0x10: b"mask", 0x20: b"other"}
_NAMED = (0x02, 0x08)


def text(value: bytes) -> bytes | None:
    """`user::rwx,user:1000:r-x,group::r--,…`; None for a value that is not an ACL of the known version."""
    body = value[4:]
    if len(value) < 4 or int.from_bytes(value[:4], "little") != _VERSION or len(body) % _ENTRY.size or not body:
        return None
    entries = []
    for tag, permissions, number in _ENTRY.iter_unpack(body):
        if tag not in _TAGS or permissions > 7:
            return None
        named = b"%d" % number if tag in _NAMED else b""
        shown = bytes(letter if permissions & bit else 0x2D for letter, bit in zip(b"rwx", (4, 2, 1), strict=True))
        entries.append(b"%b:%b:%b" % (_TAGS[tag], named, shown))
    return b",".join(entries)
