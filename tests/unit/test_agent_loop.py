"""The loop with parts that fail: it goes on, says so, and dates what it says."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import pytest

from ovn_ipsec.agent import node
from ovn_ipsec.agent.node import Agent, Parts
from ovn_ipsec.desired.build import Policy
from ovn_ipsec.drivers.nftables_text import render_guard
from ovn_ipsec.drivers.pluto_log import PlutoLog
from ovn_ipsec.errors import ObservationError
from ovn_ipsec.model.conns import (
    Guard,
    GuardCounters,
    GuardMode,
    InstalledCredential,
    InstalledTunnel,
    ObservedGuard,
    ObservedIke,
)
from ovn_ipsec.model.facts import NodeFact, TunnelFact
from ovn_ipsec.model.snapshot import SaDetail, Subject, TunnelState
from ovn_ipsec.model.steps import (
    AddConnection,
    DropConnection,
    Outcome,
    SetGuard,
    StartIke,
    Step,
)
from ovn_ipsec.plan import Plan, plan
from ovn_ipsec.sources.certificates import CertificateFiles
from ovn_ipsec.sources.kernel_events import KernelEvent
from tools.lab.container import wait_until

HERE = "192.0.2.100"


class Ovsdb:
    in_sync = True
    problem: str | None = None

    def __init__(self) -> None:
        self.tunnels: tuple[TunnelFact, ...] = ()
        self.told: tuple[TunnelFact, ...] = ()

    def run(self) -> bool:
        before, self.told = self.told, self.tunnels
        return self.told is not before

    def wait(self, poller: Any) -> None:
        poller.timer_wait(20)  # nothing wakes it when the rows change

    def snapshot(self) -> tuple[NodeFact, tuple[TunnelFact, ...]]:
        return NodeFact(), self.told


class Addresses:
    def lookup(self, ends: Iterable[str]) -> dict[str, str | None]:
        return dict.fromkeys(ends, HERE)


class Quiet:
    """Event sources in which hardly ever anything happens."""

    def __init__(self) -> None:
        self.fds = os.pipe()
        self.events: frozenset[KernelEvent] = frozenset()
        """To be told once."""

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)

    def fileno(self) -> int:
        return self.fds[0]

    def filenos(self) -> tuple[int, ...]:
        return (self.fds[0],)

    def drain(self) -> frozenset[KernelEvent]:
        events, self.events = self.events, frozenset()
        return events


class Ike:
    """pluto is down and takes its time to start."""

    warnings: tuple[str, ...] = ()
    details: Mapping[str, SaDetail] = {}

    def __init__(self) -> None:
        self.bugs = 0
        self.start_s = 0.0
        self.seen_at = 0.0

    @property
    def loaded(self) -> frozenset[str] | None:
        return None

    def pluto_pidfd(self) -> int | None:
        return None

    def observe_installed(self) -> dict[str, InstalledTunnel]:
        return {}

    def observe(
        self, *, full: bool, sas_unseen: bool, kernel_changed: Callable[[], bool]
    ) -> ObservedIke:
        if self.bugs:
            self.bugs -= 1
            raise KeyError("a bug")
        kernel_changed()
        self.seen_at = time.monotonic()
        return ObservedIke(running=False)

    def apply(self, steps: Sequence[Step]) -> list[Outcome]:
        assert all(isinstance(step, StartIke) for step in steps)
        time.sleep(self.start_s)
        return [Outcome(step) for step in steps]


class RunningIke(Ike):
    """pluto runs and does what it is told; notes what it was asked for, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.installed: dict[str, InstalledTunnel] = {}
        self.unreadable = False
        self.meanwhile: Callable[[], None] = lambda: None
        """What happens during the next observation."""
        self.on_add: Callable[[], None] = lambda: None
        self.stuck = ""
        """Why connections cannot be dropped."""
        self.unsure: list[bool] = []
        """Whether SAs may have come and gone unseen, as each observation was told."""

    @property
    def loaded(self) -> frozenset[str]:
        return frozenset(f"{name}-{role}-1" for name in self.installed for role in ("in", "out"))

    def generation(self) -> str:
        return "1"

    def observe_installed(self) -> dict[str, InstalledTunnel]:
        if self.unreadable:
            raise ObservationError("Input/output error")
        return dict(self.installed)

    def observe(
        self, *, full: bool, sas_unseen: bool, kernel_changed: Callable[[], bool]
    ) -> ObservedIke:
        kernel_changed()
        self.unsure.append(sas_unseen)
        self.calls.append("observe")
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return ObservedIke(running=True, generation="1", loaded=self.loaded)

    def apply(self, steps: Sequence[Step]) -> list[Outcome]:
        for step in steps:
            if isinstance(step, AddConnection):
                self.calls.append(f"add {step.tunnel}")
                self.on_add()
                config = step.config
                self.installed[step.tunnel] = InstalledTunnel(
                    step.tunnel, 1, config.digest, config
                )
            if isinstance(step, DropConnection) and not self.stuck:
                del self.installed[step.tunnel]
        return [
            Outcome(step, self.stuck if isinstance(step, DropConnection) and self.stuck else None)
            for step in steps
        ]


