"""A container on the underlay: addresses, raw packets, sockets."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from tools.lab.container import Container
from tools.lab.netns import socket_in

PATIENT = "-vtimeval:off"
"""For Open vSwitch's programs, whose output is parsed: no complaint about a slow machine."""


@dataclass(frozen=True, slots=True)
class UnderlayAddress:
    """What a host is called on the underlay."""

    ipv4: IPv4Address
    ipv6: IPv6Address
    mac: str


class Listener:
    """A UDP socket in a host that collects what reaches it."""

    def __init__(self, bound: socket.socket) -> None:
        self._socket = bound
        self._socket.setblocking(False)
        self._messages: list[bytes] = []

    def messages(self) -> list[bytes]:
        """Every payload received so far."""
        while True:
            try:
                self._messages.append(self._socket.recv(65535))
            except BlockingIOError:
                return list(self._messages)

    def count(self, marker: bytes) -> int:
        """How many of them contain `marker`."""
        return sum(marker in message for message in self.messages())

    def close(self) -> None:
        self._socket.close()


class Host(Container):
    """A machine on the underlay that runs nothing by itself."""

    def __init__(self, name: str, directory: Path, address: UnderlayAddress) -> None:
        super().__init__(name, directory)
        self.address = address

    @property
    def ipv4(self) -> str:
        return str(self.address.ipv4)

    @property
    def ipv6(self) -> str:
        return str(self.address.ipv6)

    def ping(self, target: str, *, count: int = 1, timeout_s: float = 5.0) -> bool:
        """Whether at least one of `count` echo requests to an address is answered in time."""
        argv = ["ping", "-n", "-q", "-i", "0.2", "-c", str(count), "-w", str(int(timeout_s))]
        return self.attempt([*argv, target], timeout_s=timeout_s + 10).returncode == 0

    def listen(self, address: str, port: int) -> Listener:
        """Collect UDP datagrams sent to an address of this host (inner or outer)."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        bound = socket_in(self.netns, family, socket.SOCK_DGRAM)
        bound.bind((address, port))
        return Listener(bound)

    def inject(self, frames: list[bytes], device: str = "eth0") -> None:
        """Put whole Ethernet frames on a device, whatever they claim to be."""
        with socket_in(self.netns, socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind((device, 0))
            for frame in frames:
                raw.send(frame)

    def datagram_socket(self, address: str) -> socket.socket:
        """A UDP socket bound to one of this host's addresses, on a port of the kernel's choice."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        bound = socket_in(self.netns, family, socket.SOCK_DGRAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        bound.bind((address, 0))
        return bound
