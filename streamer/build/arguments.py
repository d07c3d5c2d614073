"""Values of ARG: what the caller gave, what the file says, and which of both an instruction may use."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace

PREDEFINED = frozenset(
    name
    for each in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (each, each.lower())
)
"""Names that can be used without an ARG, if the caller gives them a value."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """`given` by the caller; `outer` those of before the first FROM, which only FROM and an ARG without default use;
    `inner` those of the present stage. None: an ARG without default. `used` are all that an ARG named so far."""

    given: Mapping[str, str]
    outer: Mapping[str, str | None] = field(default_factory=dict)
    inner: Mapping[str, str | None] = field(default_factory=dict)
    used: Set[str] = frozenset()

    def with_outer(self, name: str, default: str | None) -> Arguments:
        """With an ARG of before the first FROM."""
        added = {name: default}
        return replace(self, outer={**self.outer, **added}, inner={**self.inner, **added}, used=self.used | {name})

    def with_inner(self, name: str, default: str | None) -> Arguments:
        """With an ARG of the present stage."""
        return replace(self, inner={**self.inner, name: default}, used=self.used | {name})

    def for_stage(self) -> Arguments:
        """As a stage begins: with no ARG of its own yet."""
        return replace(self, inner={})

    def values(self) -> dict[str, str]:
        """What an instruction of the present stage may use."""
        return self._values(self.inner)

    def outer_values(self) -> dict[str, str]:
        """What FROM may use."""
        return self._values(self.outer)

    def unused(self) -> list[str]:
        """Names that were given in vain."""
        return sorted(set(self.given) - set(self.used) - PREDEFINED)

    def _values(self, declared: Mapping[str, str | None]) -> dict[str, str]:
        found = {}
        for name in {*declared, *PREDEFINED}:
            value = self.given.get(name)
            if value is None:
                value = declared.get(name)
            if value is None:
                value = self.outer.get(name)
            if value is not None:
                found[name] = value
        return found
