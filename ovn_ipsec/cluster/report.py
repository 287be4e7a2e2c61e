"""What a node says of itself, in ``Chassis_Private:external_ids:ovn-ipsec``. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ovn_ipsec.model.conns import IPSEC_OPTIONS

WAITING_MOST = 20
_TEXT_MOST = 200
_OLD_AFTER_S = 60.0
"""The agent looks each 11 s, or later when it is busy with many tunnels."""


@dataclass(frozen=True, slots=True)
class Report:
    """One node, as it last was."""

    stage: str
    """The guard stage that it has heard of; empty for none."""
    ipsec: bool
    """Whether it has heard that IPsec is on."""
    guard: str
    """The mode that is in force; empty: unknown."""
    asking: int
    """OVN's tunnels with an IPsec option."""
    plain: int
    """OVN's tunnels without one."""
    wanted: int
    """Tunnels that the agent has to encrypt, and nobody revoked."""
    encrypted: int
    waiting: tuple[str, ...]
    """Some of the peers that are not encrypted."""
    problem: str
    """Why nothing better can be said; empty when it can."""
    at_s: float
    """Unix time."""


def make_report(
    heard: tuple[str, bool],
    tunnels: Mapping[str, Mapping[str, str]],
    answer: Mapping[str, Any] | None,
    at_s: float,
) -> Report:
    """``heard``: stage and ipsec of SB_Global. ``tunnels``: OVN's, interface name
    to options, read before the agent was asked.

    ``answer``: what the agent's ``/readyz`` says; None when it does not answer.
    """
    asking = {
        name: options.get("remote_ip")
        for name, options in tunnels.items()
        if not IPSEC_OPTIONS.isdisjoint(options)
    }
    plain = len(tunnels) - len(asking)
    report = Report(heard[0], heard[1], "", len(asking), plain, 0, 0, (), "", at_s)
    if answer is None:
        return replace(report, problem="the agent does not answer; is it running, with --http?")
    try:
        counts, read = answer["tunnels"], dict(answer["read"])
        age_s = float(answer["age_s"])
        report = replace(
            report,
            guard=str(answer["guard"] or ""),
            wanted=int(counts["wanted"]),
            encrypted=int(counts["encrypted"]),
            waiting=tuple(str(name) for name in answer["unencrypted"])[:WAITING_MOST],
        )
    except (KeyError, TypeError, ValueError):
        return replace(report, problem="the agent's answer is of another version")
    if age_s > _OLD_AFTER_S:
        return replace(report, problem="the agent has not looked for over a minute; does it hang?")
    if not report.guard:
        return replace(report, problem="its guard cannot be read, or somebody else changed it")
    # By name: as many of somebody else's must not stand for OVN's.
    if any(name not in read or read[name] != address for name, address in asking.items()):
        return replace(report, problem="the agent has not read all tunnels yet")
    return report


def render_report(report: Report) -> str:
    """As it is stored."""
    return json.dumps(asdict(report), separators=(",", ":"), sort_keys=True)


def parse_report(text: str) -> Report | None:
    """None: it is no report, or one of another version."""
    try:
        value = json.loads(text)
        return Report(
            stage=str(value["stage"]),
            ipsec=value["ipsec"] is True,
            guard=_line(value["guard"]),
            asking=int(value["asking"]),
            plain=int(value["plain"]),
            wanted=int(value["wanted"]),
            encrypted=int(value["encrypted"]),
            waiting=tuple(_line(name) for name in value["waiting"])[:WAITING_MOST],
            problem=_line(value["problem"]),
            at_s=float(value["at_s"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def same(one: Report, other: Report | None) -> bool:
    """Nothing but the time differs."""
    return other is not None and replace(one, at_s=other.at_s) == other


def _line(value: object) -> str:
    """Any node writes here: one printable line of bounded length."""
    text = str(value)[:_TEXT_MOST]
    return "".join(char if char.isprintable() else "?" for char in text)
