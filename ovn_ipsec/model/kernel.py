"""What the kernel has of IPsec: policies and states (XFRM). Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from ipaddress import ip_address
from typing import TypeVar


@dataclass(frozen=True, slots=True)
class KernelPolicy:
    """One XFRM policy: addresses with prefix length, ports None for any."""

    src: str
    dst: str
    protocol: str
    sport: int | None
    dport: int | None
    direction: str


@dataclass(frozen=True, slots=True)
class KernelState:
    """One XFRM state (an SA in the kernel)."""

    src: str
    dst: str
    spi: int
    selector: KernelPolicy | None = None


_Entry = TypeVar("_Entry", KernelPolicy, KernelState)


@dataclass(frozen=True)
class Kernel:
    """All policies and states at one moment, and what is looked up in them.

    They are read only when they have changed, and a thousand tunnels must not cost a thousand
    scans: what is worked out stays with them.
    """

    policies: frozenset[KernelPolicy] = frozenset()
    states: tuple[KernelState, ...] = ()

    def has_state(self, spi: int, destination: str) -> bool:
        """Whether there is a state of this SPI towards this address, which name it (RFC 4301)."""
        return (spi, canonical_address(destination)) in self._state_ids

    def has_policies(self, wanted: Collection[KernelPolicy]) -> bool:
        """Whether it has all of these."""
        return self.policies.issuperset(wanted)

    def has_states_between(self, one: str, other: str) -> bool:
        """Whether there are states both ways."""
        ends = canonical_address(one), canonical_address(other)
        return ends in self._pairs and ends[::-1] in self._pairs

    @cached_property
    def ordered_policies(self) -> tuple[KernelPolicy, ...]:
        """All policies, in an order that stays the same."""
        return tuple(sorted(self.policies, key=_policy_order))

    def policies_of(self, host: str) -> Collection[KernelPolicy]:
        """Those from or to this address, in order."""
        return self._policies_of.get(bare_address(host), ())

    def states_of(self, host: str) -> Collection[KernelState]:
        """Those from or to this address."""
        return self._states_of.get(bare_address(host), ())

    @cached_property
    def _state_ids(self) -> frozenset[tuple[int, str]]:
        return frozenset((state.spi, canonical_address(state.dst)) for state in self.states)

    @cached_property
    def _pairs(self) -> frozenset[tuple[str, str]]:
        return frozenset(
            (canonical_address(state.src), canonical_address(state.dst)) for state in self.states
        )

    @cached_property
    def _policies_of(self) -> Mapping[str, list[KernelPolicy]]:
        return _by_host(self.ordered_policies)

    @cached_property
    def _states_of(self) -> Mapping[str, list[KernelState]]:
        return _by_host(self.states)


def _by_host(entries: Iterable[_Entry]) -> Mapping[str, list[_Entry]]:
    found: dict[str, list[_Entry]] = {}
    for entry in entries:
        for host in {bare_address(entry.src), bare_address(entry.dst)}:
            found.setdefault(host, []).append(entry)
    return found


def _policy_order(policy: KernelPolicy) -> tuple[str, str, str, str, int, int]:
    ports = (policy.sport or 0, policy.dport or 0)
    return (policy.direction, policy.src, policy.dst, policy.protocol, *ports)


@lru_cache(maxsize=1 << 14)
def canonical_address(text: str) -> str:
    """In the one canonical spelling (RFC 5952). Raises ValueError: it is no address."""
    return str(ip_address(text))


@lru_cache(maxsize=1 << 14)
def bare_address(text: str) -> str:
    """Without prefix length, in the one canonical spelling; anything else as it is."""
    bare = text.partition("/")[0]
    try:
        return canonical_address(bare)
    except ValueError:
        return bare


@lru_cache(maxsize=1 << 14)
def host_prefix(text: str) -> str:
    """An address as a policy has it. Raises ValueError: it is no address."""
    address = ip_address(text)
    return f"{address}/{address.max_prefixlen}"
