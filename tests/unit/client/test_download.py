"""Downloads into a file, from a service that does everything wrong that a service, a network or a disk can do."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.faulty import Fault, Faulty, faulty

from streamer.client.download import Report, download
from streamer.client.failure import Unreachable
from streamer.client.node import connect
from streamer.client.part import Part
from streamer.client.patience import Limits
from streamer.client.request import archive
from streamer.errors import Conflict, DigestMismatch, NotFound, SourceChanged, SourceFailed, StreamerError

MiB = 1 << 20
REQUEST = archive("container", ["web"])
jobs = pytest.mark.parametrize("jobs", [1, 4])


class Downloads:
    """The download of `REQUEST` into `a.tar` of a directory of its own."""

    def __init__(self, service: Faulty, folder: Path, limits: Limits, seen: Any) -> None:
        self.service, self.folder, self.limits, self.seen = service, folder, limits, seen
        self.target = folder / "a.tar"

    async def __call__(self, request: Any = REQUEST, **options: Any) -> Report:
        async with connect(self.service.url, self.limits) as node:
            return await download(node, request, str(self.target), watch=self.seen, **options)

    @property
    def left(self) -> list[str]:
        return sorted(os.listdir(self.folder))

    @property
    def journal(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / ".a.tar.streamer-part.json").read_bytes()))

    def is_whole(self, content: bytes) -> bool:
        return self.left == ["a.tar"] and self.target.read_bytes() == content


@pytest.fixture
def downloads(service: Faulty, tmp_path: Path, quick: Limits, seen: Any) -> Downloads:
    (tmp_path / "out").mkdir()
    return Downloads(service, tmp_path / "out", quick, seen)


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Any:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= len(before) + 1


async def broken_off(downloads: Downloads, *spans: tuple[int, int]) -> None:
    """An earlier download has brought these spans."""
    content = downloads.service.content
    (downloads.folder / ".a.tar.streamer-part").write_bytes(
        b"".join(
            bytes(start - before) + content[start:stop]
            for before, (start, stop) in zip([0, *(one[1] for one in spans)], spans, strict=False)
        )
    )
    journal = {
        "version": 1,
        "request": REQUEST.target,
        "etag": downloads.service.etag,
        "size": len(content),
        "spans": spans,
    }
    (downloads.folder / ".a.tar.streamer-part.json").write_text(json.dumps(journal))


class TestWhole:
    @jobs
    async def test_whole_and_verified(self, downloads: Downloads, content: bytes, jobs: int) -> None:
        report = await downloads(jobs=jobs)
        assert report == Report(len(content), verified=True, versioned=True)
        assert downloads.is_whole(content)
        assert downloads.service.most == jobs
        done = [step[0] for step in downloads.seen.steps]
        assert done == sorted(done)
        assert downloads.seen.steps[-1] == (len(content), len(content), "verifying")
        assert downloads.seen.notes == []

    async def test_one_request_and_one_question(self, downloads: Downloads) -> None:
        await downloads()
        assert [(one.method, one.range) for one in downloads.service.asked] == [("GET", None), ("HEAD", None)]
        get, head = downloads.service.asked
        assert get.headers["accept-encoding"] == "identity"
        assert head.headers["if-match"] == downloads.service.etag
        assert head.headers["want-repr-digest"] == "sha-256=1"

    async def test_ranges_are_of_one_version_and_overlap_nowhere(self, downloads: Downloads, content: bytes) -> None:
        await downloads(jobs=4)
        first, *others = downloads.service.gets
        assert first.range is None
        assert {one.headers["if-range"] for one in others} == {downloads.service.etag}
        ranges = sorted(one.range or (0, 0) for one in others)
        assert [start for start, _ in ranges] == [len(content) * number // 4 for number in (1, 2, 3)]

    async def test_a_digest_known_beforehand_needs_no_question(self, downloads: Downloads, content: bytes) -> None:
        downloads.service.digest = "always"
        assert (await downloads()).verified
        assert [one.method for one in downloads.service.asked] == ["GET"]
        assert downloads.is_whole(content)

    async def test_no_question_if_nobody_wants_to_know(self, downloads: Downloads, content: bytes) -> None:
        assert await downloads(verify=False) == Report(len(content), verified=False, versioned=True)
        assert [one.method for one in downloads.service.asked] == ["GET"]

    async def test_a_service_that_tells_no_digest(self, downloads: Downloads, content: bytes) -> None:
        downloads.service.digest = None
        report = await downloads()
        assert (report.verified, report.unverified) == (False, f"{downloads.service.url} tells no digest")
        assert downloads.is_whole(content)

    @pytest.mark.parametrize("status", [400, 404, 405, 501])
    async def test_a_service_that_refuses_the_question(self, downloads: Downloads, content: bytes, status: int) -> None:
        downloads.service.looks = [Fault(status=status)]
        report = await downloads()
        assert not report.verified
        assert f"answered {status}" in report.unverified
        assert downloads.is_whole(content)

    @pytest.mark.parametrize("code", ["source_failed", "store_damaged", "internal"])
    async def test_a_source_that_cannot_be_read_again(self, downloads: Downloads, content: bytes, code: str) -> None:
        """That is no file whose digest nobody knows: something is wrong, and nobody would hear of it."""
        downloads.service.looks = [Fault(status=500, body=json.dumps({"code": code, "detail": "so it is"}).encode())]
        with pytest.raises(StreamerError):
            await downloads()
        assert not downloads.target.exists()
        assert downloads.journal["spans"] == [[0, len(content)]]
        assert (await downloads()).verified

    async def test_a_source_that_changes_after_the_last_byte(self, downloads: Downloads, content: bytes) -> None:
        downloads.service.looks = [Fault(status=412)]
        assert (await downloads()).unverified == "the source has changed since"
        assert downloads.is_whole(content)

    async def test_an_empty_archive(self, tmp_path: Path, quick: Limits) -> None:
        async with faulty(b"") as service, connect(service.url, quick) as node:
            assert await download(node, REQUEST, str(tmp_path / "a.tar")) == Report(0, verified=True, versioned=True)
        assert (tmp_path / "a.tar").read_bytes() == b""

    async def test_through_a_unix_socket(self, tmp_path: Path, content: bytes, quick: Limits) -> None:
        async with faulty(content, path=str(tmp_path / "s")), connect(f"unix:{tmp_path}/s", quick) as node:
            assert (await download(node, REQUEST, str(tmp_path / "a.tar"), jobs=2)).verified
        assert (tmp_path / "a.tar").read_bytes() == content


class TestFaults:
    @jobs
    @pytest.mark.parametrize(
        "fault",
        [
            Fault(drop=8 * MiB),
            Fault(drop=8 * MiB, reset=True),
            Fault(drop=0),
            Fault(drop=-1),
            Fault(drop=-1, reset=True),
            Fault(status=503, headers={"Retry-After": "1"}),
            Fault(status=502),
            Fault(status=429),
            Fault(raw=b"HTTP/1.1 200 OK\r\nContent-"),
        ],
        ids=lambda fault: str({name: value for name, value in vars(fault).items() if value}),
    )
    async def test_what_passes(self, downloads: Downloads, content: bytes, jobs: int, fault: Fault) -> None:
        # A connection that ends before any answer came is no service yet: the first one goes well.
        downloads.service.faults = [Fault(drop=2 * MiB), fault, fault, None, fault]
        assert (await downloads(jobs=jobs)).verified
        assert downloads.is_whole(content)
        assert downloads.seen.notes
        if jobs == 1:
            # What was on its way when a connection broke is lost with it, on a busy machine all of it; nothing before.
            starts = [asked.range[0] if asked.range else 0 for asked in downloads.service.gets]
            assert starts == sorted(starts), "what was there came once more"

    @jobs
    async def test_a_stall(self, downloads: Downloads, content: bytes, jobs: int) -> None:
        downloads.limits = replace(downloads.limits, stall=1)
        downloads.service.faults = [Fault(hang=5 * MiB), None, Fault(hang=0)]
        assert (await downloads(jobs=jobs)).verified
        assert downloads.is_whole(content)
        assert any("sent nothing for 1 seconds" in note for note in downloads.seen.notes)

    async def test_no_answer(self, downloads: Downloads, content: bytes) -> None:
        downloads.limits = replace(downloads.limits, answer=1)
        downloads.service.faults = [Fault(drop=9 * MiB), Fault(hang=-1)]
        assert (await downloads()).verified
        assert downloads.is_whole(content)
        assert any("no answer in 1 seconds" in note for note in downloads.seen.notes)

    async def test_bytes_between_failures_renew_the_patience(self, downloads: Downloads, content: bytes) -> None:
        """Each connection ends after 2 MiB: far more failures than are borne in a row."""
        downloads.service.faults = [Fault(drop=3 * MiB)] * 12
        assert (await downloads()).verified
        assert downloads.is_whole(content)

    async def test_a_service_that_gives_fewer_answers_than_there_are_jobs(
        self, downloads: Downloads, content: bytes
    ) -> None:
        """What the others bring renews the patience of a job that is refused, as long as they are at it."""
        downloads.service.at_once, downloads.service.rate = 2, 10 * MiB
        assert (await downloads(jobs=6)).verified
        assert downloads.is_whole(content)
        refused = sum("try" in note for note in downloads.seen.notes)
        assert refused > downloads.limits.tries, "nobody was refused as often as would end a download"

    @jobs
    async def test_patience_ends(self, downloads: Downloads, content: bytes, jobs: int) -> None:
        downloads.service.faults = [Fault(drop=9 * MiB)] + [Fault(status=503)] * 99
        with pytest.raises(StreamerError, match="answered 503") as caught:
            await downloads(jobs=jobs)
        assert caught.value.code == "busy"
        assert downloads.left == [".a.tar.streamer-part", ".a.tar.streamer-part.json"]
        # Each of the 9 MiB that the first answer brought may have renewed the patience of each job.
        assert len(downloads.service.gets) <= jobs * (9 + downloads.limits.tries)
        assert downloads.seen.notes[-1].endswith("the same command goes on from there")
        downloads.service.faults = []
        downloads.service.asked.clear()
        assert (await downloads(jobs=jobs)).verified
        assert downloads.is_whole(content)
        assert downloads.service.gets[0].range is not None

    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            (Fault(headers={"Content-Range": "bytes 0-9/10"}), "answered 206 with 'bytes 0-9/10' where bytes"),
            (Fault(headers={"Content-Range": None}), "answered 206 with Content-Range ''"),
            (Fault(headers={"Content-Range": "bytes 1-2/*"}), "answered 206 with Content-Range 'bytes 1-2/"),
            (Fault(headers={"ETag": None}), "answered 206 without saying of which version"),
            (Fault(headers={"ETag": 'W/"x"'}), "answered 206 without saying of which version"),
            (Fault(headers={"Content-Length": "99999999"}), "answered 206 with 'bytes "),
            (Fault(headers={"Content-Type": "text/html"}), "with 'text/html' where 'application/x-tar' was asked for"),
            (Fault(headers={"Content-Encoding": "gzip"}), "in the content coding 'gzip', which was not asked for"),
        ],
    )
    async def test_a_part_that_is_another_than_was_asked_for(
        self, downloads: Downloads, fault: Fault, message: str
    ) -> None:
        downloads.service.faults = [Fault(drop=9 * MiB), fault]
        with pytest.raises(SourceFailed) as caught:
            await downloads()
        assert message in str(caught.value)
        assert not downloads.target.exists()

    async def test_ranges_that_are_ignored(self, downloads: Downloads, content: bytes) -> None:
        """Somebody in between who takes no part in it: the whole comes again, and is the same version."""
        downloads.service.faults = [Fault(drop=9 * MiB), Fault(whole=True, drop=20 * MiB), Fault(whole=True)]
        assert (await downloads()).verified
        assert downloads.is_whole(content)

    @jobs
    async def test_a_lie_about_the_digest(self, downloads: Downloads, jobs: int) -> None:
        downloads.service.digest = "lie"
        with pytest.raises(
            DigestMismatch, match=r"container web from http://.* where sha256:[0-9a-f]{64} was promised"
        ):
            await downloads(jobs=jobs)
        assert downloads.left == []

    @jobs
    async def test_a_byte_that_changes_on_its_way(self, downloads: Downloads, jobs: int) -> None:
        downloads.service.faults = [None, Fault(damage=15 * MiB)] if jobs > 1 else [Fault(damage=15 * MiB)]
        with pytest.raises(DigestMismatch):
            await downloads(jobs=jobs)
        assert downloads.left == []

    async def test_a_refusal_leaves_nothing(self, downloads: Downloads) -> None:
        body = json.dumps({"code": "not_found", "detail": "there is no container 'web'"}).encode()
        downloads.service.faults = [Fault(status=404, body=body)]
        with pytest.raises(NotFound, match=r"^there is no container 'web'$"):
            await downloads()
        assert downloads.left == []

    async def test_the_question_is_asked_again(self, downloads: Downloads, content: bytes) -> None:
        downloads.service.looks = [Fault(status=503), Fault(drop=-1), Fault(status=504)]
        assert (await downloads()).verified
        assert downloads.is_whole(content)

    async def test_a_question_that_finds_nobody(self, downloads: Downloads, content: bytes) -> None:
        """Nobody said that the bytes are wrong, nor that they are right: they are kept until somebody does."""
        downloads.service.looks = [Fault(drop=-1)] * 99
        with pytest.raises(Unreachable, match="all bytes are there, but not the digest to check them by"):
            await downloads()
        assert downloads.journal["spans"] == [[0, len(content)]]
        downloads.service.looks.clear()
        downloads.service.asked.clear()
        assert (await downloads()).verified
        assert downloads.is_whole(content)
        assert downloads.service.gets == []


class TestChange:
    @jobs
    async def test_in_the_middle(self, downloads: Downloads, jobs: int) -> None:
        downloads.service.faults = [Fault(change=9 * MiB)]
        assert (await downloads(jobs=jobs)).verified
        assert downloads.is_whole(downloads.service.versions[1])
        assert downloads.seen.notes[-1] == "container web has changed since the download began: starting over"

    @jobs
    async def test_between_two_runs(self, downloads: Downloads, jobs: int) -> None:
        await broken_off(downloads, (0, 5 * MiB), (20 * MiB, 30 * MiB))
        downloads.service.current = 1
        assert (await downloads(jobs=jobs)).verified
        assert downloads.is_whole(downloads.service.versions[1])
        assert len(downloads.seen.notes) == 1
        assert downloads.service.gets[0].range == (5 * MiB, 20 * MiB)
        assert jobs > 1 or len(downloads.service.gets) == 1, (
            "the answer to If-Range is the whole, and need not come twice"
        )

    async def test_after_everything_was_there(self, downloads: Downloads, content: bytes) -> None:
        await broken_off(downloads, (0, len(content)))
        downloads.service.current = 1
        assert (await downloads()).verified
        assert downloads.is_whole(downloads.service.versions[1])

    async def test_shorter_than_what_is_there(self, tmp_path: Path, content: bytes, quick: Limits, seen: Any) -> None:
        async with faulty(content, content[:MiB]) as service:
            downloads = Downloads(service, tmp_path, quick, seen)
            await broken_off(downloads, (0, 30 * MiB))
            service.current = 1
            assert (await downloads()).verified
            assert downloads.is_whole(content[:MiB])

    @jobs
    async def test_without_end(self, tmp_path: Path, content: bytes, quick: Limits, seen: Any, jobs: int) -> None:
        versions = [content[:number] + b"x" + content[number : 17 * MiB] for number in range(10)]
        async with faulty(*versions) as service:
            service.faults = [Fault(change=4 * MiB)] * 9
            downloads = Downloads(service, tmp_path, quick, seen)
            with pytest.raises(SourceChanged, match="changes faster than it can be downloaded"):
                await downloads(jobs=jobs)
            assert downloads.left == []
            # Each start, each job's next question, and what of its answer went into sockets before nobody wanted it.
            assert service.current <= (jobs + 1) * (quick.restarts + 1)

    async def test_another_size_under_the_same_name(self, downloads: Downloads, content: bytes) -> None:
        """The ETag is the same, the whole is not: no mix of the two."""
        await broken_off(downloads, (0, 9 * MiB))
        journal = {**downloads.journal, "size": len(content) + 1}
        (downloads.folder / ".a.tar.streamer-part.json").write_text(json.dumps(journal))
        assert (await downloads()).verified
        assert downloads.is_whole(content)
        assert len(downloads.seen.notes) == 1


class TestResume:
    @jobs
    async def test_only_what_is_missing_comes(self, downloads: Downloads, content: bytes, jobs: int) -> None:
        await broken_off(downloads, (0, 5 * MiB), (20 * MiB, 38 * MiB))
        assert (await downloads(jobs=jobs)).verified
        assert downloads.is_whole(content)
        assert downloads.service.sent <= 17 * MiB + (jobs - 1) * 4 * MiB
        assert downloads.seen.steps[0] == (23 * MiB, len(content), "asking")

    async def test_the_journal_survives_a_service_that_is_not_there(self, downloads: Downloads, content: bytes) -> None:
        await broken_off(downloads, (0, 5 * MiB))
        before = downloads.journal
        port, downloads.service.port = downloads.service.port, 1
        with pytest.raises(Unreachable, match=r"cannot reach http://127.0.0.1:1: Connection refused"):
            await downloads()
        assert downloads.journal == before
        downloads.service.port = port
        assert (await downloads()).verified
        assert downloads.service.sent <= 36 * MiB

    async def test_what_was_begun_as_something_else(self, downloads: Downloads, content: bytes) -> None:
        await broken_off(downloads, (0, 5 * MiB))
        before = downloads.journal
        other = archive("container", ["other"])
        downloads.service.faults = [Fault(status=404)]
        with pytest.raises(NotFound):
            await downloads(other)
        assert downloads.journal == before, "a slip of the hand took hours of downloading away"
        assert (await downloads(other)).verified
        assert downloads.service.gets[-1].range is None
        assert downloads.is_whole(content)
        assert "is another archive" in downloads.seen.notes[0]

    @pytest.mark.parametrize("damage", ["journal", "no journal", "bytes", "shorter"])
    async def test_remains_that_cannot_be_used(self, downloads: Downloads, content: bytes, damage: str) -> None:
        await broken_off(downloads, (0, 5 * MiB))
        part, journal = (downloads.folder / f".a.tar.streamer-part{end}" for end in ("", ".json"))
        if damage == "journal":
            journal.write_bytes(journal.read_bytes()[:-9])
        elif damage == "no journal":
            journal.unlink()
        elif damage == "shorter":
            os.truncate(part, MiB)
        else:
            part.write_bytes(bytes(5 * MiB))
            with pytest.raises(DigestMismatch):
                await downloads()
            assert downloads.left == []
        assert (await downloads()).verified
        assert downloads.is_whole(content)

    @jobs
    async def test_a_cancelled_one_goes_on(self, downloads: Downloads, content: bytes, jobs: int) -> None:
        downloads.service.rate = 40 * MiB
        for number in range(1, 5):
            with anyio.CancelScope() as scope:

                def look(done: int, size: int | None, doing: str = "", number: int = number) -> None:
                    if done >= number * 8 * MiB:
                        scope.cancel()

                downloads.seen.progress = look
                await downloads(jobs=jobs)
            assert scope.cancelled_caught
            there = sum(stop - start for start, stop in downloads.journal["spans"])
            assert there >= number * 8 * MiB
        downloads.seen.progress = lambda *args: None
        downloads.service.rate = None
        assert (await downloads(jobs=jobs)).verified
        assert downloads.is_whole(content)
        assert downloads.service.sent < len(content) + 5 * jobs * 6 * MiB

    async def test_cancelled_by_asyncio_itself_however_often(self, downloads: Downloads, content: bytes) -> None:
        """Its threads must have ended before the file is closed: its number may be another file's a moment later."""
        downloads.service.rate = 20 * MiB
        started = asyncio.Event()
        downloads.seen.progress = lambda done, size, doing="": started.set() if done > 2 * MiB else None
        task = asyncio.ensure_future(downloads(jobs=4))
        await started.wait()
        for _ in range(5):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        downloads.service.rate = None
        assert (await downloads()).verified
        assert downloads.is_whole(content)


