"""Which address this node would send from, asked of the kernel's routing (no packet is sent)."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable, Mapping

from ovn_ipsec.errors import SourceError

_ANY_PORT = 6081
"""Only for routing rules that look at ports; nothing is sent."""

# linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_REQUEST_DUMP = 0x301
_DONE, _ERROR, _NEW_ADDRESS, _GET_ADDRESSES = 3, 2, 20, 22
_IFADDRMSG_BYTES = 8
_IFA_LOCAL = 2


def _own_ipv4() -> frozenset[str]:
    """Every IPv4 address of this node. Raises SourceError."""
    request = _HEADER.pack(_HEADER.size + _IFADDRMSG_BYTES, _GET_ADDRESSES, _REQUEST_DUMP, 1, 0)
    request += bytes([socket.AF_INET]).ljust(_IFADDRMSG_BYTES, b"\0")
    own: set[str] = set()
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as kernel:
            kernel.sendto(request, (0, 0))
            while True:
                for kind, body in _pieces(kernel.recv(1 << 16), _HEADER):
                    if kind == _NEW_ADDRESS:
                        attributes = _pieces(body[_IFADDRMSG_BYTES:], _ATTRIBUTE)
                        own |= {
                            str(ipaddress.IPv4Address(value))
                            for name, value in attributes
                            if name == _IFA_LOCAL
                        }
                    elif kind in (_DONE, _ERROR):
                        return frozenset(own)
    except OSError as error:
        raise SourceError(f"this node's addresses cannot be read: {error}") from error


def _pieces(data: bytes, head: struct.Struct) -> Iterable[tuple[int, bytes]]:
    """Netlink's packing: length and kind in the head, the next piece at a multiple of four."""
    offset = 0
    while offset + head.size <= len(data):
        fields = head.unpack_from(data, offset)
        length = fields[0]
        if length < head.size:
            return
        yield fields[1], data[offset + head.size : offset + length]
        offset += (length + 3) & ~3


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
        sources = {remote: _source_address(remote) for remote in remotes}
        # The route to an own address names the first address of its network as the source.
        if any(source not in (None, remote) for remote, source in sources.items()):
            own = _own_ipv4()
            sources |= {remote: remote for remote in sources if remote in own}
        return sources
