"""Header blocks, byte for byte as Go's archive/tar writes them for go-archive (`Profile.DOCKER`), or a richer PAX.

What Docker's writer does holds: names of users are empty, a plain ustar header wherever everything fits it, else a
PAX `x` member in front with its records sorted by key. POSIX.1-2017 pax, "ustar" and "pax Header Block"; the sparse
records are GNU's format 1.0.
"""

from __future__ import annotations

import posixpath
from zlib import adler32

from streamer.errors import Unsupported, shown
from streamer.tar import acl
from streamer.tar.entry import BLOCK, CHAR, DIRECTORY, FIFO, LINK, REGULAR, SYMLINK, Entry, Profile

_SECOND = 1_000_000_000
_GO_ZERO_TIME = -62135596800
"""January of year 1: Go's zero time, which its writer turns into 0 without a PAX record."""
_PAX_LIMIT = 1 << 20
_CAPABILITY = b"security.capability"

_HEAD = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0"
_CHECKSUM = b"%06o\0 "
_TAIL = b"%b%bustar\00000" + bytes(64) + b"%07o\0%07o\0%b" + bytes(12)
_NO_NAME = bytes(100)
_NO_PREFIX = bytes(155)
_NO_SLASH = frozenset((REGULAR, CHAR, BLOCK, FIFO))


def _sum(part: bytes) -> int:
    # The low half of Adler-32 is 1 + the sum of all bytes mod 65521; a header's text is ASCII, so no part of it
    # ever sums up to 65520 (100 + 100 + 155 bytes of at most 127, and digits), and this is 20 times faster than sum().
    return (adler32(part) & 0xFFFF) - 1


_TAILS = {
    kind: (tail, _sum(tail) + 8 * 0x20)
    for kind in (REGULAR, LINK, SYMLINK, CHAR, BLOCK, DIRECTORY, FIFO)
    for tail in (_TAIL % (kind, _NO_NAME, 0, 0, _NO_PREFIX),)
}


def encode(entry: Entry, profile: Profile) -> bytes:
    """All header blocks of a member, a multiple of 512 bytes; a sparse member's map block(s) are part of them, so that
    exactly `entry.stored` bytes and their padding follow.

    Raises Unsupported naming the member if the format cannot hold it.
    """
    name = entry.name
    kind = entry.type
    seconds, fraction = divmod(entry.mtime, _SECOND)
    if (
        0 < len(name) <= 100
        and not (entry.uid | entry.gid | entry.mode) >> 21
        and not (entry.size | seconds) >> 33
        and not entry.xattrs
        and name.isascii()
        and b"\0" not in name
        and name.endswith(b"/") is (kind == DIRECTORY)
        and entry.sparse is None
        and (profile is Profile.DOCKER or not fraction)
        and kind in _TAILS
    ):
        tail, checksum = _TAILS[kind]
        link = entry.linkname
        if link or entry.devmajor or entry.devminor:
            if len(link) > 100 or not link.isascii() or b"\0" in link or (entry.devmajor | entry.devminor) >> 21:
                return _extended(entry, profile, seconds, fraction)
            tail = _TAIL % (kind, link.ljust(100, b"\0"), entry.devmajor, entry.devminor, _NO_PREFIX)
            checksum = _sum(tail) + 8 * 0x20
        head = _HEAD % (name.ljust(100, b"\0"), entry.mode, entry.uid, entry.gid, entry.size, seconds)
        return b"%b%06o\0 %b" % (head, checksum + (adler32(head) & 0xFFFF) - 1, tail)
    return _extended(entry, profile, seconds, fraction)


