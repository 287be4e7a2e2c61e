"""The tap on the underlay: every packet that any node put on the wire."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tools.lab.container import LabError, wait_until
from tools.lab.netns import socket_in
from tools.lab.pcap import TUNNEL_PORTS, Kind, Packet, PcapStream, classify

_SENTINEL_PORT = 9  # discard
_SENTINEL = b"lab sentinel "
# Neighbour discovery and multicast listeners: the only packets that the lab does not keep.
_NOISE = "arp or (icmp6 and ip6[40] >= 130 and ip6[40] <= 136) or (ip6 and ip6[6] == 0)"


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment on the wire: everything later has this position or a higher one."""

    position: int
    time_s: float
    """Seconds since the epoch."""


class Wire:
    """A capture on the underlay bridge, from before the first node to the end of the lab."""

    def __init__(self, namespace: Path, broadcast: str, capture: Path) -> None:
        self.capture = capture
        """The pcap file."""
        self._ports = set(TUNNEL_PORTS)
        self._packets: list[Packet] = []
        self._stream = PcapStream()
        self._sentinels = 0
        self._seen_sentinel = 0
        self._broadcast = broadcast
        self._errors = capture.with_suffix(".tcpdump")
        argv = ["nsenter", f"--net={namespace}", "tcpdump", "-i", "br0", "-n", "-U", "-s", "0"]
        argv += ["--immediate-mode", "-B", "32768", "-Z", "root", "-w", str(capture)]
        with self._errors.open("w") as errors:
            self._tcpdump = subprocess.Popen(
                [*argv, f"not ({_NOISE})"],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
            )
        self._socket = socket_in(namespace, socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        wait_until(lambda: "listening on" in self._errors.read_text(), 20, "tcpdump listens")
        self._file = capture.open("rb")
        self.mark()

    def watch_port(self, port: int) -> None:
        """Count packets of another UDP or TCP port as tunnel packets, too (options:dst_port)."""
        self._ports.add(port)

    def mark(self) -> Mark:
        """Now: packets that were sent before are before it, later ones after it."""
        self._catch_up()
        return Mark(len(self._packets), time.time())

    def packets(
        self,
        kind: Kind | None = None,
        *,
        since: Mark | None = None,
        src: str | None = None,
        dst: str | None = None,
    ) -> list[Packet]:
        """What was on the wire, of one kind or all, between any or these addresses.

        Complete up to the moment of the call; whether the capture lost any shows `close`.
        """
        self._catch_up()
        # First fragments may lie before the mark, so the whole capture is classified.
        kinds = classify(self._packets, frozenset(self._ports))
        first = since.position if since is not None else 0
        return [
            packet
            for packet, found in zip(self._packets[first:], kinds[first:], strict=True)
            if (kind is None or found is kind)
            and (src is None or packet.source == src)
            and (dst is None or packet.destination == dst)
        ]

    def count(
        self,
        kind: Kind | None = None,
        *,
        since: Mark | None = None,
        src: str | None = None,
        dst: str | None = None,
    ) -> int:
        """How many packets `packets` would give."""
        return len(self.packets(kind, since=since, src=src, dst=dst))

    def close(self) -> None:
        """Stop the capture; LabError if it lost a packet at any time."""
        self._socket.close()
        self._file.close()
        self._tcpdump.send_signal(signal.SIGINT)
        self._tcpdump.wait(10)
        self._check_losses(self._errors.read_text())

    def _catch_up(self) -> None:
        """Read the capture up to a packet that we send now: what came before it is then there."""
        self._sentinels += 1
        message = _SENTINEL + b"%d" % self._sentinels
        self._socket.sendto(message, (self._broadcast, _SENTINEL_PORT))

        def arrived() -> bool:
            for packet in self._stream.feed(self._file.read()):
                if packet.payload.startswith(_SENTINEL):
                    self._seen_sentinel = int(packet.payload.removeprefix(_SENTINEL))
                else:
                    self._packets.append(packet)
            return self._seen_sentinel >= self._sentinels

        try:
            wait_until(arrived, 10, "the capture shows the sentinel", interval_s=0.005)
        except TimeoutError as error:
            raise LabError(f"the capture stopped: {self._errors.read_text()}") from error

    def _check_losses(self, report: str) -> None:
        found = re.findall(r"(\d+) packets dropped by kernel", report)
        if not found or any(int(number) for number in found):
            raise LabError(f"the capture is not complete: {report}")
