"""Layers on their way into the store: each verified, unpacked once, kept in staging until all is there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from streamer.errors import Conflict, DigestMismatch, InvalidArchive, LimitExceeded, StoreDamaged, Unsupported
from streamer.oci import digest as digests
from streamer.oci.config import Config
from streamer.oci.reference import Reference
from streamer.stores.local import state as states
from streamer.stores.local.archives import FoundImage, FoundLayer
from streamer.stores.local.catalog import LayerRow
from streamer.stores.local.source import Digesting, Source, drain
from streamer.stores.local.staging import Staging
from streamer.stores.local.unpack import Ownership, unpack
from streamer.tar.compression import decompressed
from streamer.tar.source import Limits


@dataclass(frozen=True, slots=True)
class TakenImage:
    """An image all of whose layers are there; `layers` base first."""

    config: Config
    names: tuple[Reference, ...]
    layers: tuple[LayerRow, ...]


@dataclass(slots=True)
class Intake:
    """Takes layers in, in the import's thread. `known` asks the database for a layer's row.

    `folders` names, by chain ID, the staging directories of layers that are new; `shared` are layers found in the
    store, each held (`State.hold_layer`) until `close`, so that nobody removes what the new ones stand on.
    """

    staging: Staging
    ownership: Ownership
    limits: Limits
    known: Callable[[str], LayerRow | None]
    folders: dict[str, str] = field(default_factory=dict)
    rows: dict[str, LayerRow] = field(default_factory=dict)
    shared: set[str] = field(default_factory=set)
    _held: dict[str, int] = field(default_factory=dict)
    _verified: set[tuple[str, str]] = field(default_factory=set)

    def close(self) -> None:
        while self._held:
            os.close(self._held.popitem()[1])

    def image(self, found: FoundImage) -> TakenImage:
        """Every layer of the image: InvalidArchive, DigestMismatch … naming the blob that is wrong."""
        rows: list[LayerRow] = []
        for layer, chain in zip(found.layers, digests.chain_ids(found.config.diff_ids), strict=True):
            row = self._present(chain)
            with _named(layer.member.name):
                if row is None:
                    with self._verifying(layer) as plain:
                        row = self.layer(plain, tuple(rows), layer.diff_id, layer.member.name)
                    self._verified.add((layer.member.name, layer.diff_id))
                else:
                    self._verify(layer)
            rows.append(row)
        return TakenImage(found.config, found.names, tuple(rows))

    def layer(
        self, plain: Source, below: tuple[LayerRow, ...], diff_id: str | None = None, what: str = "the layer"
    ) -> LayerRow:
        """Unpacks an uncompressed tar on top of `below` (base first); DigestMismatch unless it has that diff ID.

        A layer that turns out to be there already, as one read from a pipe may, is not kept a second time.
        """
        folder = f"layer-{len(os.listdir(self.staging.fd))}"
        algorithm = digests.algorithm(diff_id) if diff_id else "sha256"
        with contextlib.ExitStack() as stack, states.storage(what):
            fd = self.staging.folder(folder)
            stack.callback(os.close, fd)
            lowers = []
            for row in reversed(below):
                lowers.append(self._diff(row.chain))
                stack.callback(os.close, lowers[-1])
            found = unpack(
                plain,
                fd,
                lowers,
                ownership=self.ownership,
                limits=self.limits,
                algorithm=algorithm,
                # Some builders leave the end blocks of layers out, and the engines accept that; a digest that is known
                # beforehand tells a whole layer from a cut one without them.
                terminated=diff_id is None,
            )
        if diff_id is not None and found.diff_id != diff_id:
            raise DigestMismatch(
                f"{what} has the diff ID {found.diff_id} where its configuration promises {diff_id}",
                member=what,
                digest=found.diff_id,
            )
        parent = below[-1].chain if below else None
        chain = digests.chain_ids((parent, found.diff_id))[-1] if parent else found.diff_id
        present = self._present(chain)
        if present is not None:
            return present
        row = LayerRow(chain, found.diff_id, parent, found.size)
        self.folders[chain], self.rows[chain] = folder, row
        return row

    def forget(self, row: LayerRow) -> None:
        """A layer that was taken in is not wanted: it stays in staging, and goes with it."""
        self.folders.pop(row.chain, None)
        del self.rows[row.chain]

    def hold(self, rows: tuple[LayerRow, ...]) -> tuple[LayerRow, ...]:
        """The same layers, held; Conflict if one was removed meanwhile."""
        for row in rows:
            if self._present(row.chain) is None:
                raise Conflict(f"layer {digests.short(row.diff)} was removed from the store meanwhile")
        return rows

    def _present(self, chain: str) -> LayerRow | None:
        """The row of a layer that is there: taken in before, or in the store, and then held from now on."""
        if chain in self.rows:
            return self.rows[chain]
        held = self.staging.state.hold_layer(chain)
        if held is None:
            return None
        row = None
        try:
            # Asked under the lock: a row that is there now cannot go any more.
            row = self.known(chain)
        finally:
            if row is None:
                os.close(held)
        if row is not None:
            self._held[chain], self.rows[chain] = held, row
            self.shared.add(chain)
        return row

    def _diff(self, chain: str) -> int:
        """A descriptor of a layer's tree, the caller's to close."""
        try:
            if chain in self._held:
                return os.open("diff", states.DIRECTORY, dir_fd=self._held[chain])
            return os.open(f"{self.folders[chain]}/diff", states.DIRECTORY, dir_fd=self.staging.fd)
        except FileNotFoundError:
            raise StoreDamaged(f"diff of layer {digests.short(chain)} is missing") from None

    def _verify(self, layer: FoundLayer) -> None:
        """Compares the blob of a layer that is there already with its digests: the archive must be right as a whole."""
        if (layer.member.name, layer.diff_id) in self._verified:
            return
        with self._verifying(layer) as plain:
            hashed = Digesting(plain, digests.algorithm(layer.diff_id))
            hashed.finish(layer.member.name, layer.diff_id)
        self._verified.add((layer.member.name, layer.diff_id))

    @contextlib.contextmanager
    def _verifying(self, layer: FoundLayer) -> Iterator[Source]:
        """The layer's uncompressed bytes; leaving the block compares the blob with its descriptor."""
        member, descriptor = layer.member, layer.descriptor
        with member.open() as source:
            blob: Source = source
            if descriptor is not None and member.digest != descriptor.digest:
                blob = Digesting(source, digests.algorithm(descriptor.digest))
            _, plain = decompressed(blob, limits=self.limits)
            yield plain
            drain(plain)
            if isinstance(blob, Digesting) and descriptor is not None:
                blob.finish(member.name, descriptor.digest, descriptor.size)


@contextlib.contextmanager
def _named(blob: str) -> Iterator[None]:
    """What is wrong inside a layer is said with the layer's name: an archive may hold hundreds."""
    try:
        yield
    except (InvalidArchive, LimitExceeded, Unsupported) as error:
        if blob in str(error):
            raise
        raise type(error)(f"{blob}: {error}", **{"member": blob, **error.details}) from error