def _extended(entry: Entry, profile: Profile, seconds: int, fraction: int) -> bytes:
    """The general case: Go's `allowedFormats`, then `writeUSTARHeader` or `writePAXHeader`."""
    _refuse_impossible(entry)
    name, size, sparse_map = entry.name, entry.size, b""
    records: dict[bytes, bytes] = {}
    if entry.sparse is not None:
        if profile is Profile.DOCKER:
            raise _unsupported(entry, "this profile has no sparse files")
        if any(length % 512 for _, length in entry.sparse[:-1]):
            # GNU tar pads every extent to a block, the others none: only where nothing is to pad do they agree.
            raise _unsupported(entry, "an extent of it is not made of whole blocks of 512 bytes")
        sparse_map = _sparse_map(entry.sparse, entry.size)
        size = len(sparse_map) + entry.stored
        records[b"GNU.sparse.major"] = b"1"
        records[b"GNU.sparse.minor"] = b"0"
        records[b"GNU.sparse.name"] = name
        records[b"GNU.sparse.realsize"] = b"%d" % entry.size
        # Cut and not recorded as `path`: tarfile would take that for the name, all others take GNU.sparse.name.
        name = _ascii(_beside(name, b"GNUSparseFile.0"))[:100]
    pax = bool(records)

    # `path` is recorded for every name that is long, but a name that the prefix field can hold does not force PAX.
    prefix, suffix = b"", name
    if len(name) > 100 or not name.isascii():
        records[b"path"] = name
        split = _split(name)
        if split is None:
            pax = True
        else:
            prefix, suffix = split
    if len(entry.linkname) > 100 or not entry.linkname.isascii():
        records[b"linkpath"] = entry.linkname
    for key, number, bits in ((b"uid", entry.uid, 21), (b"gid", entry.gid, 21), (b"size", size, 33)):
        if number >> bits:
            records[key] = b"%d" % number
    if profile is Profile.DOCKER:
        fraction = 0
    if seconds == _GO_ZERO_TIME and not fraction:
        seconds = 0
    if seconds >> 33 or fraction:
        records[b"mtime"] = _pax_time(seconds, fraction)
    records.update(_xattr_records(entry, profile))
    if profile is Profile.FULL and not (_utf8(entry.name) and _utf8(entry.linkname)):
        # POSIX's word for names that are no text: without it bsdtar warns and ends with a failure.
        records[b"hdrcharset"] = b"BINARY"
    if not pax and not records.keys() - {b"path"}:
        return _block(entry, suffix, entry.linkname, size, seconds, prefix)

    body = b"".join(_record(key, records[key]) for key in sorted(records))
    if len(body) > _PAX_LIMIT:
        raise _unsupported(entry, f"its extended header would be longer than {_PAX_LIMIT} bytes")
    # Go leaves non-ASCII bytes out; a link target with nothing left makes bsdtar take a symlink for a hard link.
    substitute = b"" if profile is Profile.DOCKER else b"?"
    main = _block(entry, _ascii(name, substitute), _ascii(entry.linkname, substitute), size, seconds, b"")
    return b"".join((_pax_block(entry.name, len(body)), body, bytes(-len(body) % 512), main, sparse_map))


def _refuse_impossible(entry: Entry) -> None:
    if not entry.name:
        raise _unsupported(entry, "it has no name")
    if b"\0" in entry.name or b"\0" in entry.linkname:
        raise _unsupported(entry, "its name or link target contains a NUL byte")
    if entry.type not in _TAILS:
        raise _unsupported(entry, f"its type {entry.type!r} cannot be written")
    if entry.type in _NO_SLASH and entry.name.endswith(b"/"):
        raise _unsupported(entry, "the name of anything but a directory may not end in a slash")
    if entry.mode >> 21 or entry.devmajor >> 21 or entry.devminor >> 21:
        raise _unsupported(entry, "its mode or device number is outside of 0 to 2097151")
    if entry.uid < 0 or entry.gid < 0 or entry.size < 0:
        raise _unsupported(entry, "its owner or size is negative")


def _block(entry: Entry, name: bytes, link: bytes, size: int, seconds: int, prefix: bytes) -> bytes:
    """One ustar block; a number that does not fit is written as 0 (its PAX record carries it)."""
    head = _HEAD % (
        _field(name, 100),
        entry.mode,
        0 if entry.uid >> 21 else entry.uid,
        0 if entry.gid >> 21 else entry.gid,
        0 if size >> 33 else size,
        0 if seconds >> 33 else seconds,
    )
    tail = _TAIL % (entry.type, _field(link, 100), entry.devmajor, entry.devminor, prefix.ljust(155, b"\0"))
    return b"".join((head, _CHECKSUM % (_sum(head) + 8 * 0x20 + _sum(tail)), tail))


def _pax_block(name: bytes, size: int) -> bytes:
    title = _ascii(_beside(name, b"PaxHeaders.0"))[:100].rstrip(b"/")
    head = _HEAD % (title.ljust(100, b"\0"), 0, 0, 0, size, 0)
    # Its device fields are all NUL: Go leaves them out here, but writes zeros in the main header.
    tail = b"x" + _NO_NAME + b"ustar\00000" + bytes(64 + 16 + 155 + 12)
    return b"".join((head, _CHECKSUM % (_sum(head) + 8 * 0x20 + _sum(tail)), tail))


