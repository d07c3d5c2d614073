"""Odd and hostile tar archives, built by `tarbytes` without any of streamer's own code.

`CASES` says of each what the strict reader has to make of it: the error it raises, or the members it finds. `ESCAPES`
are archives that read well and try to reach outside of the directory they are unpacked into: what an unpacker is
tested on.
Every bad archive that was ever met stays here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from support.tarbytes import (
    END,
    GNU,
    POSIX,
    V7,
    base256,
    header,
    long,
    member,
    old_sparse,
    padded,
    pax,
    signed,
    sparse_1_0,
)

from streamer.errors import InvalidArchive, LimitExceeded, StreamerError, Unsupported

Found = tuple[bytes, bytes, bytes]
"""Name, type and stored content of a member."""


@dataclass(frozen=True)
class Case:
    """`entries` is None where an error is expected."""

    id: str
    data: bytes
    error: type[StreamerError] | None = None
    entries: tuple[Found, ...] | None = None
    differs: frozenset[str] = field(default_factory=frozenset)
    """Programs (tar, bsdtar, python) known to read other members, or none, where the strict reader accepts."""


def _one(name: bytes = b"f", content: bytes = b"", type: bytes = b"0") -> tuple[Found, ...]:
    return ((name, type, content),)


def _good() -> list[Case]:
    long_name = b"n" * 3000
    thirty = [(index * 1000, 512) for index in range(30)]
    block = b"b" * 512
    return [
        Case("empty", END, entries=()),
        Case("one", member(b"f", b"hello") + END, entries=_one(b"f", b"hello")),
        Case("exactly-a-block", member(b"f", b"x" * 512) + END, entries=_one(b"f", b"x" * 512)),
        Case("padded-to-10240", member(b"f", b"x") + bytes(10240 - 1024), entries=_one(b"f", b"x")),
        Case("v7", member(b"f", b"x", magic=V7, type=b"\0") + END, entries=_one(b"f", b"x")),
        Case("v7-directory", header(b"d/", magic=V7, type=b"\0") + END, entries=((b"d/", b"5", b""),)),
        Case("v7-spaces", header(b"f", magic=V7, mode=b"   644 \0", uid=b"     0 \0") + END, entries=_one()),
        Case("no-numbers", header(b"f", magic=V7, mode=b"", uid=b"", gid=b"", mtime=b"", size=b"") + END,
             entries=_one()),
        Case("contiguous", member(b"f", b"x", type=b"7") + END, entries=_one(b"f", b"x")),
        Case("prefix", header(b"b", prefix=b"a") + END, entries=_one(b"a/b")),
        Case("full-fields", header(b"b" * 100, prefix=b"a" * 155) + END, entries=_one(b"a" * 155 + b"/" + b"b" * 100)),
        Case("star-prefix", header(b"b", prefix=b"a", trailer=b"tar\0") + END, entries=_one(b"a/b")),
        Case("gnu-prefix-is-no-prefix", header(b"b", magic=GNU, prefix=b"12345670123") + END, entries=_one(b"b"),
             differs=frozenset({"python"})),
        Case("directory-without-slash", header(b"d", type=b"5") + END, entries=((b"d", b"5", b""),)),
        Case("signed-checksum", _signed_checksum() + END, entries=_one(b"\xff\xfe")),
        Case("name-garbage-after-nul", header(b"f\0../../x") + END, entries=_one(b"f")),
        Case("base256-size", member(b"f", b"abc", size=base256(3, 12), magic=GNU) + END, entries=_one(b"f", b"abc")),
        Case("base256-negative-mtime", header(b"f", mtime=base256(-5, 12), magic=GNU) + END, entries=_one()),
        Case("gnu-long-name", long(b"L", long_name) + header(b"cut", magic=GNU) + END, entries=_one(long_name)),
        Case("gnu-long-both",
             long(b"K", long_name) + long(b"L", b"x" + long_name) + header(b"c", type=b"2", link=b"c", magic=GNU) + END,
             entries=_one(b"x" + long_name, type=b"2")),
        Case("pax-path", pax((b"path", long_name)) + header(b"cut") + END, entries=_one(long_name)),
        Case("pax-nothing", pax(body=b"") + header(b"f") + END, entries=_one()),
        Case("pax-newline-in-value", pax((b"path", b"a\n9 size=1\n")) + header(b"f") + END,
             entries=_one(b"a\n9 size=1\n")),
        Case("pax-unknown-keys", pax((b"VENDOR.x", b""), (b"comment", b"\0=")) + header(b"f") + END, entries=_one()),
        Case("pax-size-again", pax((b"size", b"3")) + member(b"f", b"abc") + END, entries=_one(b"f", b"abc")),
        Case("global-comment", pax((b"comment", b"1234"), type=b"g") + header(b"f") + END, entries=_one()),
        Case("hard-link-old-size", header(b"l", type=b"1", link=b"f", size=512, magic=GNU) + header(b"f") + END,
             entries=((b"l", b"1", b""), (b"f", b"0", b""))),
        Case("trailing-garbage", member(b"f", b"x") + END + b"garbage" * 99, entries=_one(b"f", b"x")),
        Case("second-archive-behind", member(b"f", b"x") + END + header(b"../evil") + END, entries=_one(b"f", b"x")),
        Case("old-sparse", old_sparse(b"s", [(0, 512), (1000, 2), (5000, 0)], 5000, block + b"de") + END,
             entries=_one(b"s", block + b"de")),
        Case("old-sparse-continued", old_sparse(b"s", thirty, 40000, block * 30) + END,
             entries=_one(b"s", block * 30)),
        Case("old-sparse-hole", old_sparse(b"s", [(7 << 30, 0)], 7 << 30, b"") + END, entries=_one(b"s", b"")),
        Case("pax-sparse-0.0",
             pax((b"GNU.sparse.size", b"1000"), (b"GNU.sparse.numblocks", b"2"), (b"GNU.sparse.offset", b"10"),
                 (b"GNU.sparse.numbytes", b"512"), (b"GNU.sparse.offset", b"600"), (b"GNU.sparse.numbytes", b"1"))
             + member(b"s", block + b"c") + END,
             entries=_one(b"s", block + b"c")),
        Case("pax-sparse-0.1",
             pax((b"GNU.sparse.size", b"1000"), (b"GNU.sparse.numblocks", b"2"), (b"GNU.sparse.map", b"10,512,600,1"),
                 (b"GNU.sparse.name", b"s"))
             + member(b"GNUSparseFile.1/s", block + b"c") + END,
             entries=_one(b"s", block + b"c")),
        Case("pax-sparse-1.0", sparse_1_0(b"s", [0, 512, 999, 1], 1000, block + b"c") + END,
             entries=_one(b"s", block + b"c")),
        Case("pax-sparse-1.0-empty", sparse_1_0(b"s", [], 1 << 40, b"") + END, entries=_one(b"s", b"")),
        Case("pax-sparse-1.0-long-map",
             sparse_1_0(b"s", [n for i in range(500) for n in (i * 9000, 512)], 1 << 30, block * 500) + END,
             entries=_one(b"s", block * 500)),
    ]  # fmt: skip


def _signed_checksum() -> bytes:
    block = header(b"\xff\xfe")
    blank = block[:148] + b" " * 8 + block[156:]
    return signed(block, b"%06o\0 " % sum(struct.unpack("512b", blank)))


def _bad() -> list[Case]:
    def bad(id: str, data: bytes, error: type[StreamerError] = InvalidArchive) -> Case:
        return Case(id, data, error)

    inner = header(b"../hidden")
    sparse_size = (b"GNU.sparse.size", b"100")
    blocks = (b"GNU.sparse.numblocks", b"1")
    return [
        bad("nothing", b""),
        bad("no-end", member(b"f", b"x")),
        bad("one-zero-block", member(b"f", b"x") + bytes(512)),
        bad("half-an-end", member(b"f", b"x") + bytes(1023)),
        bad("cut-in-header", header(b"f")[:300]),
        bad("cut-in-content", header(b"f", size=600) + b"x" * 100),
        bad("cut-in-padding", header(b"f", size=1) + b"x"),
        bad("lone-zero-block", header(b"a") + bytes(512) + header(b"b") + END),
        bad("not-a-tar", b"hello world " * 100),
        bad("html", b"<!DOCTYPE html>".ljust(2048, b" ")),
        bad("wrong-checksum", header(b"f", checksum=b"000001\0 ") + END),
        bad("checksum-no-number", header(b"f", checksum=b"zzzzzz\0 ") + END),
        bad("checksum-off-by-adler-modulus", _checksum_off(65521) + END),
        bad("size-no-number", header(b"f", size=b"00000000zzz") + END),
        bad("size-minus", header(b"f", size=b"-0000000010") + END),
        bad("size-base256-negative", header(b"f", size=base256(-512, 12)) + END),
        bad("size-base256-huge", header(b"f", size=b"\x80" + b"\xff" * 11) + END),
        bad("size-2-63", header(b"f", size=base256(1 << 63, 12)) + END),
        bad("size-huge-then-end", header(b"f", size=base256((1 << 63) - 1, 12)) + END),
        bad("uid-base256-negative", header(b"f", uid=base256(-2, 8)) + END),
        bad("mode-no-number", header(b"f", mode=b"rw-r--r-") + END),
        bad("nul-in-front-of-digits", header(b"f", size=b"\x0000000000001") + padded(b"x") + END),
        bad("no-name", header(b"") + END),
        bad("symlink-without-target", header(b"l", type=b"2") + END),
        bad("hard-link-without-target", header(b"l", type=b"1") + END),
        bad("file-with-slash", header(b"f/") + END),
        bad("fifo-with-slash", header(b"f/", type=b"6") + END),
        bad("directory-with-content", header(b"d/", type=b"5", size=512) + inner + END),
        bad("symlink-with-content", header(b"l", type=b"2", link=b"x", size=512) + inner + END),
        bad("fifo-with-content", header(b"p", type=b"6", size=512) + inner + END),
        bad("device-with-content", header(b"p", type=b"3", size=512) + inner + END),
        bad("hard-link-with-content", header(b"l", type=b"1", link=b"f", size=512) + inner + END),
        bad("hard-link-with-pax-size", pax((b"size", b"512")) + header(b"l", type=b"1", link=b"f") + inner + END),
        bad("unknown-type", header(b"f", type=b"Z") + END, Unsupported),
        bad("volume-label", header(b"f", type=b"V", magic=GNU) + END, Unsupported),
        bad("multi-volume", header(b"f", type=b"M", magic=GNU) + END, Unsupported),
        bad("dump-directory", header(b"f/", type=b"D", magic=GNU) + END, Unsupported),
        bad("solaris-extended", header(b"f", type=b"X", size=0) + END, Unsupported),
        # TARmageddon, CVE-2025-62518: the record's size and the header's lead to different members.
        bad("pax-size-hides-members", pax((b"size", b"1024")) + header(b"f", size=0) + inner + inner + END),
        bad("pax-size-smaller", pax((b"size", b"0")) + header(b"f", size=512) + inner + END),
        bad("pax-size-negative", pax((b"size", b"-512")) + header(b"f") + END),
        bad("pax-size-plus", pax((b"size", b"+3")) + member(b"f", b"abc") + END),
        bad("pax-size-2-63", pax((b"size", b"%d" % (1 << 63))) + header(b"f") + END),
        bad("pax-size-text", pax((b"size", b"12x")) + header(b"f") + END),
        bad("pax-size-unicode-digits", pax((b"size", "٣".encode())) + header(b"f") + END),
        bad("pax-size-empty", pax((b"size", b"")) + header(b"f") + END),
        bad("pax-uid-text", pax((b"uid", b"root")) + header(b"f") + END),
        bad("pax-uid-33-bits", pax((b"uid", b"4294967296")) + header(b"f") + END),
        bad("pax-mtime-text", pax((b"mtime", b"now")) + header(b"f") + END),
        bad("pax-mtime-exponent", pax((b"mtime", b"1e9")) + header(b"f") + END),
        bad("pax-path-nul", pax((b"path", b"good\0../evil")) + header(b"f") + END),
        bad("pax-linkpath-nul", pax((b"linkpath", b"a\0b")) + header(b"l", type=b"2", link=b"x") + END),
        bad("pax-path-empty", pax((b"path", b"")) + header(b"f") + END),
        bad("pax-path-twice", pax((b"path", b"a"), (b"path", b"b")) + header(b"f") + END),
        bad("pax-length-wrong", pax(body=b"99 path=a\n") + header(b"f") + END),
        bad("pax-length-short", pax(body=b"5 path=a\n") + header(b"f") + END),
        bad("pax-length-zero", pax(body=b"0 path=a\n") + header(b"f") + END),
        bad("pax-length-leading-zero", pax(body=b"010 path=a\n") + header(b"f") + END),
        bad("pax-length-huge", pax(body=b"9" * 500 + b" path=a\n") + header(b"f") + END),
        bad("pax-length-negative", pax(body=b"-9 path=a\n") + header(b"f") + END),
        bad("pax-no-newline", pax(body=b"9 path=ab") + header(b"f") + END),
        bad("pax-no-equals", pax(body=b"8 path1\n") + header(b"f") + END),
        bad("pax-no-key", pax(body=b"5 =a\n") + header(b"f") + END),
        bad("pax-key-nul", pax((b"pa\0th", b"a")) + header(b"f") + END),
        bad("pax-xattr-no-name", pax((b"SCHILY.xattr.", b"a")) + header(b"f") + END),
        bad("pax-too-long", header(b"x", type=b"x", size=(1 << 20) + 1) + bytes(1 << 21), LimitExceeded),
        bad("pax-1-gib", header(b"x", type=b"x", size=1 << 30) + bytes(1 << 21), LimitExceeded),
        bad("pax-twice", pax((b"path", b"a")) * 2 + header(b"f") + END),
        bad("pax-without-member", pax((b"path", b"a")) + END),
        bad("pax-then-global", pax((b"path", b"a")) + pax((b"comment", b"a"), type=b"g") + header(b"f") + END),
        bad("pax-then-long-name", pax((b"path", b"a")) + long(b"L", b"b") + header(b"f", magic=GNU) + END),
        # CVE-2026-53655: a PAX size applied to the long-name header.
        bad("pax-size-then-long-name", pax((b"size", b"1024")) + long(b"L", b"b") + header(b"f", magic=GNU) + inner
            + END),
        bad("long-name-then-pax", long(b"L", b"b") + pax((b"path", b"a")) + header(b"f", magic=GNU) + END),
        bad("long-name-twice", long(b"L", b"b") + long(b"L", b"c") + header(b"f", magic=GNU) + END),
        bad("long-link-twice", long(b"K", b"b") * 2 + header(b"f", type=b"2", magic=GNU) + END),
        bad("long-name-empty", long(b"L", b"") + header(b"f", magic=GNU) + END),
        bad("long-name-nul", long(b"L", b"a\0b") + header(b"f", magic=GNU) + END),
        bad("long-name-without-member", long(b"L", b"b") + END),
        bad("long-name-1-gib", header(b"././@LongLink", type=b"L", size=1 << 30, magic=GNU) + bytes(1 << 20),
            LimitExceeded),
        bad("global-path", pax((b"path", b"a"), type=b"g") + header(b"f") + END),
        bad("global-size", pax((b"size", b"512"), type=b"g") + header(b"f") + inner + END),
        bad("global-sparse", pax((b"GNU.sparse.offset", b"1"), type=b"g") + header(b"f") + END),
        bad("global-xattr", pax((b"SCHILY.xattr.user.a", b"1"), type=b"g") + header(b"f") + END),
        bad("star-realsize", pax((b"SCHILY.realsize", b"100")) + header(b"f") + END, Unsupported),
        # CVE-2026-15028.
        bad("sun-holesdata", pax((b"SUN.holesdata", b" 0 9")) + header(b"f") + END, Unsupported),
        bad("old-sparse-gaps", old_sparse(b"s", [(0, 3), (1000, 2)], 5000, b"abcde") + END),
        bad("sparse-1.0-gaps", sparse_1_0(b"s", [0, 2, 99, 1], 100, b"abc") + END),
        bad("old-sparse-overlap", old_sparse(b"s", [(0, 512), (2, 2)], 1000, b"a" * 514) + END),
        bad("old-sparse-backwards", old_sparse(b"s", [(1000, 512), (0, 2)], 9000, b"a" * 514) + END),
        bad("old-sparse-beyond", old_sparse(b"s", [(98, 3)], 100, b"abc") + END),
        bad("old-sparse-sum", old_sparse(b"s", [(0, 3)], 100, b"abcde") + END),
        bad("old-sparse-posix", old_sparse(b"s", [(0, 3)], 100, b"abc", magic=POSIX) + END),
        bad("old-sparse-with-pax", pax((b"path", b"a")) + old_sparse(b"s", [(0, 3)], 100, b"abc") + END),
        bad("old-sparse-endless", _endless_sparse(), LimitExceeded),
        bad("sparse-no-map", pax(sparse_size, blocks) + member(b"s", b"abc") + END),
        bad("sparse-only-name", pax((b"GNU.sparse.name", b"other")) + member(b"s", b"abc") + END),
        bad("sparse-two-maps", pax(sparse_size, blocks, (b"GNU.sparse.map", b"0,3"), (b"GNU.sparse.offset", b"0"),
                                   (b"GNU.sparse.numbytes", b"3")) + member(b"s", b"abc") + END),
        bad("sparse-order", pax(sparse_size, blocks, (b"GNU.sparse.numbytes", b"3"), (b"GNU.sparse.offset", b"0"))
            + member(b"s", b"abc") + END),
        bad("sparse-odd-map", pax(sparse_size, blocks, (b"GNU.sparse.map", b"0,3,4")) + member(b"s", b"abc") + END),
        bad("sparse-negative", pax(sparse_size, blocks, (b"GNU.sparse.map", b"-1,3")) + member(b"s", b"abc") + END),
        bad("sparse-count", pax(sparse_size, (b"GNU.sparse.numblocks", b"2"), (b"GNU.sparse.map", b"0,3"))
            + member(b"s", b"abc") + END),
        bad("sparse-directory", pax(sparse_size, blocks, (b"GNU.sparse.map", b"0,0")) + header(b"d/", type=b"5") + END),
        bad("sparse-2.0", pax((b"GNU.sparse.major", b"2"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"9"))
            + member(b"s", b"abc") + END, Unsupported),
        bad("sparse-1.0-no-size", pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"))
            + member(b"s", padded(b"0\n")) + END),
        bad("sparse-1.0-two-maps", sparse_1_0(b"s", [0, 3], 9, b"abc", (b"GNU.sparse.map", b"0,3")) + END),
        bad("sparse-1.0-overlap", sparse_1_0(b"s", [0, 512, 1, 1], 1000, b"a" * 513) + END),
        bad("sparse-1.0-beyond", sparse_1_0(b"s", [0, 512, 1000, 1], 1000, b"a" * 513) + END),
        bad("sparse-1.0-map-cut", sparse_1_0(b"s", [0, 2], 100, b"ab", count=200) + END),
        bad("sparse-1.0-count-huge", sparse_1_0(b"s", [0, 2], 100, b"ab", count=1 << 40) + END, LimitExceeded),
        bad("sparse-1.0-count-absent", pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"),
                                           (b"GNU.sparse.realsize", b"9")) + member(b"s", b"x" * 4096) + END),
        bad("sparse-1.0-2-63", sparse_1_0(b"s", [(1 << 63) - 1, 2], (1 << 63) - 1, b"ab") + END),
        bad("sparse-name-nul", sparse_1_0(b"s\0../x", [0, 2], 100, b"ab") + END),
    ]  # fmt: skip


def _checksum_off(by: int) -> bytes:
    block = header(b"f")
    return signed(block, b"%06o\0 " % (sum(block[:148] + b" " * 8 + block[156:]) + by))


def _endless_sparse() -> bytes:
    """Three hundred thousand extents of nothing."""
    return old_sparse(b"s", [(n, 0) for n in range(300_000)], 1 << 30, b"") + END


CASES: tuple[Case, ...] = (*_good(), *_bad())


@dataclass(frozen=True)
class Escape:
    """`data` unpacked into a directory must leave `outside` (a sibling directory with the file `secret`) untouched."""

    id: str
    data: bytes


def _escapes() -> tuple[Escape, ...]:
    def case(id: str, *members: bytes) -> Escape:
        return Escape(id, b"".join(members) + END)

    def link(name: bytes, target: bytes, type: bytes = b"2") -> bytes:
        return header(name, type=type, link=target, mode=0o777)

    def directory(name: bytes) -> bytes:
        return header(name, type=b"5", mode=0o700)

    evil = b"evil"
    return (
        case("dot-dot", member(b"../outside/secret", evil)),
        case("dot-dot-deep", member(b"a/b/../../../outside/secret", evil)),
        case("dot-dot-directory", header(b"../outside/", type=b"5", mode=0)),
        case("only-dot-dot", header(b"..", type=b"5", mode=0), header(b"../", type=b"5", mode=0)),
        case("absolute", member(b"/outside/secret", evil)),
        case("absolute-dot-dot", member(b"/../outside/secret", evil)),
        case("double-slash", member(b"//../outside/secret", evil)),
        case("symlink-then-file", link(b"l", b"../outside"), member(b"l/secret", evil)),
        case("symlink-then-file-by-its-name", link(b"l", b"../outside/secret"), member(b"l", evil)),
        case("symlink-to-root", link(b"l", b"/"), member(b"l/outside/secret", evil)),
        case("symlink-chain", link(b"a", b"b"), link(b"b", b"c"), link(b"c", b".."), member(b"a/outside/secret", evil)),
        case("symlink-dot-dot", directory(b"d/"), link(b"d/up", b".."), member(b"d/up/../outside/secret", evil)),
        case("symlink-replaces-directory", directory(b"d/"), link(b"d", b"../outside"), member(b"d/secret", evil)),
        case("directory-over-symlink", link(b"d", b"../outside"), directory(b"d/"), member(b"d/secret", evil)),
        case("symlink-loop", link(b"a", b"b"), link(b"b", b"a"), member(b"a/x", evil)),
        case("symlink-to-itself", link(b"a", b"a"), member(b"a/x", evil)),
        case("hard-link-outside", link(b"h", b"../outside/secret", b"1"), member(b"h", evil)),
        case("hard-link-absolute", link(b"h", b"/outside/secret", b"1"), member(b"h", evil)),
        case("hard-link-through-symlink", link(b"l", b"../outside"), link(b"h", b"l/secret", b"1"), member(b"h", evil)),
        case("hard-link-to-symlink", link(b"l", b"../outside/secret"), link(b"h", b"l", b"1"), member(b"h", evil)),
        case("mode-through-symlink", link(b"l", b"../outside/secret"), header(b"l", mode=0)),
        case("fifo-through-symlink", link(b"l", b"../outside"), header(b"l/fifo", type=b"6")),
        case("device-through-symlink", link(b"l", b"../outside"), header(b"l/null", type=b"3", major=1, minor=3)),
        case("xattr-through-symlink", link(b"l", b"../outside/secret"),
             pax((b"SCHILY.xattr.user.evil", b"1")) + header(b"l", type=b"2", link=b"../outside/secret")),
        case("whiteout-outside", header(b"../outside/.wh.secret")),
        case("whiteout-through-symlink", link(b"l", b"../outside"), header(b"l/.wh.secret")),
        case("whiteout-of-dot-dot", header(b".wh..."), header(b"d/.wh..."), header(b".wh.."), header(b".wh.")),
        case("opaque-through-symlink", link(b"l", b"../outside"), header(b"l/.wh..wh..opq")),
        case("whiteout-with-slash", header(b".wh.../outside/secret")),
        case("pax-dot-dot", pax((b"path", b"../outside/secret")), member(b"harmless", evil)),
        case("long-name-dot-dot", long(b"L", b"../outside/secret"), member(b"harmless", evil, magic=GNU)),
        case("sparse-name-dot-dot", sparse_1_0(b"../outside/secret", [0, 4], 4, evil)),
        case("prefix-dot-dot", member(b"secret", evil, prefix=b"../outside")),
    )  # fmt: skip


ESCAPES: tuple[Escape, ...] = _escapes()
