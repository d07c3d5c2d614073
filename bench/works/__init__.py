"""The works by name, in the order in which they are done; a module each, with the bars that it decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bench.results import Report
from bench.session import Session
from bench.works import big, compressed, container, first_byte, image, loop, million, outline, parallel, stalled, upload

WORKS: Mapping[str, Callable[[Session], Report]] = {
    "container": container.measure,
    "outline": outline.measure,
    "big": big.measure,
    "image": image.measure,
    "compressed": compressed.measure,
    "parallel": parallel.measure,
    "upload": upload.measure,
    "stalled": stalled.measure,
    "loop": loop.measure,
    "million": million.measure,
    "first-byte": first_byte.measure,
}
