"""Counts what is on the wire for a while (packet(7)); needs no tcpdump."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Collection

from ovn_ipsec.errors import ObservationError
from ovn_ipsec.verify.packets import Kind, classify

_ETH_P_ALL = 3
_OUTGOING = 4
_READ_BYTES = 256
"""Headers are enough: outer IP, UDP, the first bytes behind."""


Counts = Counter[tuple[str, Kind, bool]]
"""(peer, kind, whether it was sent) -> packets."""


def capture(peers: Collection[str], ports: Collection[int], seconds: float) -> Counts:
    """Tunnel and ESP packets to and from these peers, on every interface of the node.

    What is sent is seen as it leaves. Of what is received also decapsulated packets may be seen a
    second time, in clear; the guard knows better. Raises ObservationError.
    """
    counts: Counts = Counter()
    known = frozenset(peers)
    deadline = time.monotonic() + seconds
    try:
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
    except OSError as error:
        raise ObservationError(f"packets cannot be captured: {error}; are you root?") from error
    with tap:
        while (left_s := deadline - time.monotonic()) > 0:
            tap.settimeout(left_s)
            try:
                data, address = tap.recvfrom(_READ_BYTES)
            except TimeoutError:
                break
            except OSError:
                continue  # an interface went down
            sent = address[2] == _OUTGOING
            if (seen := classify(data, ports)) is not None:
                kind, source, destination = seen
                peer = destination if sent else source
                if peer in known:
                    counts[(peer, kind, sent)] += 1
    return counts
