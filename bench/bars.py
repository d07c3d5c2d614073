"""What streamer has to reach, and whether it did."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bar:
    """`limit` is the most that the measured value may be."""

    name: str
    work: str
    peer: str
    limit: float
    unit: str = ""
    """Of value and limit; "" for a ratio, time of streamer / time of the peer."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value of a bar; `variant` tells how streamer was asked, where there are several ways."""

    bar: str
    value: float
    variant: str = ""


BARS = (
    Bar("container-docker", "container of 50,000 files, warm", "docker export through its API with curl", 0.50),
    Bar("container-podman", "container of 50,000 files, warm", "podman export to a pipe", 0.40),
    Bar("container-tar", "container of 50,000 files, warm", "GNU tar to a pipe", 1.20),
    Bar("container-cold-tar", "container of 50,000 files, cold cache", "GNU tar to a pipe", 0.60),
    Bar("big-nginx", "4 × 1 GiB files", "nginx with sendfile, the same files", 1.15),
    Bar("image-docker", "saved image of 20 layers", "docker save through its API with curl", 0.40),
    Bar("gzip", "container, gzip", "GNU tar -z", 0.20),
    Bar("zstd", "container, zstd", "GNU tar to pigz", 0.35),
    Bar("outline", "outline of 50,000 files (HEAD)", "GNU tar to a pipe", 0.50),
    Bar("first-byte", "first byte of a body with length=unknown, slowest tree", "–", 20, "ms"),
    Bar("million-memory", "1,000,000 files, peak memory", "–", 200, "MiB"),
    # "The same rate" within what two measurements of the same thing differ by.
    Bar("million-rate", "1,000,000 files, time per file", "50,000 files", 1.10),
    Bar("stalled-memory", "50 parallel exports, 20 of them stalled, peak memory", "–", 250, "MiB"),
    Bar("upload", "1 GiB into object storage", "the client library with a local file, no checksums", round(1 / 0.9, 2)),
    Bar("loop", "answer of /healthz while exports run, p99 of the worst case", "–", 50, "ms"),
)


def verdict(bar: Bar, value: float) -> str:
    if value <= bar.limit:
        return "reached"
    return f"**missed** by {(value / bar.limit - 1) * 100:.0f} %"


def judged(figures: Iterable[Figure]) -> list[list[str]]:
    """Rows for a table: work, peer, variant, bar, measured, verdict; every bar at least once."""
    rows = []
    found = list(figures)
    for bar in BARS:
        unit = f" {bar.unit}" if bar.unit else ""
        limit = f"{bar.limit:g}{unit}" if bar.unit else f"{bar.limit:.2f}"
        mine = [figure for figure in found if figure.bar == bar.name]
        if not mine:
            rows.append([bar.work, bar.peer, "", limit, "–", "not measured"])
        for figure in mine:
            value = f"{figure.value:.1f}{unit}" if bar.unit else f"{figure.value:.2f}"
            rows.append([bar.work, bar.peer, figure.variant, limit, value, verdict(bar, figure.value)])
    return rows


HEADINGS = ["work", "peer", "how streamer was asked", "at most", "measured", ""]
