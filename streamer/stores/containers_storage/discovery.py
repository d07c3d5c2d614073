"""Where the engines of this node keep their store: storage.conf and the environment, by the rules of containers/storage
(containers-storage.conf(5)).

A file that cannot be read or is no TOML counts as one that is not there.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

from streamer.stores.containers_storage.options import StorageOptions

_LIMIT = 1 << 20
_SYSTEM = ("/usr/share/containers", "/etc/containers")
"""Later ones win."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A store that is there."""

    graphroot: Path
    runroot: Path | None
    options: StorageOptions = field(default_factory=StorageOptions)


def discovered(environment: Mapping[str, str], uid: int, home: Path, root: Path = Path("/")) -> Storage | None:
    """The store that podman would use for this user; None if no engine has made one there yet.

    A pure function of files below `root` and of `home`. A directory that may not be looked into counts as a store.
    """
    search = _Search(environment, uid, home, root)
    storage, options = search.settings()
    graphroot = search.path(storage.get("graphroot"))
    if graphroot is None and uid != 0:
        graphroot = search.path(storage.get("rootless_storage_path"))
    graphroot = graphroot or search.default_graphroot()
    imagestore = search.path(storage.get("imagestore")) or search.path(options.get("imagestore"))
    if not _is_store(graphroot) and not (imagestore is not None and _is_store(imagestore)):
        return None
    driver = environment.get("STORAGE_DRIVER") or storage.get("driver")
    return Storage(
        graphroot,
        search.path(storage.get("runroot")) or search.default_runroot(),
        StorageOptions(
            driver=driver if isinstance(driver, str) and driver else None,
            imagestore=imagestore,
            additional=tuple(_paths(search, options.get("additionalimagestores"))),
            subuid=search.below("/etc/subuid"),
            subgid=search.below("/etc/subgid"),
        ),
    )


@dataclass(frozen=True, slots=True)
class _Search:
    environment: Mapping[str, str]
    uid: int
    home: Path
    root: Path

    def settings(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The tables `storage` and `storage.options` in force."""
        storage: dict[str, Any] = {}
        options: dict[str, Any] = {}
        for path, whose in self._files():
            table = _table(_parsed(path), "storage")
            if self.uid != 0 and whose == "system":
                # The roots of the system's store are not for its users.
                table = {key: value for key, value in table.items() if key not in ("graphroot", "runroot")}
            found = _table(table, "options")
            storage.update(table)
            options.update(found)
            for driver in ("overlay", "vfs"):
                options.update(_table(found, driver))
        return storage, options

    def _files(self) -> Iterator[tuple[Path, str]]:
        """Files to merge, in order; later ones win."""
        chosen = self.environment.get("CONTAINERS_STORAGE_CONF")
        if chosen:
            yield self.below(chosen), "user"
            return
        own = self._given("XDG_CONFIG_HOME", self.home / ".config") / "containers"
        folders = [(self.below(folder), "system") for folder in _SYSTEM]
        if self.uid != 0 or "XDG_CONFIG_HOME" in self.environment:
            folders.append((own, "user"))
        mains = [(folder / "storage.conf", whose) for folder, whose in folders]
        there = [main for main in mains if os.path.isfile(main[0])]
        system = [main for main in there if main[1] == "system"][-1:]
        user = [main for main in there if main[1] == "user"]
        # An ordinary user's file adds to the system's; root has only one.
        yield from system + user if self.uid != 0 else (user or system)
        parts: dict[str, tuple[Path, str]] = {}
        for folder, whose in folders:
            for path in _parts(folder / "storage.conf.d"):
                parts[path.name] = path, whose
        yield from (parts[name] for name in sorted(parts))

    def path(self, value: object) -> Path | None:
        """An absolute path with variables replaced, below the root; None for anything else."""
        if not isinstance(value, str) or not value:
            return None
        known = {**self.environment, "HOME": str(self.home), "UID": str(self.uid)}
        expanded = Template(value).safe_substitute(known)
        return self.below(expanded) if expanded.startswith("/") else None

    def below(self, path: str) -> Path:
        """An absolute path as seen from `root`; one that lies there or in `home` already, as it is."""
        given = Path(path)
        if given.is_relative_to(self.root) or given.is_relative_to(self.home):
            return given
        return self.root / path.lstrip("/")

    def default_graphroot(self) -> Path:
        if self.uid == 0:
            return self.below("/var/lib/containers/storage")
        return self._given("XDG_DATA_HOME", self.home / ".local/share") / "containers/storage"

    def default_runroot(self) -> Path:
        if self.uid == 0:
            return self.below("/run/containers/storage")
        return self._given("XDG_RUNTIME_DIR", self.below(f"/run/user/{self.uid}")) / "containers"

    def _given(self, variable: str, default: Path) -> Path:
        value = self.environment.get(variable)
        return self.below(value) if value and value.startswith("/") else default


def _paths(search: _Search, value: object) -> Iterator[Path]:
    """A list, or a text with commas."""
    items = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else []
    for item in items:
        path = search.path(item.strip() if isinstance(item, str) else item)
        if path is not None:
            yield path


def _parsed(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.loads(file.read(_LIMIT).decode())
    except (OSError, ValueError, RecursionError):
        return {}


def _table(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _parts(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in os.listdir(folder) if name.endswith(".conf")]
    except OSError:
        return []


def _is_store(path: Path) -> bool:
    try:
        names = os.listdir(path)
    except PermissionError:
        return True
    except OSError:
        return False
    return any(name.endswith(("-images", "-layers")) for name in names)
