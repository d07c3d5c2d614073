"""Which queued job is next: every destination gets its turn, however many jobs another one has queued."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence


def chosen(waiting: Sequence[tuple[str, str]], running: Iterable[str], served: Mapping[str, int]) -> str | None:
    """The ID of the job to start, None if none waits.

    `waiting` are IDs with their places, the oldest first; `running` the places of the jobs that run; `served` when each
    place last got its turn (a number that grows). The place with the fewest running jobs is next; among those the one
    whose turn is longest ago; among those the oldest job.
    """
    if not waiting:
        return None
    busy = Counter(running)
    oldest: dict[str, str] = {}
    for id, place in waiting:
        oldest.setdefault(place, id)
    place = min(oldest, key=lambda place: (busy[place], served.get(place, 0)))
    return oldest[place]