class NoCredentials:
    def observe(self) -> tuple[InstalledCredential, ...]:
        return ()


class Table:
    def __init__(self) -> None:
        self.guard: Guard | None = None
        self.met = GuardCounters(0, 0)

    def observe(self) -> ObservedGuard:
        if self.guard is None:
            return ObservedGuard(present=False, intact=False)
        return ObservedGuard(True, True, self.guard.mode, self.guard.digest, self.met)

    def counters(self) -> GuardCounters:
        return self.met

    def apply(self, steps: Sequence[SetGuard]) -> list[Outcome]:
        for step in steps:
            assert render_guard(step.guard, self.counters())
            self.guard = step.guard
        return [Outcome(step) for step in steps]


@pytest.fixture
def ike() -> Ike:
    return Ike()


@pytest.fixture
def ovsdb() -> Ovsdb:
    return Ovsdb()


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def kernel() -> Iterator[Quiet]:
    quiet = Quiet()
    yield quiet
    quiet.close()


@pytest.fixture
def agent(ike: Ike, ovsdb: Ovsdb, table: Table, kernel: Quiet) -> Iterator[Agent]:
    quiet = Quiet()
    parts = Parts(
        ovsdb=cast("Any", ovsdb),
        certificates=CertificateFiles(),
        addresses=cast("Any", Addresses()),
        kernel_events=cast("Any", kernel),
        ike=cast("Any", ike),
        log=PlutoLog(lambda: None),
        nss=cast("Any", NoCredentials()),
        guard=cast("Any", table),
        guard_events=cast("Any", quiet),
    )
    yield Agent(parts, Policy(), may_start_ike=True, guard_on_unknown=GuardMode.ENFORCE)
    quiet.close()


@contextmanager
def running(
    agent: Agent, notices: Callable[[], tuple[str, ...]] = lambda: ()
) -> Iterator[threading.Thread]:
    """It runs, and ends when it is asked to."""
    thread = threading.Thread(target=agent.run, args=(lambda: None, notices), daemon=True)
    thread.start()
    yield thread
    agent.request_exit(cleanup=False)
    thread.join(5)
    assert not thread.is_alive()


def test_bug_in_a_tick_is_told_and_the_next_tick_runs(agent: Agent, ike: Ike) -> None:
    ike.bugs = 2
    with running(agent) as thread:
        wait_until(
            lambda: any("failed inside" in p for p in agent.snapshot().problems), 10, "the problem"
        )
        wait_until(
            lambda: agent.snapshot().complete or not thread.is_alive(), 10, "a complete look"
        )
        assert thread.is_alive()
        assert agent.snapshot().problems == ()


def test_problem_of_what_runs_beside_the_loop_is_the_nodes_while_it_lasts(agent: Agent) -> None:
    notices = ["--http 127.0.0.1:9180: cannot listen"]
    with running(agent, lambda: tuple(notices)):
        assert agent.request_refresh(10)
        assert agent.snapshot().problems == tuple(notices)
        notices.clear()
        assert agent.request_refresh(10)
        assert agent.snapshot().problems == ()


def test_snapshot_is_dated_by_what_was_seen_not_by_the_end_of_the_steps(
    agent: Agent, ike: Ike
) -> None:
    ike.start_s = 0.5
    with running(agent):
        assert agent.request_refresh(10)
        assert agent.snapshot().taken_at_s - ike.seen_at < 0.3


def test_look_gives_way_to_others_and_what_it_starts_does_not(
    agent: Agent, ike: Ike, monkeypatch: pytest.MonkeyPatch
) -> None:
    nice = {"now": 0}
    seen: list[tuple[str, int]] = []
    monkeypatch.setattr(os, "getpriority", lambda _which, _who: nice["now"])
    monkeypatch.setattr(os, "setpriority", lambda _which, _who, value: nice.update(now=value))
    observe, apply = ike.observe, ike.apply

    def observed(**how: Any) -> ObservedIke:
        seen.append(("observe", nice["now"]))
        return observe(**how)

    def applied(steps: Sequence[Step]) -> list[Outcome]:
        seen.append(("start", nice["now"]))
        return apply(steps)

    monkeypatch.setattr(ike, "observe", observed)
    monkeypatch.setattr(ike, "apply", applied)
    with running(agent):
        lowered = ("observe", 10)
        wait_until(lambda: lowered in seen and seen[-1][0] == "start", 20, "a look that can wait")
        agent.request_refresh(10)
    assert {value for what, value in seen if what == "start"} == {0}
    assert ("observe", 0) in seen[seen.index(lowered) :]  # somebody waited for it


