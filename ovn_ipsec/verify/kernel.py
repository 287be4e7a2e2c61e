"""Reads the kernel's IPsec policies and states over netlink (linux/xfrm.h), not from a text.

And the node's addresses (linux/rtnetlink.h).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address

from ovn_ipsec.errors import ObservationError
from ovn_ipsec.model.kernel import KernelPolicy, KernelState
from ovn_ipsec.model.netlink import ATTRIBUTE, HEADER, pieces

_NETLINK_ROUTE, _NETLINK_XFRM = 0, 6
_GETADDR, _NEWADDR = 22, 20
# struct ifaddrmsg.
_ADDRESS_HEADER = struct.Struct("=BBBBI")
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_GETSA, _GETPOLICY, _NEWSA, _NEWPOLICY = 18, 21, 16, 19
_ERROR, _DONE = 2, 3
_REQUEST_DUMP = 0x301
# struct xfrm_selector: daddr, saddr, dport, dport mask, sport, sport mask, family, prefixlen_d,
# prefixlen_s, proto; then ifindex and user. Ports are in network order, the rest in the host's.
_SELECTOR = struct.Struct("=16s16s2s2s2s2sHBBB3xiI")
_DIRECTION_AT = 160
_ESP = 50
_PROTOCOLS = {6: "tcp", 17: "udp", 47: "gre"}
_DIRECTIONS = {0: "in", 1: "out", 2: "fwd"}
_WHAT = {_NETLINK_ROUTE: "addresses", _NETLINK_XFRM: "IPsec state"}
_READ_BYTES = 1 << 17
_WAIT_S = 5.0


def read_policies() -> frozenset[KernelPolicy]:
    """Every policy but those of sockets. Raises ObservationError."""
    found = set()
    for body in _dump(_GETPOLICY, _NEWPOLICY):
        if (policy := parse_policy(body)) is not None:
            found.add(policy)
    return frozenset(found)


def read_states() -> tuple[KernelState, ...]:
    """Every ESP state. Raises ObservationError."""
    parsed = (parse_state(body) for body in _dump(_GETSA, _NEWSA))
    return tuple(state for state in parsed if state is not None)


def read_addresses() -> frozenset[str]:
    """This node's own. Raises ObservationError."""
    parsed = (parse_address(body) for body in _dump(_GETADDR, _NEWADDR, _NETLINK_ROUTE))
    return frozenset(address for address in parsed if address is not None)


def parse_address(body: bytes) -> str | None:
    """struct ifaddrmsg with attributes; None: neither IPv4 nor IPv6."""
    family = body[0]
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    found = dict(pieces(body[_ADDRESS_HEADER.size :], ATTRIBUTE))
    own = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
    return None if own is None else _address(own, family)


def parse_policy(body: bytes) -> KernelPolicy | None:
    """struct xfrm_userpolicy_info; None: of a socket."""
    direction = _DIRECTIONS.get(body[_DIRECTION_AT])
    return None if direction is None else _selector(body, direction)


def parse_state(body: bytes) -> KernelState | None:
    """struct xfrm_usersa_info: selector, destination, SPI, protocol, source; None: not ESP."""
    selector = _selector(body, "")
    if body[76] != _ESP:
        return None
    family = int.from_bytes(body[212:214], "little" if _LITTLE else "big")
    (spi,) = struct.unpack_from("!I", body, 72)
    return KernelState(_address(body[80:96], family), _address(body[56:72], family), spi, selector)


_LITTLE = struct.pack("=H", 1) == b"\1\0"


def _selector(body: bytes, direction: str) -> KernelPolicy:
    destination, source, dport, dmask, sport, smask, family, dlen, slen, proto, _, _ = (
        _SELECTOR.unpack_from(body)
    )
    return KernelPolicy(
        f"{_address(source, family)}/{slen}",
        f"{_address(destination, family)}/{dlen}",
        _PROTOCOLS.get(proto, str(proto) if proto else ""),
        int.from_bytes(sport, "big") if any(smask) else None,
        int.from_bytes(dport, "big") if any(dmask) else None,
        direction,
    )


def _address(data: bytes, family: int) -> str:
    return str(ip_address(data if family == socket.AF_INET6 else data[:4]))


def _dump(request: int, answer: int, family: int = _NETLINK_XFRM) -> Iterator[bytes]:
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family) as netlink:
            netlink.settimeout(_WAIT_S)
            netlink.bind((0, 0))
            body = bytes(64)  # of either request's own structure, which a dump does not look at
            head = HEADER.pack(HEADER.size + len(body), request, _REQUEST_DUMP, 1, 0)
            netlink.send(head + body)
            while True:
                for kind, data in pieces(netlink.recv(_READ_BYTES), HEADER):
                    if kind == _DONE:
                        return
                    if kind == _ERROR:
                        (code,) = struct.unpack_from("=i", data)
                        raise OSError(-code, "the kernel refuses")
                    if kind == answer:
                        yield data
    except OSError as error:
        why = error.strerror or error
        raise ObservationError(
            f"the kernel's {_WHAT[family]} cannot be read: {why}; are you root?"
        ) from error
