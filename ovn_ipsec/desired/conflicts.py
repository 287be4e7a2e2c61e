"""Rows that cannot stand beside each other in pluto: one of them wins, the other is told why."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from ovn_ipsec.model.conns import Ends, Protocol, PskAuth, Secret, TunnelConfig, WantedTunnel


def _ends(config: TunnelConfig) -> Ends:
    return Ends(config.protocol, config.port, config.local, config.remote)


def _pair(config: TunnelConfig) -> tuple[str, str]:
    return config.local, config.remote


def _described(config: TunnelConfig) -> str:
    port = "" if config.port is None else f" port {config.port}"
    return f"{config.protocol}{port} from {config.local} to {config.remote}"


def _roles(tunnel: str, config: TunnelConfig) -> frozenset[str]:
    """The names of its connections but for the version."""
    return frozenset(f"{tunnel}-{role}" if role else tunnel for role in config.selectors())


def settle_conflicts(
    tunnels: Mapping[str, WantedTunnel], incumbents: Collection[str]
) -> dict[str, WantedTunnel]:
    """Of rows with the same selectors, or the same connection names, keep one valid.

    Two connections with one pair of selectors share one kernel policy, and deleting one takes
    it from the other (LIBRESWAN.md section 3). So do pre-shared keys for one pair of addresses:
    pluto takes the first that fits, whichever tunnel it was meant for. A tunnel that is installed
    already (incumbent) wins over a new one, so that a second row cannot interrupt the first; else
    the first by name.
    """
    settled = dict(tunnels)
    configs = [wanted.config for wanted in tunnels.values() if wanted.config is not None]
    # Names differ, so those of connections can be the same for tunnels of two kinds only.
    kinds = {config.protocol is Protocol.GRE for config in configs}
    if len(set(map(_pair, configs))) == len(configs) and len(kinds) < 2:
        return settled
    by_ends: dict[Ends, str] = {}
    by_role: dict[str, str] = {}
    by_pair: dict[tuple[str, str], tuple[str, Secret]] = {}
    for name in sorted(tunnels, key=lambda name: (name not in incumbents, name)):
        wanted = tunnels[name]
        config = wanted.config
        if config is None:
            continue
        same_ends = by_ends.get(_ends(config))
        roles = _roles(name, config)
        same_role = next((by_role[role] for role in roles if role in by_role), None)
        psk = config.auth.psk if isinstance(config.auth, PskAuth) else None
        same_pair, its_psk = by_pair.get(_pair(config), (None, None))
        if same_ends is not None:
            problem = (
                f"interface {name}: interface {same_ends} has the same ends already "
                f"({_described(config)}); remove one of the two"
            )
            settled[name] = replace(wanted, config=None, problem=problem)
        elif same_role is not None:
            problem = (
                f"interface {name}: its connections would have the names of those of interface "
                f"{same_role}; rename one of the two"
            )
            settled[name] = replace(wanted, config=None, problem=problem)
        elif psk is not None and its_psk not in (None, psk):
            problem = (
                f"interface {name}: interface {same_pair} has another options:psk from "
                f"{config.local} to {config.remote}, and only one can be had for two addresses; "
                "set the same on both"
            )
            settled[name] = replace(wanted, config=None, problem=problem)
        else:
            if psk is not None:
                by_pair[_pair(config)] = name, psk
            by_ends[_ends(config)] = name
            by_role.update(dict.fromkeys(roles, name))
    return settled
