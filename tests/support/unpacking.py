"""Unpacking with Python's tarfile, in every Python 3.11."""

from __future__ import annotations

import tarfile
from typing import Any, Literal


def filtered(name: Literal["data", "fully_trusted"]) -> dict[str, Any]:
    """What `TarFile.extractall` is to be told for a filter: nothing before 3.11.4, which has none."""
    return {"filter": name} if hasattr(tarfile, "data_filter") else {}
