"""What ends the agent's sleep: OVSDB, the kernel, nftables, pluto's death, a query, a deadline."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import ovs.poller

from ovn_ipsec.drivers.nftables_events import GuardEvents
from ovn_ipsec.sources.kernel_events import KernelEvent, KernelEvents

KERNEL_PAUSE_S = 0.1
"""How often the kernel's events end a sleep at most: hundreds of SAs may be coming up."""
_GAINED = frozenset({KernelEvent.SA, KernelEvent.POLICY})
_GONE = frozenset({KernelEvent.SA_GONE, KernelEvent.POLICY_GONE})


class Waitable(Protocol):
    """Something that python-ovs can wait for."""

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Have ``poller`` wake up when there is something to do."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What has happened since the last reading."""

    tick: bool
    """Something that the next tick has to look at soon."""
    gained: bool
    """Something that it has to look at and that can wait: SAs or policies were added."""
    asked: bool
    """``wake`` was called."""
    ipsec: bool
    """SAs or policies changed in the kernel."""
    came: bool
    """SAs came."""
    went: bool
    """Policies went: with connections, or with the last of their SAs."""
    routes: bool
    """Addresses or routes changed."""
    guard: bool
    """The nftables ruleset changed."""


class Wakeups:
    """The descriptors that the agent sleeps on. ``wake`` may be called from any thread."""

    def __init__(self, kernel: KernelEvents, guard: GuardEvents) -> None:
        self._kernel = kernel
        self._guard = guard
        self._asked = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._pluto: tuple[str, int] | None = None
        """(generation, descriptor that becomes readable when it dies)"""
        self._kernel_not_before_s = 0.0

    def wake(self) -> None:
        """End the sleep; the next reading says so."""
        os.eventfd_write(self._asked, 1)

    def sleep(self, source: Waitable, until_s: float) -> None:
        """Until something happens, or until then on the monotonic clock."""
        poller = ovs.poller.Poller()
        source.wait(poller)
        fds = [self._asked, self._guard.fileno()]
        if time.monotonic() < self._kernel_not_before_s:
            until_s = min(until_s, self._kernel_not_before_s)
        else:
            fds += self._kernel.filenos()
        if self._pluto is not None:
            fds.append(self._pluto[1])
        for fd in fds:
            poller.fd_wait(fd, ovs.poller.POLLIN)
        poller.timer_wait_until(int(until_s * 1000) + 1)
        poller.block()

    def read(self) -> Heard:
        """Everything that has happened, each kind once; never blocks."""
        died = self._pluto_died()
        asked = self._was_asked()
        events = self._kernel.drain()
        if events:
            self._kernel_not_before_s = time.monotonic() + KERNEL_PAUSE_S
        guard = self._guard.drain()
        return Heard(
            tick=died or guard or bool(events - {KernelEvent.ROUTE} - _GAINED),
            gained=not events.isdisjoint(_GAINED),
            ipsec=not events.isdisjoint(_GAINED | _GONE),
            came=KernelEvent.SA in events,
            went=KernelEvent.POLICY_GONE in events,
            asked=asked,
            routes=not events.isdisjoint({KernelEvent.ADDRESS, KernelEvent.ROUTE}),
            guard=guard,
        )

    def watch_pluto(self, generation: str, descriptor: Callable[[], int | None]) -> None:
        """Hold a descriptor of this pluto (pidfd_open(2)); "" when there is none."""
        if self._pluto is not None and self._pluto[0] != generation:
            self._let_go()
        if self._pluto is None and generation:
            opened = descriptor()
            if opened is not None:
                self._pluto = (generation, opened)

    def _pluto_died(self) -> bool:
        if self._pluto is None or not select.select([self._pluto[1]], [], [], 0)[0]:
            return False
        self._let_go()
        return True

    def _let_go(self) -> None:
        if self._pluto is not None:
            os.close(self._pluto[1])
            self._pluto = None

    def _was_asked(self) -> bool:
        try:
            os.eventfd_read(self._asked)
        except BlockingIOError:
            return False
        return True
