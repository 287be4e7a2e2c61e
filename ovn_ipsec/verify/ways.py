"""What probes are, where they go and what became of them. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from ovn_ipsec.model.kernel import KernelPolicy
from ovn_ipsec.verify.packets import canonical

MAGIC = b"\xc0ovn-ipsec"
"""The first byte is Geneve of version 3, VXLAN without its I flag, GRE with the R flag."""
TOKEN_BYTES = 16
PROTOCOLS = frozenset({"udp", "gre"})
_ASK, _ANSWER = b"?", b"!"
_SIZE = len(MAGIC) + 1 + TOKEN_BYTES


@dataclass(frozen=True, slots=True)
class Way:
    """Where probes go: what a policy covers."""

    local: str
    peer: str
    protocol: str
    port: int | None
    """The peer's tunnel port; None: GRE."""


@dataclass(slots=True)
class Probed:
    """What became of the probes on one way."""

    sent: int = 0
    back: int = 0
    best_s: float = 0.0
    """The shortest time there and back."""
    error: str = ""
    """Why one could not be sent."""
    under_way: dict[bytes, float] = field(default_factory=dict)
    """Token -> when it was sent."""


def probe_ways(policies: Collection[KernelPolicy], peers: Collection[str]) -> frozenset[Way]:
    """One for each tunnel that policies cover: what they do not cover is not probed."""
    found, wanted = set(), frozenset(map(canonical, peers))
    for policy in policies:
        if policy.direction != "out" or policy.protocol not in PROTOCOLS:
            continue
        local, peer = (canonical(end.partition("/")[0]) for end in (policy.src, policy.dst))
        if peer in wanted and (policy.dport is not None or policy.protocol == "gre"):
            found.add(Way(local, peer, policy.protocol, policy.dport))
    return frozenset(found)


def parse_probe(payload: bytes) -> tuple[bool, bytes] | None:
    """Whether it is an answer, and its token; None: no probe."""
    kind, token = payload[len(MAGIC) : len(MAGIC) + 1], payload[len(MAGIC) + 1 : _SIZE]
    if not payload.startswith(MAGIC) or len(token) < TOKEN_BYTES or kind not in (_ASK, _ANSWER):
        return None
    return kind == _ANSWER, token


def render_probe(token: bytes, *, answer: bool) -> bytes:
    """What is behind the UDP header, or the IP header of GRE."""
    return MAGIC + (_ANSWER if answer else _ASK) + token
