"""Probes through tunnels: out through the SA, and back through it from a peer that runs this, too.

A probe is a packet to the peer's tunnel port, so that the policies of the tunnel cover it, with a
header that no kernel takes (RFC 8926, section 3.4: an unknown version is dropped; VXLAN and GRE
likewise), so that nothing of it reaches the overlay. A raw socket sees it before that, behind
decapsulation and the kernel's check of policies. Whoever probes answers others meanwhile.
"""

from __future__ import annotations

import secrets
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from ipaddress import ip_address

from ovn_ipsec.errors import ObservationError
from ovn_ipsec.verify import filters
from ovn_ipsec.verify.ways import TOKEN_BYTES, Probed, Way, parse_probe, render_probe

_PERIOD_S = 0.5
_LAST_S = 1.0
"""Before the end nothing is sent for so long: it would be counted as lost."""
_MOST_ANSWERS = 2000
"""On one way."""
_READ_BYTES = 256
_UDP_HEADER = 8
_NUMBERS: Mapping[str, int] = {"udp": socket.IPPROTO_UDP, "gre": 47}


class Prober:
    """Sends, answers and counts in a thread until ``close``."""

    def __init__(self, ways: Collection[Way], seconds: float) -> None:
        """``seconds``: until when it will be closed. Raises ObservationError."""
        self.probed: Mapping[Way, Probed] = {way: Probed() for way in ways}
        self._ways = {(way.peer, way.protocol, way.port): way for way in ways}
        self._send_until_s = time.monotonic() + max(0.0, seconds - _LAST_S)
        self._answered: Counter[Way] = Counter()
        self._stop = threading.Event()
        self._sockets = ExitStack()
        self._taps: dict[socket.socket, str] = {}
        try:
            for protocol, version in {(w.protocol, ip_address(w.local).version) for w in ways}:
                self._taps[self._sockets.enter_context(_tap(protocol, version))] = protocol
        except OSError as error:
            self._sockets.close()
            raise ObservationError(f"no raw socket for probes: {error}; are you root?") from error
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """After this, ``probed`` does not change any more."""
        self._stop.set()
        self._thread.join()
        self._sockets.close()

    def _run(self) -> None:
        next_s = time.monotonic() + _PERIOD_S  # when who counts packets has begun
        while not self._stop.is_set():
            now_s = time.monotonic()
            if now_s >= next_s:
                next_s = now_s + _PERIOD_S
                for way, probed in self.probed.items():
                    if not probed.sent or now_s < self._send_until_s:
                        self._ask(way, probed)
            for tap in select.select(list(self._taps), [], [], 0.1)[0]:
                self._receive(tap, self._taps[tap])

    def _ask(self, way: Way, probed: Probed) -> None:
        token = secrets.token_bytes(TOKEN_BYTES)
        probed.under_way[token] = time.monotonic()
        try:
            _send(way, render_probe(token, answer=False))
            probed.sent += 1
        except OSError as error:
            probed.error = error.strerror or str(error)

    def _receive(self, tap: socket.socket, protocol: str) -> None:
        try:
            data, address = tap.recvfrom(_READ_BYTES, socket.MSG_DONTWAIT)
        except OSError:
            return
        if tap.family == socket.AF_INET:  # which has the IP header, too
            data = data[(data[0] & 15) * 4 :]
        port = None
        if protocol == "udp":
            port, data = int.from_bytes(data[2:4], "big"), data[_UDP_HEADER:]
        peer = str(ip_address(address[0].partition("%")[0]))
        way, probe = self._ways.get((peer, protocol, port)), parse_probe(data)
        if way is None or probe is None:
            return
        is_answer, token = probe
        probed = self.probed[way]
        if not is_answer:
            self._answer(way, token)
        elif (sent_s := probed.under_way.pop(token, None)) is not None:
            took_s = time.monotonic() - sent_s
            probed.best_s = min(probed.best_s, took_s) if probed.back else took_s
            probed.back += 1

    def _answer(self, way: Way, token: bytes) -> None:
        self._answered[way] += 1
        if self._answered[way] <= _MOST_ANSWERS:
            try:
                _send(way, render_probe(token, answer=True))
            except OSError as error:
                self.probed[way].error = error.strerror or str(error)


def _send(way: Way, payload: bytes) -> None:
    family = socket.AF_INET6 if ":" in way.local else socket.AF_INET
    udp = way.port is not None
    kind, protocol = (socket.SOCK_DGRAM, 0) if udp else (socket.SOCK_RAW, _NUMBERS[way.protocol])
    with socket.socket(family, kind, protocol) as out:
        out.bind((way.local, 0))
        out.sendto(payload, (way.peer, way.port or 0))


def _tap(protocol: str, version: int) -> socket.socket:
    """Gets probes alone, also where a million tunnel packets a second come in. Raises OSError."""
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    tap = socket.socket(family, socket.SOCK_RAW, _NUMBERS[protocol])
    try:
        at = _UDP_HEADER if protocol == "udp" else 0
        filters.attach(tap, filters.probes(at, ip_header=family == socket.AF_INET))
    except OSError:
        tap.close()
        raise
    return tap
