"""What the kernel tells of a node's SAs.

To list thousands of them again and again would take the one core away from what is waited for.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import time
from collections.abc import Callable

from ovn_ipsec.model.netlink import HEADER, pieces
from tools.lab.netns import socket_in
from tools.lab.node import Node

# linux/xfrm.h
_NETLINK_XFRM, _XFRMGRP_SA = 6, 4
_NEW, _GONE, _UPDATED = 0x10, 0x11, 0x1A
_SELECTOR_BYTES = 56
_ID = struct.Struct("!16sI")
"""Of an SA: where it leads to, and its SPI (struct xfrm_id)."""
_SO_RCVBUFFORCE = 33
_ROOM_BYTES = 8 << 20
_MOST_BYTES = 1 << 16


class SaEvents:
    """What came and went since this was made. A context manager."""

    def __init__(self, node: Node) -> None:
        self._added: dict[str, set[int]] = {}
        self.alive: set[int] = set()
        self.gone: set[int] = set()
        """SPIs."""
        self._socket = socket_in(node.netns, socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_XFRM)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM_BYTES)
        self._socket.bind((0, _XFRMGRP_SA))

    def __enter__(self) -> SaEvents:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def added(self, remote: str) -> set[int]:
        """SPIs of the SAs that lead to this IPv4 address."""
        return self._added.get(remote, set())

    def wait(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Until it holds, which is asked after each event. TimeoutError names ``what``."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                self._take(self._socket.recv(_MOST_BYTES))
            except TimeoutError:
                raise TimeoutError(f"{what}: not within {timeout_s:g} s") from None

    def _take(self, messages: bytes) -> None:
        for kind, body in pieces(messages, HEADER):
            if kind == _GONE:
                _, spi = _ID.unpack_from(body)
                self.gone.add(spi)
                self.alive.discard(spi)
            elif kind in (_NEW, _UPDATED):
                target, spi = _ID.unpack_from(body, _SELECTOR_BYTES)
                self.alive.add(spi)
                remote = str(ipaddress.IPv4Address(target[:4]))
                self._added.setdefault(remote, set()).add(spi)
