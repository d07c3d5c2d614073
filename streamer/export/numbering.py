"""Numbers of users and groups inside extended attributes, as a process in the container's user namespace sees them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from streamer.mounts.mount import Ids, Range

_CAPABILITY: Final = b"security.capability"
_ACLS: Final = (b"system.posix_acl_access", b"system.posix_acl_default")

_REVISION_2: Final = 2 << 24  # linux/capability.h; the lowest bit says whether they are effective at once
_REVISION_3: Final = 3 << 24
_REVISION: Final = 0xFF << 24
_V2_SIZE, _V3_SIZE = 20, 24

_ACL_VERSION: Final = 2
_ACL_ENTRY: Final = struct.Struct("<HHI")  # tag, permissions, ID: linux/posix_acl_xattr.h
_USER, _GROUP = 0x02, 0x08


def numbered(xattrs: Mapping[bytes, bytes], ids: Ids) -> dict[bytes, bytes]:
    """The attributes with every number in them that a user namespace changes changed; what means nothing in it left
    out. Values of unknown form stay as they are."""
    found = {}
    for name, value in xattrs.items():
        if name == _CAPABILITY:
            seen = capability(value, ids)
            if seen is None:
                continue
            value = seen
        elif name in _ACLS:
            value = acl(value, ids)
        found[name] = value
    return found


def capability(value: bytes, ids: Ids) -> bytes | None:
    """File capabilities as inside: revision 2 if they are those of the namespace's own root, None if of another's.

    The kernel gives a program the capabilities of a revision 3 attribute only in a namespace whose root is the user
    that the attribute names (user_namespaces(7), capabilities(7)); everywhere else it runs it as if there were none,
    and so must what becomes of the archive. Revision 2 stays: an engine that unpacks as the host's root writes it so.
    """
    if len(value) != _V3_SIZE:
        return value
    magic = int.from_bytes(value[:4], "little")
    if magic & _REVISION != _REVISION_3:
        return value
    if _inside(ids.users, int.from_bytes(value[_V2_SIZE:], "little")) != 0:
        return None
    return (magic & ~_REVISION | _REVISION_2).to_bytes(4, "little") + value[4:_V2_SIZE]


def acl(value: bytes, ids: Ids) -> bytes:
    """An access control list as inside. An entry for somebody who has no number there is left out: nobody in there can
    be meant, and several such entries would become one another's duplicates."""
    body = value[4:]
    if len(value) < 4 or int.from_bytes(value[:4], "little") != _ACL_VERSION or len(body) % _ACL_ENTRY.size:
        return value
    entries = [value[:4]]
    for tag, permissions, number in _ACL_ENTRY.iter_unpack(body):
        if tag in (_USER, _GROUP):
            seen = _inside(ids.users if tag == _USER else ids.groups, number)
            if seen is None:
                continue
            number = seen
        entries.append(_ACL_ENTRY.pack(tag, permissions, number))
    return b"".join(entries)


def _inside(ranges: tuple[Range, ...], number: int) -> int | None:
    return next((first + number - disk for first, disk, count in ranges if disk <= number < disk + count), None)
