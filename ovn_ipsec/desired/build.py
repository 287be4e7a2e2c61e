"""Facts -> the whole wanted state of the node: tunnels, credentials, guard."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from ovn_ipsec.desired.conflicts import settle_conflicts
from ovn_ipsec.desired.credentials import CredentialVerdict, judge_credentials, right_ca
from ovn_ipsec.desired.guard import build_guard
from ovn_ipsec.desired.overlay import Surroundings, build_tunnel, shown_name, wants_ipsec
from ovn_ipsec.model.conns import (
    Desired,
    GuardMode,
    GuardPort,
    InstalledCredential,
    WantedTunnel,
)
from ovn_ipsec.model.facts import Facts

_HW_OFFLOAD = (
    "other_config:hw-offload=true: packets that the network card handles pass neither IPsec nor "
    "the guard; set it to false, or accept it with allow-hw-offload"
)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator has decided for this node."""

    guard_mode: GuardMode = GuardMode.ENFORCE
    guard_ports: frozenset[GuardPort] = frozenset()
    """Closed to and from everybody, besides Geneve's own port."""
    allow_plain: frozenset[GuardPort] = frozenset()
    """Ports whose rows without a literal peer may stay in clear."""
    use_default_crypto: bool = False
    """Leave the choice of algorithms to libreswan."""
    allow_hw_offload: bool = False
    """Raise no alarm for ``other_config:hw-offload=true``."""


def build(
    facts: Facts,
    policy: Policy,
    incumbents: Collection[str],
    installed: Collection[InstalledCredential],
) -> Desired:
    """The wanted state; never raises for anything that a source can say.

    ``incumbents``: tunnels that are installed; they win over new rows with the same ends.
    ``installed``: pluto's NSS entries as last read. They decide what is kept while a file is
    bad, and whether ``rightca`` may be ``%any``.
    """
    ipsec = [tunnel for tunnel in facts.tunnels if wants_ipsec(tunnel)]
    certificates_wanted = any("psk" not in tunnel.options for tunnel in ipsec)
    verdict = _judge(facts, installed, certificates_wanted)
    problems = list(verdict.warnings) if certificates_wanted else []
    warnings: tuple[str, ...] = ()
    if _offloads(facts) and not policy.allow_hw_offload:
        problems.append(_HW_OFFLOAD)
        warnings = (_HW_OFFLOAD,)
    around = Surroundings(
        credentials=verdict,
        rightca=right_ca(verdict.credentials, installed),
        other_config=facts.node.other_config,
        local_addresses=facts.local_addresses,
        use_default_crypto=policy.use_default_crypto,
        warnings=warnings,
    )
    rows = {tunnel.name: build_tunnel(tunnel, around) for tunnel in ipsec}
    tunnels: dict[str, WantedTunnel] = settle_conflicts(rows, incumbents)
    rules = build_guard(
        facts,
        mode=policy.guard_mode,
        guard_ports=policy.guard_ports,
        allow_plain=policy.allow_plain,
    )
    problems += rules.problems
    for name, warning in rules.warnings.items():
        if name in tunnels:
            wanted = tunnels[name]
            tunnels[name] = replace(wanted, warnings=(*wanted.warnings, warning))
        else:
            problems.append(f"interface {shown_name(name)} {warning}")
    return Desired(
        tunnels=tunnels,
        credentials=verdict.credentials,
        keep_credentials=verdict.keep,
        guard=rules.guard,
        complete=facts.in_sync,
        problems=tuple(problems),
    )


def _judge(
    facts: Facts, installed: Collection[InstalledCredential], certificates_wanted: bool
) -> CredentialVerdict:
    if facts.now is None:
        raise ValueError("facts without the time cannot be judged")
    nicknames = {entry.nickname for entry in installed}
    return judge_credentials(
        facts.pki, facts.now, nicknames, certificates_wanted=certificates_wanted
    )


def _offloads(facts: Facts) -> bool:
    return facts.node.other_config.get("hw-offload", "").lower() == "true"
