"""The node agent's loop.

One tick: snapshot the sources, build what is desired, observe, plan, apply, publish. It runs
on an event or a deadline; queries are answered by another thread from the last snapshot. Rows
that changed are followed before that, without looking at all tunnels.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby

from ovn_ipsec.agent.clock import wall_clock
from ovn_ipsec.agent.first_guard import first_guard
from ovn_ipsec.agent.observation import read
from ovn_ipsec.agent.pace import SETTLE_S, Pace, Pass
from ovn_ipsec.agent.priority import Priority
from ovn_ipsec.agent.publication import Publication, generation_of
from ovn_ipsec.agent.pulse import Pulse
from ovn_ipsec.agent.wakeups import Wakeups
from ovn_ipsec.agent.wanted import Wanted
from ovn_ipsec.desired.build import Policy
from ovn_ipsec.drivers.libreswan import Libreswan
from ovn_ipsec.drivers.nftables import Nftables
from ovn_ipsec.drivers.nftables_events import GuardEvents
from ovn_ipsec.drivers.nss import Nss
from ovn_ipsec.drivers.pluto_log import PlutoLog
from ovn_ipsec.errors import DriverError
from ovn_ipsec.model.conns import (
    Desired,
    Guard,
    GuardMode,
    InstalledCredential,
    InstalledTunnel,
    Observed,
    ObservedIke,
    Unobserved,
)
from ovn_ipsec.model.snapshot import Snapshot
from ovn_ipsec.model.steps import (
    InstallCredential,
    Outcome,
    RemoveCredential,
    SetGuard,
    Step,
)
from ovn_ipsec.plan import (
    Memory,
    addresses_changed,
    guard_is_due,
    plan,
    plan_changes,
    remember,
)
from ovn_ipsec.sources.addresses import LocalAddresses
from ovn_ipsec.sources.certificates import CertificateFiles
from ovn_ipsec.sources.kernel_events import KernelEvents
from ovn_ipsec.sources.ovsdb import OvsdbSource
from ovn_ipsec.status.tls import NodeFiles

_log = logging.getLogger(__name__)

PERIOD_S = 11.0
"""Without any event: byte counters, certificate validity, and a snapshot that is never older
than 15 s (DECISIONS 11), of which changing rows may take PUT_OFF_S."""
READY_WAIT_S = 5.0
FRESH_S = 2.0
"""A query makes the next tick due when the snapshot is older than this."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the agent is built from."""

    ovsdb: OvsdbSource
    certificates: CertificateFiles
    addresses: LocalAddresses
    kernel_events: KernelEvents
    ike: Libreswan
    log: PlutoLog
    nss: Nss
    guard: Nftables
    guard_events: GuardEvents


