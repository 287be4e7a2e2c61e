"""A steady stream of numbered datagrams between two nodes, both ways, and what became of it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from dataclasses import dataclass
from types import TracebackType

from tools.lab.container import wait_until
from tools.lab.ovs import OvsHost

_FORMAT = struct.Struct("!Q")
_POLL_S = 0.2
_LATE_S = 5.0


@dataclass(frozen=True, slots=True)
class FlowStats:
    """One direction."""

    sent: int
    received: int

    @property
    def lost(self) -> int:
        """Sent and not received; the last one or two may still be on their way."""
        return self.sent - self.received


class _Flow:
    """One direction of the stream: a sender thread and a receiver thread."""

    def __init__(self, source: socket.socket, target: socket.socket, rate_hz: float) -> None:
        self._source, self._target, self._period_s = source, target, 1 / rate_hz
        self._padding = b"lab traffic in clear " * 5
        self._stop = threading.Event()
        self.sent_s: list[float] = []
        self.received_s: dict[int, float] = {}
        """By sequence number; monotonic seconds."""
        self._threads = [
            threading.Thread(target=self._send, daemon=True),
            threading.Thread(target=self._receive, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def stats(self, since_s: float) -> FlowStats:
        """Of the datagrams sent at `since_s` (monotonic) or later."""
        sent = sum(at >= since_s for at in self.sent_s.copy())
        arrived = sum(self.sent_s[number] >= since_s for number in self.received_s.copy())
        return FlowStats(sent, arrived)

    def first_arrival(self, since_s: float) -> float | None:
        """When the first datagram arrived that was sent at `since_s` or later."""
        arrivals = [
            at for number, at in self.received_s.copy().items() if self.sent_s[number] >= since_s
        ]
        return min(arrivals, default=None)

    def _send(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            number = len(self.sent_s)
            self.sent_s.append(time.monotonic())
            # No route, no neighbour, refused: one more lost datagram.
            with contextlib.suppress(OSError):
                self._source.send(_FORMAT.pack(number) + self._padding)
            due += self._period_s
            # After a stall go on at the steady rate, without a burst.
            due = max(due, time.monotonic() - self._period_s)
            self._stop.wait(max(0.0, due - time.monotonic()))

    def _receive(self) -> None:
        self._target.settimeout(_POLL_S)
        while not self._stop.is_set():
            try:
                message = self._target.recv(2048)
            except OSError:
                continue
            (number,) = _FORMAT.unpack_from(message)
            self.received_s.setdefault(number, time.monotonic())


class Traffic:
    """UDP between the overlay addresses of two nodes, both ways, until it is closed."""

    def __init__(self, a: OvsHost, b: OvsHost, *, rate_hz: float = 20, ipv6: bool = False) -> None:
        self._names = (f"{a.name}->{b.name}", f"{b.name}->{a.name}")
        addresses = (a.inner_ipv6, b.inner_ipv6) if ipv6 else (a.inner_ipv4, b.inner_ipv4)
        self._sockets = [
            host.datagram_socket(address) for host, address in zip((a, b), addresses, strict=True)
        ]
        ends = [end.getsockname()[:2] for end in self._sockets]
        self._sockets[0].connect(ends[1])
        self._sockets[1].connect(ends[0])
        first, second = self._sockets
        self._flows = (_Flow(first, second, rate_hz), _Flow(second, first, rate_hz))

    def stats(self, since_s: float = 0.0) -> dict[str, FlowStats]:
        """By direction (``a->b``), for what was sent at `since_s` (time.monotonic) or later."""
        return {
            name: flow.stats(since_s) for name, flow in zip(self._names, self._flows, strict=True)
        }

    def lost(self, since_s: float = 0.0) -> int:
        """Datagrams sent from `since_s` to now that never arrived, both directions together.

        Waits until something that was sent later has arrived each way: the path keeps the
        order, so what is then missing is lost and not merely late.
        """
        ends = [(flow, len(flow.sent_s)) for flow in self._flows]

        def overtaken() -> bool:
            return all(max(flow.received_s.copy(), default=-1) >= end for flow, end in ends)

        with contextlib.suppress(TimeoutError):  # silence: whatever is missing is lost
            wait_until(overtaken, _LATE_S, "later datagrams arrive")
        return sum(
            number not in flow.received_s
            for flow, end in ends
            for number in range(end)
            if flow.sent_s[number] >= since_s
        )

    def wait_flowing(self, timeout_s: float, since_s: float | None = None) -> float:
        """Wait until each direction delivers what was sent at `since_s` (default: now) or later.

        Seconds from `since_s` to the later of the two first arrivals; TimeoutError names the
        direction that stays silent.
        """
        start_s = time.monotonic() if since_s is None else since_s

        def flowing() -> bool:
            return all(flow.first_arrival(start_s) is not None for flow in self._flows)

        try:
            wait_until(flowing, timeout_s, "traffic flows")
        except TimeoutError as error:
            silent = [
                name
                for name, flow in zip(self._names, self._flows, strict=True)
                if flow.first_arrival(start_s) is None
            ]
            raise TimeoutError(f"no traffic {' and '.join(silent)} for {timeout_s} s") from error
        return self.time_to_heal(start_s)

    def time_to_heal(self, since_s: float) -> float:
        """Seconds from `since_s` until both directions had delivered something sent after it.

        Infinity while one has not.
        """
        arrivals = [flow.first_arrival(since_s) for flow in self._flows]
        return max(at - since_s if at is not None else float("inf") for at in arrivals)

    def close(self) -> None:
        for flow in self._flows:
            flow.stop()
        for end in self._sockets:
            end.close()

    def __enter__(self) -> Traffic:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
