"""OCI image layouts (OCI image-spec image-layout.md): where things lie in them, and what they call images."""

from __future__ import annotations

import re

from streamer.errors import InvalidReference
from streamer.oci import digest as digests
from streamer.oci import document, media
from streamer.oci import reference as references
from streamer.oci.descriptor import Descriptor
from streamer.oci.reference import Reference

MARK = "oci-layout"
"""The file that says that a directory is a layout."""
INDEX = "index.json"
MAX_MARK = 4096

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_NOT_IN_REPOSITORIES = re.compile(r"[^a-z0-9]+")


def blob(digest: str) -> str:
    """`blobs/<algorithm>/<hex>`."""
    return f"blobs/{digests.algorithm(digest)}/{digests.encoded(digest)}"


def version(data: bytes) -> str:
    """What the `oci-layout` file says; InvalidArchive where it is no such file."""
    value = document.mapping(document.loads(data, MARK, MAX_MARK), MARK)
    return str(value.get("imageLayoutVersion", ""))


def name(descriptor: Descriptor, repository: str) -> Reference | None:
    """The name that an entry of `index.json` gives its image, None where that is none.

    containerd's annotation holds a full name. The specification's is whatever its writer was told: often just a tag,
    as skopeo, umoci and buildah have it in `oci:DIRECTORY:TAG`, which is a tag of `repository`; else a full name too.
    """
    for text in (descriptor.annotations.get(media.IMAGE_NAME), descriptor.annotations.get(media.REF_NAME)):
        if text and _TAG.fullmatch(text):
            return Reference(repository, text)
        try:
            found = references.parse(text or "").tagged()
        except InvalidReference:
            continue
        # A name with tag and digest means the digest.
        return Reference(found.repository, None, found.digest) if found.digest is not None else found
    return None


def repository(directory: str) -> str:
    """The repository that bare tags of the layout in a directory of that name belong to, in normal form.

    The directory's name itself where it can be one, else with what cannot be in it replaced.
    """
    try:
        return references.parse(directory).repository
    except InvalidReference:
        made = _NOT_IN_REPOSITORIES.sub("-", directory.lower()).strip("-")[:128].rstrip("-")
        return references.parse(made or "layout").repository
