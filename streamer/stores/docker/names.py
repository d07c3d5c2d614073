"""The names of images: repositories.json."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeAlias

from streamer.errors import InvalidReference, NotPermitted, StoreDamaged
from streamer.oci import digest as digests
from streamer.oci import reference as references
from streamer.oci.reference import Reference
from streamer.stores.docker.root import DataRoot

Names: TypeAlias = Mapping[Reference, tuple[str, ...]]


def place(root: DataRoot) -> str:
    """The file's name, which stands for an image in `read` where something in it is wrong."""
    return f"{root.metadata}/repositories.json"


def read(root: DataRoot) -> dict[Reference, tuple[str, ...]]:
    """The image of each name, with a tag or a manifest's digest. Something that is no image ID is given as `place`.

    StoreDamaged, NotPermitted.
    """
    document = root.files.mapping(place(root)) or {}
    names: dict[Reference, tuple[str, ...]] = {}
    for repository in _mapping(document.get("Repositories", {}), root).values():
        for text, identity in _mapping(repository, root).items():
            try:
                name = references.parse(text)
            except InvalidReference:
                continue  # the image is there by its ID
            if name.tag or name.digest:
                names[name] = (identity if digests.is_digest(identity) else place(root),)
    return names


def _mapping(value: Any, root: DataRoot) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise StoreDamaged(f"{place(root)} does not hold images by repository and name")
    return value


class Unreadable(Mapping[Reference, tuple[str, ...]]):
    """What stands for names that cannot be read: a listing has none, who asks for one hears why.

    What the beginning of an image's ID could be is no name: images are found by their IDs as before.
    """

    def __init__(self, error: StoreDamaged | NotPermitted, images: Collection[str]) -> None:
        self._error = error
        self._images = images

    def __getitem__(self, name: Reference) -> tuple[str, ...]:
        prefix = f"sha256:{name.familiar_repository}"
        if name.tag == "latest" and any(identity.startswith(prefix) for identity in self._images):
            raise KeyError(name)
        raise self._error

    def __iter__(self) -> Iterator[Reference]:
        return iter(())

    def __len__(self) -> int:
        return 0