def _field(text: bytes, width: int) -> bytes:
    """Go's `formatString`: cut; where the cut falls behind a slash, NUL goes in front of that slash's run."""
    if len(text) <= width:
        return text.ljust(width, b"\0")
    cut = text[:width]
    if cut.endswith(b"/"):
        end = len(text[: width - 1].rstrip(b"/"))
        cut = cut[:end] + b"\0" + cut[end + 1 :]
    return cut


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """Prefix and suffix of a name longer than 100 bytes, or None where ustar cannot hold it (Go's splitUSTARPath)."""
    if len(name) <= 100 or not name.isascii():
        return None
    end = len(name)
    if end > 156:
        end = 156
    elif name.endswith(b"/"):
        end -= 1
    at = name.rfind(b"/", 0, end)
    if at <= 0 or at > 155 or not 0 < len(name) - at - 1 <= 100:
        return None
    return name[:at], name[at + 1 :]


def _ascii(text: bytes, substitute: bytes = b"") -> bytes:
    if text.isascii():
        return text
    return b"".join(b"%c" % byte if byte < 0x80 else substitute for byte in text)


def _utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _beside(name: bytes, directory: bytes) -> bytes:
    """`dir/base` becomes `dir/DIRECTORY/base`, cleaned as Go's path.Join cleans."""
    parent, slash, base = name.rpartition(b"/")
    path = posixpath.normpath(parent + slash + directory + (b"/" + base if base else b""))
    return path[1:] if path.startswith(b"//") else path


def _record(key: bytes, value: bytes) -> bytes:
    """One PAX record: its length counts the digits of the length itself."""
    size = len(key) + len(value) + 3
    total = size + len(str(size))
    total = size + len(str(total))
    return b"%d %b=%b\n" % (total, key, value)


def _pax_time(seconds: int, fraction: int) -> bytes:
    if not fraction:
        return b"%d" % seconds
    sign = b""
    if seconds < 0:
        # 1.5 s before the epoch is floor -2 and half a second: written -1.5.
        sign, seconds, fraction = b"-", -(seconds + 1), _SECOND - fraction
    return (b"%b%d.%09d" % (sign, seconds, fraction)).rstrip(b"0")


def _xattr_records(entry: Entry, profile: Profile) -> dict[bytes, bytes]:
    if profile is Profile.DOCKER:
        value = entry.xattrs.get(_CAPABILITY)
        if value is None:
            return {}
        if value[3:4] == b"\x03":
            # Revision 3 names the root user of a namespace, which means nothing where the archive is unpacked.
            value = (value[:3] + b"\x02" + value[4:])[:20]
        return {b"SCHILY.xattr." + _CAPABILITY: value}
    records = {}
    for key, value in entry.xattrs.items():
        if not key or b"\0" in key:
            raise _unsupported(entry, "the name of an extended attribute is empty or contains a NUL byte")
        # A record ends its key at the first "=": GNU tar's escape, which it and our reader undo.
        records[b"SCHILY.xattr." + key.replace(b"%", b"%25").replace(b"=", b"%3D")] = value
        if key in acl.ATTRIBUTES and (said := acl.text(value)) is not None:
            # Told to restore ACLs, GNU tar and bsdtar look at these and leave the attributes aside.
            records[acl.ATTRIBUTES[key]] = said
    return records


def _sparse_map(extents: tuple[tuple[int, int], ...], size: int) -> bytes:
    """GNU sparse 1.0: count, then offset and length of each extent, one decimal a line, padded to blocks."""
    end = extents[-1][0] + extents[-1][1] if extents else 0
    # An empty extent at the very end makes GNU tar extend a file whose end is a hole.
    listed = extents if extents and end == size else (*extents, (size, 0))
    text = b"%d\n" % len(listed) + b"".join(b"%d\n%d\n" % extent for extent in listed)
    return text + bytes(-len(text) % 512)


def _unsupported(entry: Entry, reason: str) -> Unsupported:
    member = shown(entry.name)
    return Unsupported(f"{member!r} cannot be put into a tar archive: {reason}", member=member)
