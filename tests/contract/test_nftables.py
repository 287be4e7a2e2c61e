"""The guard's driver against the real nft and nf_tables, in a network namespace of its own."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import select
import socket
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
from ovn_ipsec.errors import DriverError, ObservationError
from ovn_ipsec.model.conns import Guard, GuardMode, GuardPort, GuardTuple, Protocol
from ovn_ipsec.model.steps import SetGuard
from tests.unit.test_guard import guards
from tools.lab.container import wait_until
from tools.lab.netns import socket_in

pytestmark = pytest.mark.contract

UDP = Protocol.UDP
GENEVE = GuardPort(UDP, 6081)
CLOSED = Guard(GuardMode.ENFORCE, frozenset({GENEVE}))
MIXED = Guard(
    GuardMode.ENFORCE,
    frozenset({GENEVE, GuardPort(Protocol.GRE, None)}),
    closed_peers=frozenset({GuardTuple("127.0.0.2", UDP, 4789), GuardTuple("fd00::2", UDP, 4789)}),
    exempt=frozenset({GuardTuple("127.0.0.3", UDP, 6081), GuardTuple("::1", UDP, 6081, "::1")}),
    skb_mark=(1, 1),
)
_NEWNET = 0x40000000


@pytest.fixture(autouse=True)
def private_network() -> Iterator[None]:
    """A network namespace for this thread and the programs it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    assert libc.unshare(_NEWNET) == 0, os.strerror(ctypes.get_errno())
    try:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    finally:
        assert libc.setns(own, _NEWNET) == 0
        os.close(own)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "guard.json"


