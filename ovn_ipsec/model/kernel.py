"""What a connection that is up has in the kernel. Pure."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address

from ovn_ipsec.model.conns import ChildSa, KernelPolicy, ObservedIke, Selector


class KernelView:
    """The kernel's states and policies, indexed: 1000 tunnels must not cost 1000 scans."""

    def __init__(self, seen: ObservedIke) -> None:
        self._states = {(state.spi, canonical_address(state.dst)) for state in seen.states}
        self._policies = seen.policies

    def has(self, child: ChildSa, local: str, remote: str, selector: Selector) -> bool:
        """Whether it has all of a child SA that pluto reports; pluto does not notice a flush."""
        for spi, destination in ((child.spi_in, local), (child.spi_out, remote)):
            if spi is not None and (spi, canonical_address(destination)) not in self._states:
                return False
        return self._policies.issuperset(expected_policies(local, remote, selector))


@lru_cache(maxsize=1 << 15)
def expected_policies(own: str, peer: str, selector: Selector) -> tuple[KernelPolicy, ...]:
    """The two that a transport-mode child SA of this selector installs between two addresses."""
    local, remote = _host_prefix(own), _host_prefix(peer)
    mine, theirs = selector.local_port, selector.remote_port
    protocol = selector.protocol.value
    return (
        KernelPolicy(local, remote, protocol, mine, theirs, "out"),
        KernelPolicy(remote, local, protocol, theirs, mine, "in"),
    )


@lru_cache(maxsize=1 << 14)
def canonical_address(text: str) -> str:
    """In the one canonical spelling (RFC 5952). Raises ValueError: it is no address."""
    return str(ip_address(text))


def _host_prefix(text: str) -> str:
    address = ip_address(text)
    return f"{address}/{address.max_prefixlen}"
