"""Keys of the build cache: a digest over everything that an image of one step is made from."""

from __future__ import annotations

import hashlib

from streamer.build.runtime import Runtime
from streamer.oci import document

_VERSION = 4
"""To be raised whenever the same key would stand for another image."""


def key(parent: str | None, runtime: Runtime, created_by: str, author: str, files: str = "") -> str:
    """The key of a step's image.

    `parent` is the ID of the image it is made on (None: nothing); `created_by` its text in history, which has the hash
    of copied content and where it goes; `files` what else decides about the files. The parent's ID is itself a digest
    of everything below, and the whole configuration is in here: two builds that differ anywhere have different keys
    (CVE-2024-24557).
    """
    told = [_VERSION, parent, runtime.document(), created_by, author, files]
    return hashlib.sha256(document.dumps(told)).hexdigest()