class TestUnknownLength:
    async def test_whole(self, downloads: Downloads, content: bytes) -> None:
        downloads.service.length = False
        report = await downloads(jobs=4)
        assert (report.size, report.verified) == (len(content), False)
        assert downloads.is_whole(content)
        assert [one.method for one in downloads.service.asked] == ["GET"]

    @pytest.mark.parametrize("fault", [Fault(drop=9 * MiB), Fault(drop=9 * MiB, reset=True), Fault(hang=MiB)])
    async def test_a_broken_body_leaves_nothing(self, downloads: Downloads, fault: Fault) -> None:
        downloads.limits = replace(downloads.limits, stall=0.3)
        downloads.service.length = False
        downloads.service.faults = [fault]
        with pytest.raises(StreamerError, match="cannot be resumed: its length is not known beforehand"):
            await downloads()
        assert downloads.left == []
        assert len(downloads.service.gets) == 1

    async def test_a_busy_service_is_asked_again(self, downloads: Downloads, content: bytes) -> None:
        downloads.service.length = False
        downloads.service.faults = [Fault(status=503), Fault(status=503)]
        await downloads()
        assert downloads.is_whole(content)

    @pytest.mark.parametrize("digest", ["always", "lie"])
    async def test_a_known_length_without_ranges(self, downloads: Downloads, content: bytes, digest: str) -> None:
        downloads.service.ranges = False
        downloads.service.digest = "always"
        if digest == "lie":
            downloads.service.faults = [Fault(damage=7)]
            with pytest.raises(DigestMismatch):
                lied = {"Repr-Digest": f"sha-256=:{'A' * 43}=:"}
                downloads.service.faults = [Fault(headers=lied)]
                await downloads()
            assert downloads.left == []
        else:
            assert (await downloads()).verified
            assert downloads.is_whole(content)

    async def test_a_known_length_without_ranges_that_breaks(self, downloads: Downloads) -> None:
        downloads.service.ranges = False
        downloads.service.faults = [Fault(drop=9 * MiB)]
        with pytest.raises(SourceFailed, match="cannot be resumed: the service gives no ranges of it"):
            await downloads()
        assert downloads.left == []

    async def test_a_body_without_an_end(self, downloads: Downloads) -> None:
        """Framed by the end of its connection only: nobody could tell a whole one from a broken one."""
        downloads.service.faults = [Fault(headers={"Content-Length": None, "Connection": "close"})]
        with pytest.raises(SourceFailed, match="whose end cannot be told from a broken connection"):
            await downloads()
        assert downloads.left == []