def test_look_plans_when_the_last_plan_is_stale_whatever_it_sees(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[float] = []

    def planned(*what: Any, **how: Any) -> Plan:
        plans.append(time.monotonic())
        return replace(plan(*what, **how), steps=(), wake_at=None, stale_at=plans[-1] + 1.0)

    monkeypatch.setattr(node, "plan", planned)
    with running(agent):
        assert agent.request_refresh(10)
        first = len(plans)
        assert agent.request_refresh(10)
        assert len(plans) == first, "it holds"
        time.sleep(1.1)
        assert agent.request_refresh(10)
        assert len(plans) == first + 1


def test_loop_shows_life_while_nothing_happens(agent: Agent) -> None:
    with running(agent):
        assert agent.request_refresh(10)
        before = agent.last_progress_s()
        wait_until(
            lambda: agent.last_progress_s() != before,
            20,
            "life: a sleep this long looks like death",
        )


class TestRows:
    """Rows that are added while pluto runs."""

    @pytest.fixture
    def ike(self) -> RunningIke:
        return RunningIke()

    def test_a_new_row_is_loaded_before_all_tunnels_are_looked_at_again(
        self, agent: Agent, ike: RunningIke, ovsdb: Ovsdb
    ) -> None:
        with running(agent):
            assert agent.request_refresh(10)
            for number in (1, 2):
                ike.calls.clear()
                ovsdb.tunnels = (*ovsdb.tunnels, _row(number))
                wait_until(lambda: "observe" in ike.calls, 10, "a look")
                assert ike.calls[0] == f"add t{number}"
                assert ike.calls.count(f"add t{number}") == 1

    def test_only_sas_that_came_and_policies_that_went_make_loaded_connections_doubtful(
        self, agent: Agent, ike: RunningIke, kernel: Quiet
    ) -> None:
        came, went = KernelEvent.SA, KernelEvent.POLICY_GONE
        with running(agent):
            assert agent.request_refresh(10)
            told = []
            for events in ({came}, {went}, {came, went}, set[KernelEvent]()):
                ike.unsure.clear()
                kernel.events = frozenset(events)
                assert agent.request_refresh(10)
                told.append(any(ike.unsure))
        assert told == [False, False, True, False]

    def test_packets_that_the_guard_meets_are_told_and_ask_for_no_plan(
        self, agent: Agent, ovsdb: Ovsdb, table: Table
    ) -> None:
        ovsdb.tunnels = (_row(1),)
        with running(agent):
            assert agent.request_refresh(10)
            for met in range(3):
                before, table.met = agent.snapshot(), GuardCounters(met, 0)
                assert agent.request_refresh(10)
            now = agent.snapshot()
        assert now.guard is not None and now.guard.counters == GuardCounters(2, 0)
        assert now.tunnels is before.tunnels, "they were judged anew"

    def test_a_row_that_comes_in_the_midst_of_a_look_does_not_wait_for_its_end(
        self, agent: Agent, ike: RunningIke, ovsdb: Ovsdb
    ) -> None:
        known: list[list[str]] = []

        def comes() -> None:
            ike.on_add = lambda: known.append([t.name for t in agent.snapshot().tunnels])
            ovsdb.tunnels = (*ovsdb.tunnels, _row(2))

        with running(agent):
            assert agent.request_refresh(10)
            ike.meanwhile = comes
            ovsdb.tunnels = (_row(1),)
            wait_until(lambda: len(agent.snapshot().tunnels) == 2, 10, "both tunnels")
            assert ike.calls.count("add t2") == 1
            assert known == [[]], "the look, which was to tell of the first, had not ended"

    def test_what_is_installed_is_not_gone_when_it_cannot_be_read(
        self, agent: Agent, ike: RunningIke, ovsdb: Ovsdb
    ) -> None:
        ovsdb.tunnels = (_row(1),)
        with running(agent):
            wait_until(lambda: "t1" in ike.installed, 10, "the tunnel")
            assert agent.request_refresh(10)
            ike.unreadable = True
            assert agent.request_refresh(10)
            assert agent.snapshot().unread(Subject.INSTALLED)
            assert [t.state for t in agent.snapshot().tunnels] == [TunnelState.CONFIGURED]

    def test_connections_that_cannot_be_dropped_are_the_nodes_problem_until_they_are(
        self, agent: Agent, ike: RunningIke, ovsdb: Ovsdb
    ) -> None:
        ovsdb.tunnels = (_row(1), _row(2))
        with running(agent):
            wait_until(lambda: len(ike.installed) == 2, 10, "the tunnels")
            ike.stuck = "pluto does not answer"
            ovsdb.tunnels = (_row(2),)
            wait_until(lambda: bool(agent.snapshot().problems), 10, "the problem")
            (problem,) = agent.snapshot().problems
            assert problem.startswith("tunnel t1: ")
            assert ike.stuck in problem
            ike.stuck = ""
            wait_until(lambda: not agent.snapshot().problems, 20, "none")
            assert "t1" not in ike.installed


def _row(number: int) -> TunnelFact:
    options = {"remote_ip": f"192.0.2.{number}", "local_ip": HERE, "psk": "secret"}
    return TunnelFact(f"t{number}", "geneve", options, 1)
