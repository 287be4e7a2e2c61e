"""The kernel's policies of a connection. Pure."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address

from ovn_ipsec.model.conns import KernelPolicy, Selector


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


def _host_prefix(text: str) -> str:
    address = ip_address(text)
    return f"{address}/{address.max_prefixlen}"
