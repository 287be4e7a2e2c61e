"""Facts -> the whole wanted state of the node: tunnels, credentials, guard."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from ovn_ipsec.desired.conflicts import settle_conflicts
from ovn_ipsec.desired.credentials import CredentialVerdict, judge_credentials, right_ca
from ovn_ipsec.desired.guard import GuardRules, build_guard
from ovn_ipsec.desired.overlay import Surroundings, TunnelRows, shown_name, wants_ipsec
from ovn_ipsec.desired.revocation import RevocationVerdict, judge_revocation
from ovn_ipsec.model.causes import CauseCode, Problem
from ovn_ipsec.model.conns import (
    Desired,
    GuardMode,
    GuardPort,
    GuardTuple,
    InstalledCredential,
    OwnCertificate,
    WantedTunnel,
)
from ovn_ipsec.model.facts import Facts, TunnelFact

GUARD_KEY = "ipsec_guard_mode"
"""Of Open_vSwitch:other_config; obeyed with ``--guard-follow``."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator has decided for this node (``settings`` documents each)."""

    use_default_crypto: bool = False
    guard_mode: GuardMode = GuardMode.ENFORCE
    guard_follow: bool = False
    guard_ports: frozenset[GuardPort] = frozenset()
    allow_plain: frozenset[GuardPort] = frozenset()
    allow_hw_offload: bool = False


def build(
    facts: Facts,
    policy: Policy,
    incumbents: Mapping[str, str | None],
    installed: Collection[InstalledCredential],
    rows: TunnelRows | None = None,
    still_closed: Collection[GuardPort | GuardTuple] = (),
) -> Desired:
    """The wanted state; never raises for anything that a source can say.

    ``incumbents``: tunnels that are installed, with the name of the peer that they authenticate
    by certificate; they win over new rows with the same ends.
    ``installed``: pluto's NSS entries as last read, also when reading them fails now. They decide
    what is kept while a file is bad, and whether ``rightca`` may be ``%any``; forgetting them
    would replace connections for nothing.
    ``rows``: what the last build made of them; saves work, changes nothing.
    ``still_closed``: what rows of a while ago had closed in the guard (``build_guard``).
    """
    ipsec = [tunnel for tunnel in facts.tunnels if wants_ipsec(tunnel)]
    certificates_wanted = any("psk" not in tunnel.options for tunnel in ipsec)
    verdict = _judge(facts, installed, certificates_wanted)
    revocation = judge_revocation(facts.pki, _now(facts))
    rules = build_guard(
        facts,
        mode=_guard_mode(facts, policy),
        guard_ports=policy.guard_ports,
        allow_plain=policy.allow_plain,
        allow_hw_offload=policy.allow_hw_offload,
        still_closed=still_closed,
    )
    around = Surroundings(
        credentials=verdict,
        rightca=right_ca(verdict.credentials, installed),
        other_config=facts.node.other_config,
        local_addresses=facts.local_addresses,
        use_default_crypto=policy.use_default_crypto,
        revocation=revocation,
    )
    built = (rows or TunnelRows()).build(ipsec, around)
    settled = _withdraw(settle_conflicts(built, incumbents), incumbents, revocation)
    tunnels = _with_alarms(settled, rules)
    problems = [*rules.problems]
    if certificates_wanted:
        problems += [*verdict.warnings, *revocation.warnings]
    problems += _unlisted(rules, tunnels)
    return Desired(
        tunnels=tunnels,
        credentials=verdict.credentials,
        keep_credentials=verdict.keep,
        guard=rules.guard if facts.in_sync else None,
        closed_by_rows=rules.closed_by_rows,
        complete=facts.in_sync,
        problems=tuple(dict.fromkeys(problems)),
        certificate=_own_certificate(facts, verdict, ipsec),
    )


def _guard_mode(facts: Facts, policy: Policy) -> GuardMode:
    """During a staged roll-out the cluster decides, where the operator of this node lets it."""
    told = facts.node.other_config.get(GUARD_KEY)
    if policy.guard_follow and policy.guard_mode is GuardMode.ENFORCE and told == GuardMode.AUDIT:
        return GuardMode.AUDIT
    return policy.guard_mode


def _own_certificate(
    facts: Facts, verdict: CredentialVerdict, asking: Collection[TunnelFact]
) -> OwnCertificate | None:
    own = facts.pki.certificate
    if own is None and all("psk" in tunnel.options for tunnel in asking):
        return None
    by_ca = any("remote_name" in tunnel.options for tunnel in asking)
    problem = verdict.ca_problem if by_ca else verdict.problem
    roots = facts.pki.ca_cert.chain if facts.pki.ca_cert else ()
    return OwnCertificate(
        verdict.local_name,
        own.not_after if own else None,
        problem,
        min((root.not_after for root in roots if root.not_after), default=None),
    )


def _withdraw(
    tunnels: Mapping[str, WantedTunnel],
    incumbents: Mapping[str, str | None],
    revocation: RevocationVerdict,
) -> dict[str, WantedTunnel]:
    """What is installed for a row that cannot be had stays, but not when it is for a revoked
    peer, whomever the row names by now."""
    settled = dict(tunnels)
    for name, wanted in tunnels.items():
        peer = incumbents.get(name)
        if wanted.config is None and not wanted.withdrawn and revocation.denies(peer):
            text = f"{wanted.problem}; what was installed was for peer {peer}, who is revoked"
            problem = Problem(text, CauseCode.PEER_REVOKED)
            settled[name] = replace(wanted, problem=problem, withdrawn=True)
    return settled


def _with_alarms(
    tunnels: Mapping[str, WantedTunnel], rules: GuardRules
) -> dict[str, WantedTunnel]:
    """Tunnels with what the guard has to say of their rows.

    A row that the guard cannot reach stays configured where IPsec may still cover it (hw-offload):
    taking its connection away would only remove protection. Userspace rows are INVALID already.
    """
    if not rules.invalid and not rules.warnings:
        return dict(tunnels)
    alarmed = {}
    for name, wanted in tunnels.items():
        alarm = rules.invalid.get(name) if wanted.problem is None else None
        texts = [text for text in (alarm, rules.warnings.get(name)) if text is not None]
        alarmed[name] = replace(wanted, warnings=(*wanted.warnings, *texts)) if texts else wanted
    return alarmed


def _unlisted(rules: GuardRules, tunnels: Mapping[str, WantedTunnel]) -> list[str]:
    """What concerns rows without IPsec, which no tunnel shows, and alarms about the whole node."""
    texts = [text for name, text in sorted(rules.invalid.items()) if tunnels[name].problem is None]
    for name, text in sorted(rules.warnings.items()):
        if name not in tunnels:
            texts.append(f"interface {shown_name(name)} {text}")
    return texts


def _judge(
    facts: Facts, installed: Collection[InstalledCredential], certificates_wanted: bool
) -> CredentialVerdict:
    nicknames = {entry.nickname for entry in installed}
    return judge_credentials(
        facts.pki, _now(facts), nicknames, certificates_wanted=certificates_wanted
    )


def _now(facts: Facts) -> datetime:
    if facts.now is None:
        raise ValueError("facts without the time cannot be judged")
    return facts.now
