"""What a tunnel carries: in plain Geneve, through static states, and through our connections.

And what is the least that a guard can cost: static states behind two hooks of one rule each, once,
and twice, as a guard must stand that ``flush ruleset`` does not open.
"""

from __future__ import annotations

import secrets
import socket
import statistics
import threading
import time
from collections.abc import Callable

from tools.bench.tunnels.stage import IKE, PSK
from tools.lab.container import wait_until
from tools.lab.lab import Lab
from tools.lab.netns import socket_in
from tools.lab.node import Node

_ROUNDS = 3
_PORT = 5201
_BLOCK_BYTES = 1 << 18
_SMALL_BYTES = 64
_WAYS = (("udp", "6081", "udp", ""), ("udp", "", "udp", "6081"))
_GUARDED = "--guard-on-unknown=enforce"
_LEAST_GUARD = """table inet {name} {{
    chain out {{
        type filter hook postrouting priority 300
        udp dport 6081 rt ipsec missing drop
    }}
    chain in {{
        type filter hook input priority 0
        udp dport 6081 meta ipsec missing drop
    }}
}}
"""
_OURS = "ovn-ipsec"
_TABLES = {"plaintext": 0, "static": 0, "static, least guard": 1, "static, least guard twice": 2}
"""How many tables of the least guard each kind has that is not ours."""
KINDS = (*_TABLES, _OURS)


def measure_data_plane(lab: Lab, seconds: float) -> dict[str, dict[str, float]]:
    """By kind of tunnel: TCP throughput (Mbit/s), small datagrams received (packets/s); medians.

    The kinds take turns, so that a machine that becomes slower does so for all of them.
    """
    pairs = {kind: _pair(lab, kind) for kind in KINDS}
    lab.wire.close()  # it would copy every packet
    bulk: dict[str, list[float]] = {kind: [] for kind in pairs}
    small: dict[str, list[float]] = {kind: [] for kind in pairs}
    for _ in range(_ROUNDS):
        for kind, (one, other) in pairs.items():
            bulk[kind].append(_throughput_mbit_s(one, other, seconds))
            small[kind].append(_packets_per_s(one, other, seconds))
    return {
        kind: {
            "mbit_s": round(statistics.median(bulk[kind]), 2),
            "packets_s": round(statistics.median(small[kind])),
        }
        for kind in pairs
    }


def _pair(lab: Lab, kind: str) -> tuple[Node, Node]:
    name = f"pair{KINDS.index(kind)}"
    one, other = lab.overlay(f"{name}-1", f"{name}-2")
    if kind == _OURS:
        for node in (one, other):
            node.start_pluto()
            node.start_agent(_GUARDED)
        lab.connect(one, other, psk=PSK, ipsec_ike=IKE)
        wait_until(lambda: min(one.sa_count(), other.sa_count()) >= 4, 60, "encrypted")
    else:
        lab.connect(one, other)
        if kind != "plaintext":
            _static_states(one, other)
        for node in (one, other):
            for number in range(_TABLES[kind]):
                node.run(["nft", "-f", "-"], stdin=_LEAST_GUARD.format(name=f"least{number}"))
    wait_until(lambda: one.ping(other.inner_ipv4), 30, f"{kind}: the overlay carries traffic")
    return one, other


def _static_states(one: Node, other: Node) -> None:
    """The states and policies that our connections lead to, by hand (ip-xfrm(8))."""
    key = "0x" + secrets.token_hex(36)
    spi = 0x1000
    for source, target in ((one, other), (other, one)):
        for protocol, sport, _, dport in _WAYS:
            spi += 1
            selector = ["src", source.ipv4, "dst", target.ipv4]
            ends = ["proto", protocol]
            ends += ["sport", sport] if sport else []
            ends += ["dport", dport] if dport else []
            for node in (source, target):
                words = ["ip", "xfrm", "state", "add", *selector, "proto", "esp"]
                words += ["spi", hex(spi), "reqid", str(spi), "mode", "transport"]
                words += ["replay-window", "128", "aead", "rfc4106(gcm(aes))", key, "128"]
                node.run([*words, "sel", *selector, *ends])
                words = ["ip", "xfrm", "policy", "add", *selector, *ends]
                words += ["dir", "out" if node is source else "in"]
                words += ["tmpl", *selector, "proto", "esp", "reqid", str(spi)]
                node.run([*words, "mode", "transport"])


def _throughput_mbit_s(one: Node, other: Node, seconds: float) -> float:
    listener = socket_in(other.netns, socket.AF_INET, socket.SOCK_STREAM)
    sender = socket_in(one.netns, socket.AF_INET, socket.SOCK_STREAM)
    with listener, sender:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((other.inner_ipv4, _PORT))
        listener.listen(1)
        sender.settimeout(20)
        sender.connect((other.inner_ipv4, _PORT))
        accepted, _ = listener.accept()
        block = bytes(_BLOCK_BYTES)

        def send() -> None:
            sender.sendall(block)

        with accepted:
            buffer = bytearray(_BLOCK_BYTES)
            return 8e-6 * _rate(send, lambda: accepted.recv_into(buffer), accepted, seconds)


def _packets_per_s(one: Node, other: Node, seconds: float) -> float:
    receiver = socket_in(other.netns, socket.AF_INET, socket.SOCK_DGRAM)
    sender = socket_in(one.netns, socket.AF_INET, socket.SOCK_DGRAM)
    with receiver, sender:
        receiver.bind((other.inner_ipv4, _PORT))
        sender.connect((other.inner_ipv4, _PORT))
        payload = bytes(_SMALL_BYTES)
        buffer = bytearray(_SMALL_BYTES)

        def receive() -> int:
            receiver.recv_into(buffer)
            return 1

        return _rate(lambda: sender.send(payload), receive, receiver, seconds)


def _rate(
    send: Callable[[], object], receive: Callable[[], int], waits: socket.socket, seconds: float
) -> float:
    """What arrives per second while another thread sends as fast as it can."""
    stop = threading.Event()

    def keep_sending() -> None:
        while not stop.is_set():
            try:
                send()
            except OSError:  # a full queue, or the far end has closed
                if stop.wait(0.001):
                    return

    thread = threading.Thread(target=keep_sending, daemon=True)
    thread.start()
    waits.settimeout(1)
    received, began = 0, time.monotonic()
    try:
        while time.monotonic() - began < seconds:
            try:
                received += receive()
            except TimeoutError:
                continue
        return received / (time.monotonic() - began)
    finally:
        stop.set()
        waits.settimeout(0)
        while thread.is_alive():
            try:
                receive()
            except OSError:
                thread.join(0.05)
