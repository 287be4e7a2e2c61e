"""Which address this node would send from, asked of the kernel's routing (no packet is sent)."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ovn_ipsec.errors import SourceError
from ovn_ipsec.model.netlink import ATTRIBUTE, HEADER, pieces

_ANY_PORT = 6081
"""Only for routing rules that look at ports."""

# linux/rtnetlink.h
_ROUTE = struct.Struct("=BBBBBBBBI")
_REQUEST = 1
_NEW_ROUTE, _GET_ROUTE = 24, 26
_UNICAST, _LOCAL = 1, 2
_THE_ENTRY = 0x2000  # RTM_F_FIB_MATCH: the routing table's entry, not what follows from it
_RTA_DST, _RTA_OIF, _RTA_PREFSRC, _RTA_IP_PROTO, _RTA_DPORT = 1, 4, 7, 27, 29
_REPLY_BYTES = 1 << 16


def _request(
    remote: ipaddress.IPv4Address | ipaddress.IPv6Address, interface: int, flags: int
) -> bytes:
    family = socket.AF_INET if remote.version == 4 else socket.AF_INET6
    body = _ROUTE.pack(family, remote.max_prefixlen, 0, 0, 0, 0, 0, 0, flags)
    body += _attribute(_RTA_DST, remote.packed)
    body += _attribute(_RTA_IP_PROTO, bytes([socket.IPPROTO_UDP]))
    body += _attribute(_RTA_DPORT, _ANY_PORT.to_bytes(2, "big"))
    if interface:
        body += _attribute(_RTA_OIF, struct.pack("=I", interface))
    return HEADER.pack(HEADER.size + len(body), _GET_ROUTE, _REQUEST, 1, 0) + body


def _attribute(name: int, value: bytes) -> bytes:
    padding = bytes(-len(value) % 4)
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), name) + value + padding


def _source_address(kernel: socket.socket, text: str) -> str | None:
    try:
        remote = ipaddress.ip_address(text)
        interface = _scope(remote)
    except (ValueError, OSError):
        return None
    route = _route(kernel, _request(remote, interface, 0))
    if route is None or route.kind not in (_UNICAST, _LOCAL):
        return None
    if route.kind == _LOCAL:
        # The source towards a second address of a network is the first, and a whole network can
        # be delivered here (an address with its network on lo): own is what has its own entry.
        entry = _route(kernel, _request(remote, interface, _THE_ENTRY))
        if entry is not None and entry.prefix_length == remote.max_prefixlen:
            return str(ipaddress.ip_address(remote.packed))
    return None if route.source is None else str(ipaddress.ip_address(route.source))


class _Route(NamedTuple):
    kind: int
    prefix_length: int
    source: bytes | None


def _route(kernel: socket.socket, request: bytes) -> _Route | None:
    kernel.sendto(request, (0, 0))
    for kind, body in pieces(kernel.recv(_REPLY_BYTES), HEADER):
        if kind == _NEW_ROUTE:
            fields = _ROUTE.unpack_from(body)
            attributes = dict(pieces(body[_ROUTE.size :], ATTRIBUTE))
            return _Route(fields[7], fields[1], attributes.get(_RTA_PREFSRC))
    return None


def _scope(remote: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int:
    """The interface that the address is on; 0: routing finds it.

    Raises OSError (no such interface), ValueError (a link-local address that does not say).
    """
    if isinstance(remote, ipaddress.IPv4Address) or not remote.is_link_local:
        return 0
    if remote.scope_id is None:
        raise ValueError(f"{remote} is on every link")
    return socket.if_nametoindex(remote.scope_id)


class LocalAddresses:
    """Looks up source addresses. Not cached: the answer changes with addresses and routes."""

    def lookup(self, remotes: Iterable[str]) -> Mapping[str, str | None]:
        """The source address towards each numeric address, None without a route.

        IPv6 link-local addresses need their scope (``fe80::1%eth0``). An address of this node
        is its own source: ``lookup([a])[a] == a`` says that ``a`` is local. Anything that is
        not a numeric address has no route. Raises SourceError.

        The route alone is asked for (rtnetlink(7), RTM_GETROUTE). A datagram socket's connect()
        would go through the IPsec policies as well: it fails where one blocks, and asks for an
        SA where one requires it.
        """
        try:
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as kernel:
                return {remote: _source_address(kernel, remote) for remote in remotes}
        except OSError as error:
            raise SourceError(f"the kernel's routes cannot be asked: {error}") from error
