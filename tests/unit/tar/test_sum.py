"""TarSum: the original's vectors, bytes that pass untouched, sums of any archive in any pieces."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest

from streamer.errors import InvalidArchive, InvalidRequest
from streamer.tar.sum import FileSum, Summing, Sums, Version, parse_label


class Pieces:
    def __init__(self, data: bytes, most: int = 1 << 20) -> None:
        self._file, self._most = io.BytesIO(data), most

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, self._most))


def member(name: str, body: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(body), 0
    for field, value in fields.items():
        setattr(info, field, value)
    return info, body


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as out:
        for info, body in members:
            out.addfile(info, io.BytesIO(body))
    return made.getvalue()


def summed(data: bytes, version: Version = Version.V1, algorithm: str = "sha256", most: int = 1 << 20) -> Summing:
    summing = Summing(Pieces(data, most), version, algorithm)
    passed = bytearray()
    while part := summing.read(10_000):
        passed += part
    assert bytes(passed) == data
    return summing


PEOPLE = {"uid": 1000, "gid": 1000, "uname": "slartibartfast", "gname": "users"}
XATTRS = {"pax_headers": {"SCHILY.xattr.user.key1": "value1", "SCHILY.xattr.user.key2": "value2"}}
ZEROS = member("/testdata0", bytes(1 << 20), mode=0o755)
FARTS = member("file", b"farts\n", mode=0o644, uid=1000, gid=1000, mtime=1409861938)
HOWDY = member("file", b"HOWDY\n", mode=0o644, uid=1000, gid=1000, mtime=1409861993)

VECTORS = [
    ([member("file.txt")], "tarsum+sha256:626c4a2e9a467d65c33ae81f7f3dedd4de8ccaee72af73223c4bc4718cbc7bbd"),
    ([member("file.txt")], "tarsum.dev+sha256:6ffd43a1573a9913325b4918e124ee982a99c0f3cba90fc032a65f5e20bdd465"),
    (
        [member("another.txt", b"test", **PEOPLE)],
        "tarsum.dev+sha256:862964db95e0fa7e42836ae4caab3576ab1df8d275720a45bdd01a5a3730cc63",
    ),
    (
        [member("xattrs.txt", b"test", **PEOPLE, **XATTRS)],
        "tarsum.dev+sha256:4b1ba03544b49d96a32bacc77f8113220bd2f6a77e7e6d1e7b33cd87117d88e7",
    ),
    ([ZEROS], "tarsum+sha256:75258b2c5dcd9adfe24ce71eeca5fc5019c7e669912f15703ede92b1a60cb11f"),
    ([ZEROS], "tarsum+md5:3a6cdb475d90459ac0d3280703d17be2"),
    (
        [ZEROS],
        "tarsum+sha512:7c56de40b2d1ed3863ff25d83b59cdc8f53e67d1c01c3ee8f201f8e4dec3107da976d0c0ec9109c962a152b32699fe32"
        "9b2dab13966020e400c32878a0761a7e",
    ),
    ([FARTS, HOWDY], "tarsum+sha256:7cabb5e9128bb4a93ff867b9464d7c66a644ae51ea2e90e6ef313f3bef93f077"),
    ([HOWDY], "tarsum+sha256:85d2b8389f077659d78aca898f9e632ed9161f553f144aef100648eac540147b"),
]


@pytest.mark.parametrize("most", [1, 511, 1 << 20])
@pytest.mark.parametrize(("members", "expected"), VECTORS, ids=[expected[:40] for _, expected in VECTORS])
def test_vectors(members: list[tuple[tarfile.TarInfo, bytes]], expected: str, most: int) -> None:
    if most == 1 and members == [ZEROS]:
        most = 4096
    version, _, rest = expected.partition("+")
    algorithm = rest.partition(":")[0]
    assert summed(archive(*members), Version(version), algorithm, most).sums.sum() == expected


def test_an_empty_archive() -> None:
    nothing = hashlib.sha256().hexdigest()
    assert summed(bytes(1024), Version.V0).sums.sum() == f"tarsum+sha256:{nothing}"
    assert summed(bytes(1024)).sums.sum(b"extra") == f"tarsum.v1+sha256:{hashlib.sha256(b'extra').hexdigest()}"


def test_dev_is_v1_under_another_name() -> None:
    data = archive(member("a", b"1"), member("b/", type=tarfile.DIRTYPE))
    v1, dev = (summed(data, version).sums.sum().partition(":")[2] for version in (Version.V1, Version.DEV))
    assert v1 == dev


def test_what_counts_and_what_does_not() -> None:
    def sum(**fields: object) -> str:
        return summed(archive(member("a", b"body", **fields))).sums.sum()

    plain = sum()
    assert sum(mtime=5) == sum(uname="x") == sum(gname="y") == plain
    others = [sum(mode=1), sum(uid=1), sum(gid=1), sum(type=b"7")]
    assert len({plain, *others}) == 5
    order = [archive(member("a"), member("b")), archive(member("b"), member("a"))]
    assert len({summed(data).sums.sum() for data in order}) == 1


def test_files() -> None:
    data = archive(member("./a/../b", b"x"), member("/d/", type=tarfile.DIRTYPE), member("./", type=tarfile.DIRTYPE))
    files = summed(data).sums.files
    assert [(file.name, file.position) for file in files] == [(b"b", 0), (b"d", 1), (b".", 2)]
    assert all(isinstance(file, FileSum) and len(file.sum) == 64 for file in files)


def test_holes_count_as_zeros() -> None:
    """A sparse member has the sum of the file that it stands for."""
    body = b"a" * 512 + bytes(1024) + b"b" * 512
    sparse = member("a", b"1\n0\n".ljust(512, b"\0"))[0]
    text = b"2\n0\n512\n1536\n512\n".ljust(512, b"\0") + b"a" * 512 + b"b" * 512
    sparse.size = len(text)
    sparse.pax_headers = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a", "GNU.sparse.realsize": str(len(body)),
    }  # fmt: skip
    assert summed(archive((sparse, text))).sums.sum() == summed(archive(member("a", body))).sums.sum()


def test_what_follows_the_end_passes() -> None:
    data = archive(member("a", b"x")) + b"trailing" * (2 << 20)
    assert summed(data).sums.sum() == summed(archive(member("a", b"x"))).sums.sum()


@pytest.mark.parametrize("cut", [1, 100, 512, 700, 1500])
def test_a_truncated_archive_has_no_sum(cut: int) -> None:
    with pytest.raises(InvalidArchive):
        summed(archive(member("a", bytes(1000)))[:cut])


def test_labels() -> None:
    assert parse_label("tarsum+sha256") == (Version.V0, "sha256")
    assert parse_label("tarsum.v1+sha512") == (Version.V1, "sha512")
    assert parse_label("tarsum.dev+sha256") == (Version.DEV, "sha256")
    for text in ("invalidlabel", "invalid+sha256", "tarsum.v1+invalid", "tarsum", "", "tarsum+md5", "tarsum+sha256:00"):
        with pytest.raises(InvalidRequest):
            parse_label(text)


@pytest.mark.parametrize("algorithm", ["nothing", "shake_128", ""])
def test_algorithms_that_are_none(algorithm: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot compute a TarSum with"):
        Summing(Pieces(b""), Version.V1, algorithm)


def test_members_of_one_name_are_ordered_as_go_sorts_a_few() -> None:
    """Its comparison is no order: by names for the two `a`, by sums for the rest."""
    sums = Sums(Version.V1)
    sums.files = [FileSum(b"a", "5", 0), FileSum(b"b", "3", 1), FileSum(b"a", "1", 2)]
    assert sums.sum() == f"tarsum.v1+sha256:{hashlib.sha256(b'351').hexdigest()}"
