"""Routing look-ups and netlink wake-ups, in a network namespace of the test's own."""

from __future__ import annotations

import ctypes
import os
import select
import socket
import subprocess
from collections.abc import Iterator

import pytest

from ovn_ipsec.sources.addresses import LocalAddresses
from ovn_ipsec.sources.kernel_events import KernelEvent, KernelEvents
from tools.lab.container import wait_until

pytestmark = pytest.mark.contract

_CLONE_NEWNET = 0x40000000  # linux/sched.h; os.unshare is in Python 3.12 and later


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=20)


def _has_ipv6_routes() -> bool:
    argv = ["ip", "-6", "route", "show", "table", "local"]
    shown = subprocess.run(argv, check=True, timeout=20, capture_output=True, text=True).stdout
    return {"local 2001:db8::1", "local fe80::1"} <= {
        line.split(" dev")[0] for line in shown.splitlines()
    }


@pytest.fixture(autouse=True)
def network() -> Iterator[None]:
    libc = ctypes.CDLL(None, use_errno=True)
    outside = os.open("/proc/self/ns/net", os.O_RDONLY)
    assert libc.unshare(_CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    try:
        _ip("link", "set", "lo", "up")
        _ip("addr", "add", "192.0.2.1/32", "dev", "lo")
        _ip("addr", "add", "2001:db8::1/128", "dev", "lo")
        _ip("addr", "add", "fe80::1/64", "dev", "lo")
        # The kernel makes an IPv6 address's routes later, by a worker.
        wait_until(_has_ipv6_routes, 20, "routes of the IPv6 addresses")
        yield
    finally:
        assert libc.setns(outside, _CLONE_NEWNET) == 0
        os.close(outside)


def test_lookup_gives_the_source_that_the_route_names() -> None:
    _ip("route", "add", "198.51.100.0/24", "dev", "lo", "src", "192.0.2.1")
    _ip("route", "add", "2001:db8:1::/64", "dev", "lo", "src", "2001:db8::1")
    remotes = ["198.51.100.7", "2001:db8:1::7", "203.0.113.1", "2001:db8:2::1"]
    assert LocalAddresses().lookup(remotes) == {
        "198.51.100.7": "192.0.2.1",
        "2001:db8:1::7": "2001:db8::1",
        "203.0.113.1": None,
        "2001:db8:2::1": None,
    }


def test_own_address_is_its_own_source() -> None:
    own = ["192.0.2.1", "2001:db8::1"]
    assert LocalAddresses().lookup(own) == {address: address for address in own}


def test_second_address_of_a_network_is_its_own_source_too() -> None:
    own = ["203.0.113.9", "203.0.113.10"]
    for address in own:
        _ip("addr", "add", f"{address}/24", "dev", "lo")
    assert LocalAddresses().lookup(own) == {address: address for address in own}


def test_address_of_a_network_that_is_delivered_here_is_not_an_own_address() -> None:
    _ip("addr", "add", "203.0.113.9/24", "dev", "lo")
    _ip("-6", "route", "add", "local", "2001:db8:4::/64", "dev", "lo")
    assert LocalAddresses().lookup(["203.0.113.10"]) == {"203.0.113.10": "203.0.113.9"}
    assert LocalAddresses().lookup(["2001:db8:4::7"])["2001:db8:4::7"] != "2001:db8:4::7"


def test_lookup_asks_no_ipsec_policy() -> None:
    """A blocking one made the route vanish, one without SA made pluto negotiate."""
    _ip("link", "add", "wire", "type", "veth", "peer", "name", "far")  # lo has no policies
    ends = {"192.0.2.65": "192.0.2.66", "2001:db8:3::1": "2001:db8:3::2"}
    for near, length in zip(ends, ("26", "64"), strict=True):
        _ip("addr", "add", f"{near}/{length}", "dev", "wire", *["nodad"] * (":" in near))
    for end in ("wire", "far"):
        _ip("link", "set", end, "up")
    for action in (["action", "block"], ["tmpl", "proto", "esp", "mode", "transport"]):
        for near, remote in ends.items():
            out = ["src", near, "dst", remote, "proto", "udp", "dport", "6081", "dir", "out"]
            _ip("xfrm", "policy", "add", *out, *action)
        events = KernelEvents()
        assert LocalAddresses().lookup(ends.values()) == {
            remote: near for near, remote in ends.items()
        }
        assert KernelEvent.ACQUIRE not in events.drain()
        events.close()
        _ip("xfrm", "policy", "flush")


def test_unreachable_and_multicast_destinations_have_no_source() -> None:
    _ip("route", "add", "unreachable", "198.51.100.0/24")
    _ip("route", "add", "unreachable", "2001:db8:1::/64")
    _ip("route", "add", "multicast", "233.252.0.0/24", "dev", "lo")
    remotes = ["198.51.100.7", "2001:db8:1::7", "233.252.0.1"]
    assert LocalAddresses().lookup(remotes) == dict.fromkeys(remotes)


def test_link_local_address_needs_its_scope() -> None:
    found = LocalAddresses().lookup(["fe80::1%lo", "fe80::1", "fe80::1%nosuch"])
    assert found == {"fe80::1%lo": "fe80::1", "fe80::1": None, "fe80::1%nosuch": None}


def test_what_is_no_numeric_address_has_no_route() -> None:
    names = ["localhost", "", "flow", "300.1.1.1", "\0", "a" * 300, "\ud800"]
    assert LocalAddresses().lookup(names) == dict.fromkeys(names)


def _readable(events: KernelEvents) -> bool:
    return bool(select.select(events.filenos(), [], [], 2)[0])


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ("addr add 192.0.2.9/32 dev lo", KernelEvent.ADDRESS),
        ("addr del 2001:db8::1/128 dev lo", KernelEvent.ADDRESS),
        ("route add 198.51.100.0/24 dev lo", KernelEvent.ROUTE),
        ("-6 route add 2001:db8:9::/64 dev lo", KernelEvent.ROUTE),
        ("xfrm policy add src 192.0.2.1 dst 192.0.2.2 dir out action block", KernelEvent.POLICY),
        ("xfrm policy flush", KernelEvent.POLICY_GONE),
        ("xfrm state flush", KernelEvent.SA_GONE),
    ],
)
def test_change_in_the_kernel_wakes_with_its_kind(arguments: str, kind: KernelEvent) -> None:
    ends = ("src", "192.0.2.3", "dst", "192.0.2.4")
    _ip("xfrm", "policy", "add", *ends, "dir", "out", "action", "block")
    _ip("xfrm", "state", "allocspi", *ends, "proto", "esp", "mode", "transport")
    events = KernelEvents()
    try:
        assert events.drain() == set()
        _ip(*arguments.split())
        assert _readable(events)
        assert kind in events.drain()
        assert events.drain() == set()
    finally:
        events.close()


def test_lost_messages_count_as_everything_changed() -> None:
    events = KernelEvents()
    try:
        route = socket.socket(fileno=os.dup(events.filenos()[0]))
        route.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        route.close()
        for number in range(60):
            _ip("addr", "add", f"192.0.2.{number + 100}/32", "dev", "lo")
        assert events.drain() == {KernelEvent.ADDRESS, KernelEvent.ROUTE}
        assert events.drain() == set()
    finally:
        events.close()


def test_message_of_another_process_is_not_believed() -> None:
    events = KernelEvents()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as stranger:
        number = socket.socket(fileno=os.dup(events.filenos()[0])).getsockname()[0]
        message = (16).to_bytes(4, "little") + (20).to_bytes(2, "little") + bytes(10)
        stranger.sendto(message, (number, 0))
        assert events.drain() == set()
    events.close()
