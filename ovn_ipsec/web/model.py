"""What the cluster view is made of: what nodes have said, and what that amounts to per pair."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ovn_ipsec.model.conns import GuardMode
from ovn_ipsec.status.overview import Overview, PeerRow


@dataclass(frozen=True, slots=True)
class NodeView:
    """What one node said of itself, once."""

    name: str
    """Of its certificate; empty when it has none."""
    addresses: frozenset[str]
    """Local ends of its tunnels."""
    overview: Overview
    age_s: float
    """How old the agent's look at the node was when it answered."""
    guard: str
    """The guard's mode; empty when there is none, or it is not known."""
    pluto: str
    certificate_until: datetime | None
    ca_until: datetime | None
    drops: tuple[int, int] | None
    """Packets without IPsec that the guard met, out and in, since its table was made."""

    @property
    def closed(self) -> bool:
        """Its guard lets no tunnel packet pass in clear."""
        return self.guard in (GuardMode.ENFORCE, GuardMode.ENFORCE_ALWAYS)


@dataclass(frozen=True, slots=True)
class NodeReport:
    """A node that is asked, and the last that it said."""

    name: str
    """As it is reached by; empty for the node behind a loopback address."""
    address: str
    """Where it is reached, without the port."""
    view: NodeView | None = None
    """None: it has never answered."""
    answered_at: datetime | None = None
    error: str = ""
    """Why the last attempt to ask it failed; empty when it did not."""


class Standing(StrEnum):
    """How much what is known of a node is worth; the values are shown."""

    ANSWERS = "answers"
    OLD = "answers, but its agent has not looked for long"
    SILENT = "does not answer"
    UNASKED = "not asked"
    """Only its peers tell of it."""


@dataclass(frozen=True, slots=True)
class Node:
    """A row and a column of the matrix."""

    name: str
    standing: Standing
    view: NodeView | None = None
    answered_at: datetime | None = None
    error: str = ""

    @property
    def key(self) -> str:
        """Stands for the name in addresses of pages: names may hold anything."""
        return hashlib.sha256(self.name.encode("utf-8", "replace")).hexdigest()[:16]

    @property
    def fresh(self) -> bool:
        """What it says counts."""
        return self.standing is Standing.ANSWERS


class PairState(StrEnum):
    """Two nodes, from the worst to the best."""

    OPEN = "open"
    DOWN = "down"
    DISAGREE = "disagree"
    UNKNOWN = "unknown"
    ONE_SIDED = "one-sided"
    ENCRYPTED = "encrypted"
    ABSENT = "absent"


SIGNS: Mapping[PairState, str] = {
    PairState.OPEN: "!",
    PairState.DOWN: "✗",
    PairState.DISAGREE: "≠",
    PairState.UNKNOWN: "?",
    PairState.ONE_SIDED: "½",
    PairState.ENCRYPTED: "✓",
    PairState.ABSENT: "·",
}
MEANINGS: Mapping[PairState, str] = {
    PairState.OPEN: "not encrypted, and a guard lets packets pass in clear",
    PairState.DOWN: "not encrypted; the guards drop what is in clear",
    PairState.DISAGREE: "one end says encrypted, the other does not",
    PairState.UNKNOWN: "neither end tells",
    PairState.ONE_SIDED: "encrypted, says one end; the other does not tell",
    PairState.ENCRYPTED: "encrypted, say both ends",
    PairState.ABSENT: "no tunnel with IPsec",
}
TROUBLED = frozenset({PairState.OPEN, PairState.DOWN, PairState.DISAGREE, PairState.UNKNOWN})


@dataclass(frozen=True, slots=True)
class Pair:
    """Two nodes and what each says of its tunnels to the other."""

    state: PairState
    rows: tuple[tuple[PeerRow, ...], tuple[PeerRow, ...]]
    """Of the first node and of the second; as last known where a node does not answer."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Everything at one moment."""

    at: datetime
    nodes: tuple[Node, ...]
    pairs: Mapping[tuple[int, int], Pair]
    """By indices of nodes, the lower first. A pair without any tunnel is absent."""
    left_out: int = 0
    """Peers that are not shown because there are too many."""

    def state(self, one: int, other: int) -> PairState:
        """Of two different nodes, in either order."""
        pair = self.pairs.get((min(one, other), max(one, other)))
        if pair is not None:
            return pair.state
        told = self.nodes[one].fresh or self.nodes[other].fresh
        return PairState.ABSENT if told else PairState.UNKNOWN

    def counts(self) -> Mapping[PairState, int]:
        """How many pairs are in each state, of those between which a tunnel is known."""
        found = dict.fromkeys(PairState, 0)
        for pair in self.pairs.values():
            found[pair.state] += 1
        return found

    @property
    def all_encrypted(self) -> bool:
        """Nothing is known that is not as it should be, and every node that is asked answers."""
        pairs = all(
            pair.state in (PairState.ENCRYPTED, PairState.ONE_SIDED)
            for pair in self.pairs.values()
        )
        asked = [node for node in self.nodes if node.standing is not Standing.UNASKED]
        return (
            pairs
            and bool(asked)
            and not self.left_out
            and all(
                node.fresh and node.view is not None and not node.view.overview.problems
                for node in asked
            )
        )


def summary(cluster: Cluster) -> str:
    """The cluster in one sentence."""
    counts = cluster.counts()
    total, good = len(cluster.pairs), counts[PairState.ENCRYPTED]
    asked = [node for node in cluster.nodes if node.standing is not Standing.UNASKED]
    answering = sum(node.fresh for node in asked)
    parts = [f"{good} of {total} pairs of nodes are encrypted"]
    words = {
        PairState.OPEN: "may talk in clear",
        PairState.DOWN: "cannot talk",
        PairState.DISAGREE: "do not agree",
        PairState.UNKNOWN: "are unknown",
        PairState.ONE_SIDED: "known from one end alone",
    }
    parts += [f"{counts[state]} {text}" for state, text in words.items() if counts[state]]
    parts.append(f"{answering} of {len(asked)} nodes answer")
    if cluster.left_out:
        parts.append(f"{cluster.left_out} more peers are not shown")
    return "; ".join(parts)
