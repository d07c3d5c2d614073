"""1 GiB into object storage, against what the same client library does with a local file."""

from __future__ import annotations

from bench import trees
from bench.measure import Entrant
from bench.results import Report
from bench.session import Session
from bench.storage import BUCKET, Job, SeaweedFS, Upload
from bench.table import timings
from bench.works.entrants import figures

OURS = "streamer, job"
BARE = "aiobotocore, no checksums, unsigned"
DEFAULT = "aiobotocore, its defaults"


def measure(session: Session) -> Report:
    tree = trees.big(1)
    session.fill(tree, session.first)
    report = Report()
    file = session.work / "temporary" / "upload.tar"
    file.parent.mkdir(exist_ok=True)
    storage = SeaweedFS(session.work / "temporary" / "seaweedfs", session.work / "logs" / "seaweedfs.log")
    try:
        with session.server(**storage.environment) as server:
            path = server.container(tree.name, store=session.first.name)
            server.save(path, file)
            order = {
                "source": {"kind": "container", "ref": tree.name, "store": session.first.name},
                "destination": f"s3://{BUCKET}/ours.tar",
            }
            entrants = [Entrant(Job(OURS, server.pid, server.url(""), order, storage.running))]
            for name, manner in ((BARE, "bare"), (DEFAULT, "default")):
                subject = Upload(name, file, manner, storage.environment, storage.running)
                entrants.append(Entrant(subject, against={"": OURS}))
            title = f"Object storage: container of {tree.about}, into an empty SeaweedFS, warm cache"
            rows = session.rounds(title, entrants)
    finally:
        file.unlink(missing_ok=True)
    told = [
        "the library sends the very archive, as a file that is in the page cache: 16 MiB parts, four at a time, as "
        "streamer does; its time begins where everything is imported, as the service's does",
        "SeaweedFS shares the cores: whatever a client computes takes time from it",
    ]
    report.rows += rows
    report.sections.append(timings(title, rows, told))
    report.figures += figures("upload", rows, BARE)
    return report
