"""Who reads which mount: counted leases of file systems that are mounted when first needed and gone after the last.

Synchronous and thread-safe; leases are taken and given back in the export's own thread, so that no cancellation can
come between. Every change of the books comes before the system call it announces: what is not in the books does not
exist, and what is in them is given back by the `with` block that entered it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from streamer.errors import Draining, MountFailed
from streamer.mounts.layer import empty_directory, guarded, opened_layers, readable
from streamer.mounts.mount import Mount
from streamer.mounts.overlay import LAYERS_MAX, mount_overlay, possible_way
from streamer.mounts.ways import Way


@dataclass(frozen=True, slots=True)
class Statistics:
    """`leases` and `mounts` are open now; `leased`, `mounted` and `failed` (mounts) have counted since the start."""

    leases: int
    mounts: int
    leased: int
    mounted: int
    failed: int


@dataclass(slots=True, eq=False)
class _Entry:
    """A file system in the books. `descriptor` is None until it is mounted; `mounting` is held while that goes on."""

    mount: Mount
    key: Hashable
    shared: bool
    """Whether nobody writes to it."""
    leases: int = 0
    descriptor: int | None = None
    mounting: threading.Lock = field(default_factory=threading.Lock)


class MountTable:
    """Every lease of this process. `way` forces one way of mounting, for tests and for kernels that lie."""

    def __init__(self, *, way: Way | None = None) -> None:
        self._way = way
        self._books = threading.Lock()
        self._entries: dict[Hashable, _Entry] = {}
        self._closed = False
        self._leased = self._mounted = self._failed = 0

    def possible(self, mount: Mount) -> bool:
        """Whether a lease of `mount` needs no more than this process may do; layers are not looked at."""
        count = len(mount.layers)
        way = self._way or possible_way(userxattr=mount.userxattr) if count > 1 else None
        return count <= 1 or (count <= LAYERS_MAX and way is not None)

    @contextlib.contextmanager
    def lease(self, mount: Mount, *, shared: bool = False) -> Iterator[int]:
        """A readable descriptor of the root of `mount`, its own for every lease, open for the `with` block.

        Equal mounts leased as `shared` are one mount, also while it is being made: right for layers that are never
        written again. Anything live gets a mount of its own, because an overlay remembers names it has looked up.

        Draining after `close`; SourceChanged for a layer that is gone; StoreDamaged for one that is no directory;
        NotPermitted, LimitExceeded (open files), MountFailed. If giving back fails, that is noted on the error which
        ended the block, or raised as MountFailed when there was none.
        """
        with self._taken(mount, shared) as held:
            yield held.root

    def close(self) -> None:
        """Refuse new leases from now on; open ones go on and are given back by those who hold them."""
        with self._books:
            self._closed = True

    def statistics(self) -> Statistics:
        """The counts of this moment."""
        with self._books:
            leases = sum(entry.leases for entry in self._entries.values())
            return Statistics(leases, len(self._entries), self._leased, self._mounted, self._failed)

    def __repr__(self) -> str:
        counts = self.statistics()
        return f"<MountTable {counts.leases} leases of {counts.mounts} mounts{', closed' if self._closed else ''}>"

    def _taken(self, mount: Mount, shared: bool) -> _Held:
        """Leave nothing behind on failure; what is returned gives everything back when its `with` block is left."""
        with opened_layers(mount) as layers, _Held() as held:
            entry = self._enter(mount, layers, shared)
            held.giving_back(lambda: self._leave(entry))
            held.root = root = self._root(entry, layers)
            held.giving_back(lambda: os.close(root))
            return held.kept()

    def _enter(self, mount: Mount, layers: Sequence[int], shared: bool) -> _Entry:
        # A store may remove a layer and bring it back at the same path: such mounts are equal as values, but the old
        # one shows empty directories by now. Numbers are not given to another directory while a mount pins theirs.
        identities = tuple((status.st_dev, status.st_ino) for status in map(os.fstat, layers))
        key: Hashable = (mount, identities) if shared else object()
        with self._books:
            if self._closed:
                raise Draining("no more file systems are opened: the service is shutting down")
            entry = self._entries.setdefault(key, _Entry(mount, key, shared))
            entry.leases += 1
            self._leased += 1
            return entry

    def _root(self, entry: _Entry, layers: Sequence[int]) -> int:
        # Whoever comes while another mounts the same waits here, and tries for itself if that one failed.
        with entry.mounting:
            if entry.descriptor is None:
                entry.descriptor = self._mounted_now(entry, layers)
            # Not a duplicate: listing a directory moves the offset, which duplicates have in common.
            return readable(entry.descriptor)

    def _mounted_now(self, entry: _Entry, layers: Sequence[int]) -> int:
        mount = entry.mount
        try:
            if not layers:
                mounted = empty_directory()
            elif len(layers) == 1:
                mounted = os.dup(layers[0]) if entry.shared else guarded(layers[0])
            else:
                mounted = mount_overlay(layers, userxattr=mount.userxattr, way=self._way)
        except BaseException:
            with self._books:
                self._failed += 1
            raise
        with self._books:
            self._mounted += 1
        return mounted

    def _leave(self, entry: _Entry) -> None:
        with self._books:
            entry.leases -= 1
            if entry.leases:
                return
            del self._entries[entry.key]
            descriptor, entry.descriptor = entry.descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class _Held(contextlib.ExitStack):
    """What a lease holds; an error in giving it back never hides the error that ended the block."""

    root: int = -1

    def giving_back(self, release: Callable[[], None]) -> None:
        def leave(_: type[BaseException] | None, first: BaseException | None, __: TracebackType | None) -> None:
            try:
                release()
            except OSError as error:
                # Somebody closed a descriptor that was not theirs: what was read meanwhile may be another tree.
                if first is None:
                    raise MountFailed(f"a lease could not be given back: {error.strerror}") from error
                first.add_note(f"While giving back a lease: {error}")

        self.push(leave)

    def kept(self) -> _Held:
        """All of it moved into a new one, so that leaving this block gives nothing back."""
        kept = self.pop_all()
        kept.root = self.root
        return kept
