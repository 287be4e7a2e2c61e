"""Which address this node would send from, asked of the kernel's routing (no packet is sent)."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping

_ANY_PORT = 6081
"""Only for routing rules that look at ports; nothing is sent."""


def _source_address(remote: str) -> str | None:
    try:
        family, kind, _, _, target = socket.getaddrinfo(
            remote, _ANY_PORT, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
        )[0]
        with socket.socket(family, kind) as probe:
            # connect() on a datagram socket chooses route and source (udp(7)), no more.
            probe.connect(target)
            source: str = probe.getsockname()[0]
    except (OSError, UnicodeError, ValueError):
        return None
    address = ipaddress.ip_address(source)
    if address.is_unspecified:
        return None
    if address.is_loopback:
        # Only what this node delivers to itself leaves from a loopback address.
        return str(ipaddress.ip_address(str(target[0]).partition("%")[0]))
    return str(address)


class LocalAddresses:
    """Looks up source addresses. Not cached: the answer changes with addresses and routes."""

    def lookup(self, remotes: Iterable[str]) -> Mapping[str, str | None]:
        """The source address towards each numeric address, None without a route.

        IPv6 link-local addresses need their scope (``fe80::1%eth0``). An address of this node
        is its own source: ``lookup([a])[a] == a`` says that ``a`` is local. Anything that is
        not a numeric address has no route.
        """
        return {remote: _source_address(remote) for remote in remotes}