class Agent:
    """Runs ticks until told to exit. Other threads only use the methods of AgentControl."""

    def __init__(
        self,
        parts: Parts,
        policy: Policy,
        *,
        may_start_ike: bool,
        guard_on_unknown: GuardMode,
        pulse: Pulse | None = None,
    ) -> None:
        self._parts = parts
        self._pulse = pulse or Pulse()
        self._policy = policy
        self._may_start_ike = may_start_ike
        self._guard_on_unknown = guard_on_unknown
        self._publication = Publication(parts.log, parts.guard)
        self._memory = Memory()
        self._wanted = Wanted(parts.ovsdb, parts.certificates, parts.addresses, policy)
        self._guard: Guard | None = None
        """What the guard has to say now; OVSDB's rows decide once they are known."""
        self._credentials: tuple[InstalledCredential, ...] = ()
        """As last read: forgetting them would replace connections for nothing."""
        self._settled: tuple[tuple[Desired, Observed], float] | None = None
        """What the last plan, an empty one, was made from, and until when it stays empty."""
        self._looked: tuple[Desired, ObservedIke] | None = None
        """What the last pass was about, what the last tick saw; None: nothing can be followed."""
        self._plan_at: float | None = None
        """When to plan again at the latest."""
        self._pace = Pace(time.monotonic())
        self._priority = Priority()
        """Of the thread that runs the loop."""
        self._wakeups = Wakeups(parts.kernel_events, parts.guard_events)
        self._kernel_dirty = True
        self._came = self._went = False
        """SAs came, policies went, since pluto was last asked."""
        self._lock = threading.Lock()
        self._waiting: list[threading.Event] = []
        self._notices: Callable[[], tuple[str, ...]] = lambda: ()
        self._exit: bool | None = None

    # Queries, from the status thread.

    def snapshot(self) -> Snapshot:
        """The last published snapshot."""
        return self._publication.snapshot

    def want_fresh(self) -> None:
        """Somebody asks for status: keep the snapshot young."""
        if time.monotonic() - self.snapshot().taken_at_s > FRESH_S:
            self._wakeups.wake()

    def node_files(self) -> NodeFiles | None:
        """This node's certificate, key and bundle; None while OVSDB does not name all three."""
        node, _ = self._parts.ovsdb.snapshot()
        names = [node.other_config.get(key) for key in ("certificate", "private_key", "ca_cert")]
        revoked = self._wanted.pki.revocation
        if not all(names):
            return None
        certificate, private_key, ca_cert = (name or "" for name in names)
        return NodeFiles(certificate, private_key, ca_cert, revoked.denied, revoked.serials)

    def last_progress_s(self) -> float:
        """When the loop last did something, on the monotonic clock; it sleeps for seconds."""
        return self._pulse.last_s

    def request_refresh(self, timeout_s: float) -> bool:
        """Wait for a tick that began after this call; False when it took too long."""
        done = threading.Event()
        with self._lock:
            self._waiting.append(done)
        self._wakeups.wake()
        return done.wait(timeout_s)

    def request_exit(self, cleanup: bool) -> None:
        """End the loop; with ``cleanup`` our connections, credentials and files go first."""
        with self._lock:
            self._exit = cleanup
        self._wakeups.wake()

    # The loop.

    def close_guard(self) -> None:
        """The first act of all: no tunnel packet leaves while the sources are unknown.

        The guard of the last run stands until OVSDB has been read. Without one, it is the
        operator's choice: `audit` lets a running plaintext cluster go on, `enforce` closes.
        When nftables does not take it the agent goes on, for encrypted and unguarded is better
        than neither: the failure is logged, shown, and the guard tried again.
        """
        self._guard = first_guard(
            self._parts.guard, self._guard_on_unknown, self._policy.guard_ports
        )
        self._do([SetGuard(self._guard)])

    def run(
        self,
        ready: Callable[[], None],
        notices: Callable[[], tuple[str, ...]] = lambda: (),
    ) -> None:
        """Tick until an exit is requested.

        ``notices``: problems of what runs beside the loop, which are told as the node's.
        ``ready`` is called once: when the first tick with every source has ended, or after a
        while without (OVSDB may be absent for long; the guard stands anyway).
        """
        self._notices = notices
        ready_by: float | None = time.monotonic() + READY_WAIT_S
        while self._exit is None:
            if ready_by is not None and (self.snapshot().complete or time.monotonic() >= ready_by):
                ready_by = None
                ready()
            try:
                self._turn()
            except Exception as error:  # noqa: BLE001  a bug must not leave the node unattended
                self._stumble(error)
        if self._exit:
            self._clean_up()

    def _turn(self) -> None:
        self._pulse.beat()
        self._read_rows()
        due = self._pace.due(time.monotonic())
        if due is Pass.FOLLOW:
            self._follow()
        elif due is Pass.LOOK:
            self._look()
        else:
            self._block()

    def _read_rows(self) -> None:
        if self._parts.ovsdb.run() or self._wanted.files_changed():
            self._pace.heard_rows(time.monotonic())

    def _stumble(self, error: Exception) -> None:
        """Say so, and go on after a pause in which the guard is still kept.

        python-ovs's monitor restarts after signals only, and a process that ends leaves lost
        SAs lost, and the guard standing once instead of twice.
        """
        self._settled = self._looked = None
        self._publication.stumble(error)
        time.sleep(SETTLE_S)
        self._pace.stumbled(time.monotonic())

    def _block(self) -> None:
        self._wakeups.sleep(
            self._parts.ovsdb, min(self._pace.wake_at(), self._wanted.check_files_at_s)
        )
        self._read_events()

    def _read_events(self) -> None:
        heard = self._wakeups.read()
        if heard.tick or (heard.asked and self._waiting):
            self._pace.heard(time.monotonic())
        elif heard.gained or heard.asked:
            self._pace.heard_calmly(time.monotonic())
        self._kernel_dirty |= heard.ipsec
        self._came |= heard.came
        self._went |= heard.went
        if heard.routes:
            self._settled = None
            self._memory = addresses_changed(self._memory)
            self._pace.look_by(self._wanted.routes_changed())
        if heard.guard:
            self._keep_guard()

    def _keep_guard(self) -> None:
        """Put the guard right, before and beside anything that may have to wait for pluto."""
        due = guard_is_due(self._guard, read(self._parts.guard.observe))
        if self._guard is not None and due and self._memory.may_try("guard", time.monotonic()):
            self._do([SetGuard(self._guard)])

    def _do(self, steps: Sequence[Step]) -> None:
        """Apply, remember what failed, and tell the log."""
        self._settled = None
        if steps:
            self._priority.restore()
        outcomes = self._apply(steps)
        now = time.monotonic()
        self._memory = remember(self._memory, outcomes, now)
        self._publication.note_steps(outcomes, now)

    def _take_kernel_changed(self) -> bool:
        """Whether SAs or policies changed since this was last asked."""
        self._read_events()
        changed, self._kernel_dirty = self._kernel_dirty, False
        return changed

    def _look(self) -> None:
        """When nothing can have been lost, the core belongs first to whoever has work."""
        if not self._pace.urgent:
            self._priority.lower()
        try:
            self._tick()
        finally:
            self._priority.restore()

    def _tick(self) -> None:
        began = time.monotonic()
        with self._lock:
            waiting, self._waiting = self._waiting, []
        self._pace.looks(began)
        desired, installed, credentials = self._read_wanted()
        node, _ = self._parts.ovsdb.snapshot()
        self._publication.count(began, node.other_config.get("certificate"), forced=bool(waiting))
        observed = Observed(
            ike=self._observe_ike(full=bool(waiting)),
            installed=installed,
            credentials=credentials,
            guard=read(self._parts.guard.observe),
        )
        if not waiting and self._breaks_off(began, observed.ike):
            return
        seen = (time.monotonic(), wall_clock())
        settled = self._settled
        acted = False
        if settled is not None and settled[0] == (desired, observed) and began < settled[1]:
            self._publication.confirm(observed, *seen)
        else:
            acted = self._act(desired, observed, began, *seen)
        if waiting:
            self._publication.add_details(self._parts.ike.details, seen[0])
        now = time.monotonic()
        self._publication.finish(now - began)
        deadlines = [self._plan_at, self._wanted.routes_due_at_s, began + PERIOD_S]
        again_at = min(at for at in deadlines if at is not None)
        self._pace.looked(began, now, again_at, acted=acted)
        ike = observed.ike
        self._looked = (desired, ike) if isinstance(ike, ObservedIke) and ike.running else None
        for done in waiting:
            done.set()

    def _observe_ike(self, *, full: bool) -> ObservedIke | Unobserved:
        unseen = self._came and self._went
        self._came = self._went = False
        return read(
            lambda: self._parts.ike.observe(
                full=full, sas_unseen=unseen, kernel_changed=self._take_kernel_changed
            )
        )

    def _breaks_off(self, began: float, ike: ObservedIke | Unobserved) -> bool:
        """Whether rows that changed since the look began go first, by what it has seen so far.

        With hundreds of tunnels the rest of it takes longer than to follow a row.
        """
        if self._plan_at is not None and self._plan_at <= began:
            return False
        self._read_rows()
        if self._looked is None or isinstance(ike, Unobserved):
            return False
        before, last = self._looked
        if ike.generation != last.generation or not self._pace.breaks_off(time.monotonic()):
            return False
        self._looked = (before, ike)
        return True

    def _read_wanted(
        self,
    ) -> tuple[
        Desired,
        Mapping[str, InstalledTunnel] | Unobserved,
        tuple[InstalledCredential, ...] | Unobserved,
    ]:
        """What is wanted now, with the guard for it put in place, and what is installed."""
        installed = read(self._parts.ike.observe_installed)
        credentials = read(self._parts.nss.observe)
        if not isinstance(credentials, Unobserved):
            self._credentials = credentials
        desired = self._wanted.build(installed, self._credentials, self._guard)
        warnings = self._parts.ike.warnings if desired.complete else ()
        problems = (*desired.problems, *warnings, *self._notices())
        desired = replace(desired, problems=problems)
        self._guard = desired.guard
        self._keep_guard()
        return desired, installed, credentials

    def _follow(self) -> None:
        """Do what rows that changed ask for, by what the last tick saw of pluto."""
        began = time.monotonic()
        self._pace.follows()
        looked, self._looked = self._looked, None
        loaded = self._parts.ike.loaded
        known = looked is not None and self._parts.ike.generation() == looked[1].generation
        if looked is None or loaded is None or not known:
            self._pace.unfollowed()
            return
        before, ike = looked[0], replace(looked[1], loaded=loaded)
        desired, installed, credentials = self._read_wanted()
        observed = Observed(ike, installed, credentials, Unobserved("put in place already"))
        made = plan_changes(desired, before.tunnels, observed, self._memory, began)
        self._memory = made.memory
        if made.steps:
            self._do(made.steps)
            self._publication.note_apply(time.monotonic() - began)
        elif desired.credentials != before.credentials:
            self._pace.unfollowed()
        self._looked = (desired, ike)
        self._pace.followed(began, time.monotonic(), acted=bool(made.steps))

    def _act(
        self,
        desired: Desired,
        observed: Observed,
        began: float,
        seen_at: float,
        seen_at_wall: datetime,
    ) -> bool:
        """Plan, apply, publish; whether there was anything to apply."""
        self._settled = None
        self._wakeups.watch_pluto(generation_of(observed), self._parts.ike.pluto_pidfd)
        made = plan(desired, observed, self._memory, began, may_start_ike=self._may_start_ike)
        self._memory = made.memory
        applying_at = time.monotonic()
        self._do(made.steps)
        if made.steps:
            self._publication.note_apply(time.monotonic() - applying_at)
        installed = read(self._parts.ike.observe_installed)
        self._publication.publish(
            desired, observed, installed, self._memory, seen_at, seen_at_wall
        )
        self._plan_at = made.wake_at
        if not made.steps:
            until = math.inf if made.stale_at is None else made.stale_at
            self._settled = ((desired, observed), until)
        return bool(made.steps)

    def _apply(self, steps: Sequence[Step]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for kind, group in groupby(steps, key=_driver_of):
            self._pulse.beat()
            batch = list(group)
            if kind == "guard":
                outcomes += self._parts.guard.apply(
                    [step for step in batch if isinstance(step, SetGuard)]
                )
            elif kind == "nss":
                outcomes += self._parts.nss.apply(batch)
            else:
                outcomes += self._parts.ike.apply(batch)
        return outcomes

    def _clean_up(self) -> None:
        """What `exit` has always removed: connections, credentials, files; never the guard."""
        try:
            self._parts.ike.cleanup()
        except DriverError as error:
            _log.error("Not everything could be removed; another exit goes on with it: %s", error)
        observed = read(self._parts.nss.observe)
        if not isinstance(observed, Unobserved):
            made = plan(
                Desired(complete=True),
                Observed(Unobserved("exiting"), Unobserved("exiting"), observed, Unobserved("")),
                Memory(),
                time.monotonic(),
            )
            self._apply(made.steps)


def _driver_of(step: Step) -> str:
    if isinstance(step, SetGuard):
        return "guard"
    return "nss" if isinstance(step, InstallCredential | RemoveCredential) else "ike"
