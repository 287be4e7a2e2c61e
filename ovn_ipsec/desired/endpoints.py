"""The two ends of a tunnel as numeric addresses."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from ovn_ipsec.desired.invalid import Invalid
from ovn_ipsec.desired.options import shown

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Two addresses of one family."""

    local: Address
    remote: Address


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def family_name(remote: str | None, local: str | None) -> str:
    """``IPv4``, ``IPv6``, or ``None`` when an end is not numeric or the families differ."""
    versions = {getattr(_parsed(end), "version", None) for end in (remote, local) if end}
    return f"IPv{versions.pop()}" if len(versions) == 1 and None not in versions else "None"


def _unicast(key: str, text: str) -> Address:
    """A numeric address that IPsec can protect; Invalid with the reason otherwise."""
    if text == "flow":
        raise Invalid(
            f"options:{key}=flow is set by flows, packet by packet, and cannot be protected; set "
            "an address"
        )
    address = _parsed(text)
    if address is None:
        raise Invalid(f"options:{key}={shown(text)} is not a numeric address; set one")
    if isinstance(address, ipaddress.IPv6Address):
        # A scope has no place in an IKE traffic selector (RFC 7296 section 3.13.1), and without
        # it the kernel cannot tell which link is meant.
        if address.is_link_local or address.scope_id:
            kind = "link-local"
        elif address.ipv4_mapped is not None:
            kind = "an IPv4 address in IPv6 form"
        else:
            kind = _unusable_kind(address)
    else:
        kind = _unusable_kind(address)
    if kind:
        raise Invalid(f"options:{key}={text} is {kind}; set the address of one node")
    return address


def _unusable_kind(address: Address) -> str:
    if address.is_multicast:
        return "multicast"
    if address.is_loopback:
        return "a loopback address"
    if address.is_unspecified or str(address) == "255.255.255.255":
        return "not the address of a node"
    return ""


def resolve_endpoints(
    options: Mapping[str, str], local_addresses: Mapping[str, str | None]
) -> Endpoints:
    """Both ends of a row; Invalid says what is wrong with which option.

    ``local_addresses`` answers for an address what this node would send from; an address that
    is its own answer belongs to this node (``Facts.local_addresses``).
    """
    if not options.get("remote_ip"):
        raise Invalid("options:remote_ip is not set; set the address of the peer")
    remote_text = options["remote_ip"]
    remote = _unicast("remote_ip", remote_text)
    chosen = local_addresses.get(remote_text)
    if chosen is not None and _parsed(chosen) == remote:
        raise Invalid(f"options:remote_ip={remote} is this node's own address; set the peer's")
    local_text = options.get("local_ip")
    if not local_text:
        local = _parsed(chosen) if chosen is not None else None
        if local is None:
            raise Invalid(
                f"there is no route to options:remote_ip={remote}, so this end's address is not "
                "known; add a route or set options:local_ip"
            )
        return Endpoints(local, remote)
    local = _unicast("local_ip", local_text)
    if local.version != remote.version:
        raise Invalid(
            f"options:local_ip={local} and remote_ip={remote} are of different families; set two "
            "IPv4 or two IPv6 addresses"
        )
    if local == remote:
        raise Invalid(f"options:local_ip and remote_ip are both {local}; set two addresses")
    if local_text in local_addresses:
        own = local_addresses[local_text]
        if own is None or _parsed(own) != local:
            raise Invalid(
                f"options:local_ip={local} is not an address of this node; add it to an interface "
                "or correct the option"
            )
    return Endpoints(local, remote)
