"""Whose the connections are that pluto has loaded. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Set
from functools import cached_property, lru_cache

from ovn_ipsec.model.conns import InstalledTunnel, TunnelConfig

_ROLES = ("", "in", "out")
"""Of a tunnel's connections; a gre tunnel has but one (``connection_name``)."""


class LoadedView:
    """Connections that pluto has loaded, by tunnel."""

    def __init__(self, loaded: frozenset[str], installed: Mapping[str, InstalledTunnel]) -> None:
        self._loaded, self._installed = loaded, installed
        self._by_base = _by_base(loaded)

    def of(
        self, tunnel: str, record: InstalledTunnel | None, config: TunnelConfig | None = None
    ) -> set[str]:
        """Loaded connections that are recognisably this tunnel's, of any version.

        A name alone is no proof: ``x-in-1`` is half of ``x``, or all of a gre tunnel ``x-in``,
        and ``x-1`` may be anybody's. So they are those that its record tells of; and, for what
        has lost its record, whole pairs that no other tunnel's record tells of.
        """
        roles = set(config.selectors()) if config is not None else set()
        found: set[str] = set()
        if record is not None:
            roles |= record.ends.selectors().keys()
            found = set(self._loaded & (record.connections | record.replaced))
        if "in" in roles and tunnel in self._unrecorded:
            found |= self._whole_pairs(tunnel, found) - self._recorded
        return found

    def next_version(self, tunnel: str, record: InstalledTunnel | None) -> int:
        """A version that no loaded connection of this name has, whoever loaded it."""
        names = [name for role in _ROLES for name in self._of_role(tunnel, role)]
        versions = [int(_version(name)) for name in names]
        return max([*versions, record.version if record else 0]) + 1

    def _whole_pairs(self, tunnel: str, known: Set[str]) -> set[str]:
        inbound, outbound = (
            {name for name in self._of_role(tunnel, role) if name not in known}
            for role in ("in", "out")
        )
        if not inbound or not outbound:
            return set()
        versions = set(map(_version, inbound)) & set(map(_version, outbound))
        return {name for name in inbound | outbound if _version(name) in versions}

    def _of_role(self, tunnel: str, role: str) -> Collection[str]:
        return self._by_base.get(f"{tunnel}-{role}" if role else tunnel, ())

    @cached_property
    def _recorded(self) -> set[str]:
        return {name for record in self._installed.values() for name in record.connections}

    @cached_property
    def _unrecorded(self) -> set[str]:
        """Tunnels of whose pairs there may be some that no record tells of: hardly ever any."""
        bases = (name.rpartition("-")[0] for name in self._loaded - self._recorded)
        return {base.rpartition("-")[0] for base in bases}


@lru_cache(maxsize=1)
def _by_base(loaded: Iterable[str]) -> Mapping[str, list[str]]:
    """Names of connections by what comes before the version."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in loaded:
        base, _, version = name.rpartition("-")
        if version.isascii() and version.isdigit():
            found[base].append(name)
    return found


def _version(name: str) -> str:
    return name.rpartition("-")[2]
