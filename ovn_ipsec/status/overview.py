"""What ``ovn-ipsec status`` shows, out of the agent's JSON. Pure.

The JSON is that of ``tunnels/show``; an agent of another version may say less or more, so what is
absent is unknown, never an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

OLD_AFTER_S = 60.0
_GRE = "gre"


@dataclass(frozen=True, slots=True)
class PeerRow:
    """One tunnel."""

    tunnel: str
    peer: str
    """Its chassis name; empty with a pre-shared key."""
    address: str
    state: str
    encrypted: bool
    ike_up: bool
    inbound: int
    """Child SAs for traffic that the peer begins; for gre, the one for both."""
    outbound: int
    cipher: str
    age_s: float | None
    rekey_s: float | None
    bytes_in: int
    bytes_out: int
    cause: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Overview:
    """The node at one moment, for people."""

    rows: tuple[PeerRow, ...]
    problems: tuple[str, ...]
    """What is wrong with the node, a line each."""
    notes: tuple[str, ...]
    """What is worth knowing, and no reason to be unhappy."""
    certificate_days: int | None

    @property
    def encrypted(self) -> int:
        """How many tunnels are."""
        return sum(row.encrypted for row in self.rows)

    @property
    def all_encrypted(self) -> bool:
        """Every tunnel is, and the node is as it should be."""
        return self.encrypted == len(self.rows) and not self.problems

    @property
    def troubled(self) -> tuple[PeerRow, ...]:
        """The tunnels that are not."""
        return tuple(row for row in self.rows if not row.encrypted)


def build_overview(status: Mapping[str, Any]) -> Overview:
    """The overview of a node's status."""
    node = _mapping(status.get("node"))
    now = _moment(node.get("taken_at"))
    age_s = _number(node.get("age_s"))
    rows = [
        _row(_mapping(tunnel), now)
        for tunnel in _list(status.get("tunnels"))
        if _mapping(tunnel).get("state") != "REMOVED"
    ]
    certificate = _mapping(node.get("certificate"))
    until = _moment(certificate.get("not_after"))
    problems = _problems(node, age_s)
    notes = [one_line(problem) for problem in _list(node.get("problems"))]
    if any(not row.encrypted for row in rows) and node.get("log_problem"):
        notes.append(f"causes may be less specific: {one_line(node['log_problem'])}")
    return Overview(
        tuple(sorted(rows, key=lambda row: (row.encrypted, row.tunnel))),
        tuple(problems),
        tuple(notes),
        (until - now).days if until and now else None,
    )


def _problems(node: Mapping[str, Any], age_s: float | None) -> list[str]:
    problems = [
        f"{one_line(cause.get('text'))}; {one_line(cause.get('remedy'))}"
        for cause in map(_mapping, _list(node.get("causes")))
    ]
    if node.get("complete") is not True:
        problems.append("not all sources have reported yet; tunnels may be missing")
    for stale in map(_mapping, _list(node.get("stale"))):
        problems.append(f"{one_line(stale.get('subject'))}: {one_line(stale.get('reason'))}")
    if age_s is not None and age_s > OLD_AFTER_S:
        problems.append(f"the node was last looked at {age_s:.0f} s ago")
    return problems


def _row(tunnel: Mapping[str, Any], now: datetime | None) -> PeerRow:
    config, cause = _mapping(tunnel.get("config")), _mapping(tunnel.get("cause"))
    missing = set(map(str, _list(tunnel.get("missing"))))
    active = [
        connection
        for connection in map(_mapping, _list(tunnel.get("connections")))
        if connection.get("name") not in missing
    ]
    name = one_line(tunnel.get("name"))
    roles = [_role(name, str(connection.get("name"))) for connection in active]
    since = [_number(connection.get("add_time")) for connection in active]
    known = [moment for moment in since if moment is not None]
    rekeys = [_number(connection.get("rekey_in_s")) for connection in active]
    ciphers = {one_line(c.get("cipher")) for c in active if c.get("cipher")}
    up = tunnel.get("up") is True
    return PeerRow(
        tunnel=name,
        peer=one_line(config.get("remote_name") or ""),
        address=one_line(config.get("remote_ip") or ""),
        state=_state(tunnel, cause, up=up),
        encrypted=up and not cause,
        ike_up=tunnel.get("ike_up") is True,
        inbound=sum(role != "out" for role in roles),
        outbound=sum(role != "in" for role in roles),
        cipher=", ".join(sorted(ciphers)),
        age_s=now.timestamp() - min(known) if known and now else None,
        rekey_s=min((s for s in rekeys if s is not None), default=None),
        bytes_in=sum(int(_number(c.get("bytes_in")) or 0) for c in active),
        bytes_out=sum(int(_number(c.get("bytes_out")) or 0) for c in active),
        cause=one_line(cause.get("text") or tunnel.get("error") or ""),
        remedy=one_line(cause.get("remedy") or ""),
    )


def _role(tunnel: str, connection: str) -> str:
    role, dash, _version = connection[len(tunnel) + 1 :].rpartition("-")
    return role if dash else _GRE


def _state(tunnel: Mapping[str, Any], cause: Mapping[str, Any], *, up: bool) -> str:
    if up:
        return "no input" if cause else "encrypted"
    state = one_line(tunnel.get("state"))
    return "down" if state == "CONFIGURED" else state.lower()


def render_age(seconds: float | None) -> str:
    """``42s``, ``5m``, ``3h``, ``12d``; empty when unknown."""
    if seconds is None:
        return ""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


def render_bytes(count: int) -> str:
    """At most four characters and the unit: ``0``, ``512``, ``1.2K``, ``34M``."""
    if count < 1000:
        return str(count)
    value = float(count)
    for unit in "KMGTPE":
        value /= 1000
        if value < 9.95:
            return f"{value:.1f}{unit}"
        if value < 999.5 or unit == "E":
            return f"{value:.0f}{unit}"
    raise AssertionError  # the loop returns at its last unit


def summary(overview: Overview) -> str:
    """One line about the node."""
    count = len(overview.rows)
    if count == 0:
        line = "no tunnel asks for IPsec"
    elif overview.encrypted == count:
        line = f"all {count} tunnels are encrypted" if count > 1 else "the tunnel is encrypted"
    else:
        line = f"{overview.encrypted} of {count} tunnels are encrypted"
    if overview.certificate_days is not None:
        days = overview.certificate_days
        line += "; certificate expired" if days < 0 else f"; certificate valid for {days} d"
    return line


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _moment(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def one_line(value: object) -> str:
    """One line, whatever a row of OVSDB holds: no terminal is driven by it."""
    text = "" if value is None else str(value)
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
