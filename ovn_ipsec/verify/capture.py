"""Counts what is on the wire for a while (packet(7)); needs no tcpdump."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Collection

from ovn_ipsec.errors import ObservationError
from ovn_ipsec.verify import filters
from ovn_ipsec.verify.packets import Captured, Flow, Kind, canonical, classify

_ETH_P_ALL = 3
_OUTGOING = 4
_READ_BYTES = 256
"""Headers are enough: outer IP, UDP, the first bytes behind."""
_ROOM_BYTES = 32 << 20
"""For what comes while Python counts; with the usual 208 KiB some are lost at once."""
_SO_RCVBUFFORCE = 33
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_STATISTICS = struct.Struct("=II")
"""struct tpacket_stats: packets, and drops among them."""


def capture(
    peers: Collection[str], ports: Collection[int], seconds: float, local: Collection[str] = ()
) -> Captured:
    """Tunnel and ESP packets to and from these peers, on every interface of the node.

    Those in clear that leave from a local address are counted whoever gets them. What is sent is
    seen as it leaves. Of what is received also decapsulated packets may be seen a second time,
    in clear; the guard knows better. Raises ObservationError.
    """
    captured = Captured()
    known, own = frozenset(map(canonical, peers)), frozenset(map(canonical, local))
    deadline = time.monotonic() + seconds

    def count(data: bytes, sent: bool) -> None:
        seen = classify(data, ports)
        if seen is None:
            return
        peer = seen.destination if sent else seen.source
        if peer in known or (sent and seen.kind is Kind.PLAIN and seen.source in own):
            captured.counts[Flow(peer, seen.kind, sent, seen.port)] += 1

    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL)) as tap:
            tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM_BYTES)
            with contextlib.suppress(PermissionError):  # then net.core.rmem_max is the most
                tap.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM_BYTES)
            _close(tap)  # to what came before there was a filter
            filters.attach(tap, filters.tunnels(ports))
            while (left_s := deadline - time.monotonic()) > 0:
                tap.settimeout(left_s)
                with contextlib.suppress(OSError):  # time is up, or an interface went down
                    data, address = tap.recvfrom(_READ_BYTES)
                    count(data, address[2] == _OUTGOING)
            rest, captured.lost = _close(tap)
            for data, sent in rest:
                count(data, sent)
    except OSError as error:
        raise ObservationError(f"packets cannot be captured: {error}; are you root?") from error
    return captured


def _close(tap: socket.socket) -> tuple[list[tuple[bytes, bool]], int]:
    """What has not been read yet, as sent or not, and how many were lost; nothing comes after."""
    filters.attach(tap, [filters.LEAVE])
    tap.setblocking(False)
    rest = []
    while True:
        try:
            data, address = tap.recvfrom(_READ_BYTES)
        except BlockingIOError:
            break
        except OSError:
            continue  # an interface went down
        rest.append((data, address[2] == _OUTGOING))
    said = tap.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size)
    return rest, _STATISTICS.unpack(said)[1]
