"""The guard that a process holds: whose the tables are, and what of them outlives whom."""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovn_ipsec.drivers.nftables import Nftables
from ovn_ipsec.drivers.nftables_events import GuardEvents
from ovn_ipsec.drivers.nftables_held import HeldTable
from ovn_ipsec.drivers.nftables_rules import HELD_TABLE, TABLE
from ovn_ipsec.errors import DriverError
from ovn_ipsec.model.conns import Guard, GuardMode, GuardTuple
from ovn_ipsec.model.steps import SetGuard
from tests.contract.guard_table import CLOSED, GENEVE, MIXED, UDP, exempting, nft, put, sends
from tools.lab.container import wait_until

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("private_network")]


@pytest.fixture(params=["as the system can", "two tables"])
def held(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> HeldTable:
    """In the test's own network namespace, which has to be there first."""
    request.getfixturevalue("private_network")
    if request.param == "two tables":
        monkeypatch.setattr(HeldTable, "_can_persist", lambda _: False)
    return HeldTable()


def handles() -> list[str]:
    """Of the guard's chains: others are of a table that was made anew."""
    lines = nft("-a", "list", "table", "inet", TABLE).splitlines()
    return [line for line in lines if "chain " in line and "# handle" in line]


def test_tuple_that_comes_or_goes_is_changed_in_place_in_all_tables(
    held: HeldTable, kept: Path
) -> None:
    driver = Nftables(kept, GuardEvents(), held)
    put(driver, exempting("127.0.0.2", "127.0.0.3"))
    assert not sends("127.0.0.4", 6081)
    before = handles()
    after = exempting("127.0.0.3", "127.0.0.4")
    put(driver, after)
    assert handles() == before
    seen = driver.observe()
    assert (seen.intact, seen.digest) == (True, after.digest)
    assert driver.counters().out_packets == 1
    assert driver.load_last_known() == after
    for _ in ("all tables", "what is held"):
        assert [sends(f"127.0.0.{number}", 6081) for number in (2, 3, 4)] == [False, True, True]
        nft("flush", "ruleset")


@pytest.mark.parametrize(
    "tampering",
    [
        f"delete element inet {TABLE} exempt_l4_4 {{ 127.0.0.2 . udp . 6081 }}",
        f"delete table inet {TABLE}",
        f"insert rule inet {TABLE} judge_out accept",
    ],
)
def test_tampered_table_does_not_survive_a_change_in_place(
    tampering: str, held: HeldTable, kept: Path
) -> None:
    driver = Nftables(kept, GuardEvents(), held)
    put(driver, exempting("127.0.0.2", "127.0.0.3"))
    assert driver.observe().intact
    if held.alone:
        with pytest.raises(subprocess.CalledProcessError) as refused:
            nft(*tampering.split())
        assert "Operation not permitted" in refused.value.stderr
    else:
        nft(*tampering.split())
    put(driver, exempting("127.0.0.3"))
    if not driver.observe().intact:
        put(driver, exempting("127.0.0.3"))
    assert driver.observe().intact
    assert [sends(f"127.0.0.{number}", 6081) for number in (2, 3)] == [False, True]


_SOME = st.frozensets(
    st.sampled_from(["127.0.0.2", "127.0.0.3", "127.0.0.4", "::1", "fd00::2"]), max_size=3
)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(way=st.lists(st.tuples(_SOME, _SOME), min_size=2, max_size=4))
def test_any_way_from_guard_to_guard_ends_at_the_last(
    way: list[tuple[frozenset[str], frozenset[str]]], held: HeldTable, kept: Path
) -> None:
    driver = Nftables(kept, GuardEvents(), held)
    put(driver, exempting())
    for exempt, closed in way:
        peers = frozenset(GuardTuple(remote, UDP, 4789) for remote in closed)
        guard = replace(exempting(*exempt), closed_peers=peers)
        put(driver, guard)
        seen = driver.observe()
        assert (seen.intact, seen.digest) == (True, guard.digest)


def test_own_changes_do_not_keep_the_agent_awake(held: HeldTable, kept: Path) -> None:
    events = GuardEvents()
    driver = Nftables(kept, events, held)
    put(driver, MIXED)
    driver.observe()
    driver.observe()
    assert not select.select([events], [], [], 0.2)[0]
    nft("add", "table", "inet", "other")
    assert select.select([events], [], [], 5)[0]
    assert not events.drain()


def test_one_table_is_held_where_nft_and_the_kernel_know_how(held: HeldTable, kept: Path) -> None:
    nft_knows = numbers(nft("--version")) >= [1, 1]
    kernel_knows = numbers(os.uname().release) >= [6, 9]
    assert HeldTable().alone == (nft_knows and kernel_knows and held.alone)
    put(Nftables(kept, held=held), CLOSED)
    tables = nft("list", "tables").splitlines()
    assert tables == [f"table inet {name}" for name in (TABLE, HELD_TABLE)[: 2 - held.alone]]


def numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


def test_flush_by_another_process_does_not_open_while_the_agent_lives(
    held: HeldTable, kept: Path
) -> None:
    alone = held.alone
    with holder(kept, alone=alone) as process:
        nft("flush", "ruleset")
        assert not sends("127.0.0.1", 6081)
        assert (f"table inet {TABLE}\n" in nft("list", "tables")) == alone
        process.kill()
        process.wait()
        if alone:
            wait_until(lambda: "owner" not in nft("list", "table", "inet", TABLE), 5, "an orphan")
            assert not sends("127.0.0.1", 6081)
            nft("flush", "ruleset")
        else:
            wait_until(lambda: HELD_TABLE not in nft("list", "tables"), 5, "the table has gone")
        assert sends("127.0.0.1", 6081)


@contextlib.contextmanager
def holder(kept: Path, *, alone: bool) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a guard which closes Geneve."""
    with subprocess.Popen(
        ["python3", "-c", _HOLD, str(kept), *(["two tables"] if not alone else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def leave_behind(kept: Path, held: HeldTable) -> None:
    """The guard of a process that held it like this and has been killed."""
    with holder(kept, alone=held.alone) as process:
        process.kill()
        process.wait()


_HOLD = """
import sys, time
from pathlib import Path
from ovn_ipsec.drivers.nftables import Nftables
from ovn_ipsec.drivers.nftables_held import HeldTable
from ovn_ipsec.model.conns import Guard, GuardMode, GuardPort, Protocol
from ovn_ipsec.model.steps import SetGuard
if sys.argv[2:]:
    HeldTable._can_persist = lambda self: False
ports = [GuardPort(Protocol.UDP, 6081), GuardPort(Protocol.GRE, None)]
guards = [Guard(GuardMode.ENFORCE, frozenset(some)) for some in (ports, ports[:1])]
driver = Nftables(Path(sys.argv[1]), held=HeldTable())
outcomes = driver.apply(map(SetGuard, guards))
assert all(outcome.error is None for outcome in outcomes), outcomes
print("held", flush=True)
sys.stdin.read()
"""


def test_restarted_agent_holds_what_it_finds(held: HeldTable, kept: Path) -> None:
    put(Nftables(kept), CLOSED)
    sends("127.0.0.1", 6081)
    driver = Nftables(kept, held=held)
    assert driver.observe().intact
    nft("flush", "ruleset")
    sends("127.0.0.1", 6081)
    assert driver.counters().out_packets == 2


def test_agent_takes_the_guard_over_from_one_that_ends_later(held: HeldTable, kept: Path) -> None:
    driver = Nftables(kept, GuardEvents(), held)
    with holder(kept, alone=held.alone) as process:
        assert driver.observe().intact
        process.kill()
        process.wait()
        for _ in range(100):
            assert driver.observe().intact
            if held.holds(CLOSED):
                break
            time.sleep(0.05)
        nft("flush", "ruleset")
        assert not sends("127.0.0.1", 6081)


def test_guard_that_an_agent_left_is_replaced_and_removed_without_one(
    held: HeldTable, kept: Path
) -> None:
    leave_behind(kept, held)
    put(Nftables(kept), MIXED)
    assert Nftables(kept).observe().digest == MIXED.digest
    assert sends("::1", 6081)
    leave_behind(kept, held)
    assert not sends("::1", 6081)
    Nftables(kept).remove()
    assert sends("::1", 6081)


def test_agent_without_the_means_takes_over_from_one_that_owned_the_table(
    held: HeldTable, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_behind(kept, held)
    monkeypatch.setattr(HeldTable, "_can_persist", lambda _: False)
    driver = Nftables(kept, GuardEvents(), HeldTable())
    put(driver, exempting("127.0.0.2"))
    put(driver, exempting("127.0.0.3"))
    put(driver, MIXED)
    assert driver.observe().digest == MIXED.digest
    assert not sends("127.0.0.2", 6081)
    nft("flush", "ruleset")
    assert not sends("127.0.0.2", 6081)


def test_whoever_is_no_agent_is_told_whose_the_table_is(held: HeldTable, kept: Path) -> None:
    agent, other = Nftables(kept, held=held), Nftables(kept)
    put(agent, CLOSED)
    (outcome,) = other.apply([SetGuard(MIXED)])
    if held.alone:
        assert outcome.error is not None
        assert "belongs to an agent that runs" in outcome.error
        with pytest.raises(DriverError, match="stop the agent first"):
            other.remove()
        assert agent.observe().digest == CLOSED.digest
    else:
        assert outcome.error is None
    agent.remove()
    assert TABLE not in nft("list", "tables")


def test_thousands_of_tunnels_are_one_quick_transaction(held: HeldTable, kept: Path) -> None:
    driver = Nftables(kept, GuardEvents(), held)
    peers = frozenset(
        GuardTuple(f"10.{number >> 8}.{number & 255}.1", UDP, 4789) for number in range(5000)
    )
    big = Guard(GuardMode.ENFORCE, frozenset({GENEVE}), closed_peers=peers)
    started = time.monotonic()
    put(driver, big)
    assert driver.observe().digest == big.digest
    assert time.monotonic() - started < 30