@pytest.fixture(params=["as the system can", "two tables"])
def held(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> HeldTable:
    if request.param == "two tables":
        monkeypatch.setattr(HeldTable, "_can_persist", lambda _: False)
    return HeldTable()


def nft(*words: str) -> str:
    return subprocess.run(["nft", *words], check=True, capture_output=True, text=True).stdout


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def put(driver: Nftables, guard: Guard) -> None:
    (outcome,) = driver.apply([SetGuard(guard)])
    assert outcome.error is None


def sends(address: str, port: int, mark: int = 0) -> bool:
    """Whether a UDP datagram gets past the guard on its way out."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        try:
            sender.sendto(b"x", (address, port))
        except PermissionError:
            return False
        return True


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(guard=guards())
def test_any_guard_is_found_as_it_was_put(guard: Guard, kept: Path) -> None:
    put(Nftables(kept), guard)
    seen = Nftables(kept).observe()  # as an agent that was restarted
    assert (seen.present, seen.intact) == (True, True)
    assert (seen.mode, seen.digest) == (guard.mode, guard.digest)


@pytest.mark.parametrize("mark", [(0, 0xFFFFFFFC), (1 << 31, 1 << 31), (0xFF00, 0xFF00), (2, 2)])
def test_mark_with_any_mask_is_found_as_it_was_put(mark: tuple[int, int], kept: Path) -> None:
    marked = replace(CLOSED, skb_mark=mark)
    put(Nftables(kept), marked)
    assert Nftables(kept).observe().digest == marked.digest


def test_without_a_table_none_is_present(kept: Path) -> None:
    seen = Nftables(kept).observe()
    assert (seen.present, seen.intact, seen.digest) == (False, False, None)


def test_nft_that_cannot_run_is_an_error_and_no_absence(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Nftables(kept)
    put(driver, CLOSED)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ObservationError):
        driver.observe()
    (outcome,) = driver.apply([SetGuard(MIXED)])
    assert outcome.error is not None and "nft" in outcome.error


@pytest.mark.parametrize(
    "tampering",
    [
        f"insert rule inet {TABLE} judge_out accept",
        f"flush chain inet {TABLE} judge_in",
        f"flush set inet {TABLE} closed_ports",
        f"delete element inet {TABLE} closed_ports {{ udp . 6081 }}",
        f"add element inet {TABLE} exempt_l4_4 {{ 127.0.0.9 . udp . 6081 }}",
        f"add chain inet {TABLE} more",
        f"delete chain inet {TABLE} out",
        f"add table inet {TABLE} {{ flags dormant ; }}",
        f"flush table inet {TABLE}",
        "flush ruleset",
    ],
)
def test_what_others_change_is_heard_noticed_and_mended(tampering: str, kept: Path) -> None:
    events = GuardEvents()
    driver = Nftables(kept, events)
    put(driver, MIXED)
    assert driver.observe().intact
    nft(*tampering.split())
    assert select.select([events], [], [], 5)[0]
    assert not driver.observe().intact
    put(driver, MIXED)
    assert driver.observe().intact
    assert not sends("127.0.0.1", 6081)


def test_packets_go_by_the_guard_they_meet(kept: Path) -> None:
    driver = Nftables(kept)
    put(driver, MIXED)
    assert not sends("127.0.0.1", 6081)
    assert not sends("::1", 6082 - 1, mark=1)  # the mark closes what is exempt
    assert not sends("127.0.0.2", 4789)
    assert sends("127.0.0.1", 4789)
    assert not sends("127.0.0.1", 4789, mark=3)
    assert sends("127.0.0.1", 9999, mark=1)
    assert sends("::1", 6081)
    put(driver, Guard(GuardMode.AUDIT, MIXED.closed_ports))
    assert sends("127.0.0.1", 6081)
    put(driver, Guard(GuardMode.ENFORCE_ALWAYS, MIXED.closed_ports, exempt=MIXED.exempt))
    assert not sends("::1", 6081)
    put(driver, Guard(GuardMode.OFF, MIXED.closed_ports))
    assert sends("127.0.0.1", 6081)
    assert not driver.observe().present


@pytest.mark.parametrize("version", [4, 6])
def test_forwarded_tunnel_packet_passes_beside_an_own_one_that_does_not(
    version: int, kept: Path
) -> None:
    put(Nftables(kept), CLOSED)
    net, bits = ("10.66.{}.{}", 24) if version == 4 else ("fd66:{}::{}", 64)
    ends = [subprocess.Popen(["unshare", "--net", "sleep", "60"]) for _ in range(2)]
    try:
        spaces = [Path(f"/proc/{end.pid}/ns/net") for end in ends]
        own = Path("/proc/thread-self/ns/net").stat().st_ino
        wait_until(lambda: all(s.stat().st_ino != own for s in spaces), 10, "two more namespaces")
        for number, end in enumerate(ends):
            pid, near = str(end.pid), f"to-{number}"
            inside = ["nsenter", "--target", pid, "--net", "ip"]
            ip("link", "add", near, "type", "veth", "peer", "name", "eth0", "netns", pid)
            for at, host, device in ((["ip"], 1, near), (inside, 2, "eth0")):
                address = [f"{net.format(number, host)}/{bits}", "dev", device]
                nodad = ["nodad"] if version == 6 else []
                subprocess.run([*at, "addr", "add", *address, *nodad], check=True)
                subprocess.run([*at, "link", "set", device, "up"], check=True)
            gateway = ["default", "via", net.format(number, 1)]
            subprocess.run([*inside, "route", "add", *gateway], check=True)
        forwards = "net.ipv4.ip_forward" if version == 4 else "net.ipv6.conf.all.forwarding"
        subprocess.run(["sysctl", "-q", "-w", f"{forwards}=1"], check=True)
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        far = net.format(1, 2)
        with (
            socket_in(spaces[0], family, socket.SOCK_DGRAM) as stranger,
            socket_in(spaces[1], family, socket.SOCK_DGRAM) as receiver,
        ):
            receiver.bind((far, 6081))
            receiver.settimeout(0.2)
            arrived = []

            def passes() -> bool:
                stranger.sendto(b"nested", (far, 6081))
                with contextlib.suppress(TimeoutError):
                    arrived.append(receiver.recv(64))
                return bool(arrived)

            wait_until(passes, 10, "a forwarded packet arrives")
            assert set(arrived) == {b"nested"}
            assert not sends(far, 6081)
    finally:
        for end in ends:
            end.kill()
            end.wait()


def exempting(*remotes: str) -> Guard:
    exempt = frozenset(GuardTuple(remote, UDP, 6081) for remote in remotes)
    return Guard(GuardMode.ENFORCE, frozenset({GENEVE}), exempt=exempt)


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


def test_counters_go_on_through_replacement_flush_and_restart(kept: Path) -> None:
    driver = Nftables(kept)
    put(driver, CLOSED)
    for _ in range(3):
        sends("127.0.0.1", 6081)
    put(driver, MIXED)
    assert driver.counters().out_packets == 3
    nft("flush", "ruleset")
    assert driver.counters().out_packets == 3
    put(driver, CLOSED)
    sends("127.0.0.1", 6081)
    assert driver.counters().out_packets == 4
    again = Nftables(kept)
    put(again, MIXED)
    assert again.counters().out_packets == 4


def test_replacement_leaves_no_moment_in_which_a_packet_passes(kept: Path) -> None:
    driver = Nftables(kept)
    put(driver, CLOSED)
    stream = subprocess.Popen(
        ["python3", "-c", _STREAM], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert stream.stdout is not None and stream.stdin is not None
    assert stream.stdout.readline() == "sending\n"
    for number in range(10):
        put(driver, MIXED if number % 2 else CLOSED)
    said, _ = stream.communicate("stop\n", timeout=30)
    refused, passed = map(int, said.split())
    assert passed == 0
    assert refused > 100


_STREAM = """
import select, socket, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
refused = passed = 0
print("sending", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    try:
        sender.sendto(b"x", ("127.0.0.1", 6081))
        passed += 1
    except PermissionError:
        refused += 1
print(refused, passed)
"""


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


def test_last_guard_is_kept_in_a_form_that_nft_loads_by_itself(kept: Path) -> None:
    driver = Nftables(kept)
    assert driver.load_last_known() is None
    put(driver, MIXED)
    assert kept.stat().st_mode & 0o777 == 0o600
    nft("flush", "ruleset")
    assert Nftables(kept).load_last_known() == MIXED
    nft("-j", "-f", str(kept))
    assert Nftables(kept).observe().digest == MIXED.digest
    driver.remove()
    assert driver.load_last_known() is None
    assert sends("127.0.0.1", 6081)


def test_damaged_file_is_no_last_known_guard(kept: Path) -> None:
    kept.write_text('{"nftables": [')
    assert Nftables(kept).load_last_known() is None


def test_disk_that_takes_no_file_does_not_open_the_guard(kept: Path) -> None:
    in_the_way = kept.parent / "state"
    in_the_way.touch()
    driver = Nftables(in_the_way / "guard.json")
    put(driver, CLOSED)
    assert driver.observe().intact
    in_the_way.unlink()
    driver.observe()
    assert driver.load_last_known() == CLOSED


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
    del held
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
    with holder(kept, alone=held.alone) as process:
        process.kill()
        process.wait()
    put(Nftables(kept), MIXED)
    assert Nftables(kept).observe().digest == MIXED.digest
    assert sends("::1", 6081)
    with holder(kept, alone=held.alone) as process:
        process.kill()
        process.wait()
    assert not sends("::1", 6081)
    Nftables(kept).remove()
    assert sends("::1", 6081)


def test_agent_without_the_means_takes_over_from_one_that_owned_the_table(
    held: HeldTable, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with holder(kept, alone=held.alone) as process:
        process.kill()
        process.wait()
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