class TestFile:
    async def test_two_at_once(self, downloads: Downloads, content: bytes) -> None:
        downloads.service.rate = 40 * MiB
        begun = anyio.Event()
        downloads.seen.progress = lambda done, size, doing="": begun.set() if done else None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(downloads)
            await begun.wait()
            with pytest.raises(Conflict):
                await downloads()
        assert downloads.is_whole(content)

    @jobs
    async def test_a_full_disk_keeps_what_it_has(
        self, downloads: Downloads, content: bytes, jobs: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written, original = 0, Part.write

        def full(self: Part, data: memoryview, position: int) -> None:
            nonlocal written
            written += len(data)
            if written > 20 * MiB:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.tar")
            original(self, data, position)

        monkeypatch.setattr(Part, "write", full)
        with pytest.raises(OSError, match="No space left"):
            await downloads(jobs=jobs)
        there = sum(stop - start for start, stop in downloads.journal["spans"])
        assert there >= 15 * MiB
        monkeypatch.undo()
        assert (await downloads(jobs=jobs)).verified
        assert downloads.is_whole(content)

    async def test_what_was_there_stays_until_the_end(self, downloads: Downloads, content: bytes) -> None:
        downloads.target.write_bytes(b"old")
        downloads.service.faults = [Fault(drop=9 * MiB)] + [Fault(status=503)] * 99
        with pytest.raises(StreamerError):
            await downloads()
        assert downloads.target.read_bytes() == b"old"
        downloads.service.faults.clear()
        await downloads()
        assert downloads.is_whole(content)
