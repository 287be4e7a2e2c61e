"""The guard's driver against the real nft and nf_tables, in a network namespace of its own."""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from ovn_ipsec.drivers.nftables import Nftables
from ovn_ipsec.drivers.nftables_events import GuardEvents
from ovn_ipsec.drivers.nftables_rules import TABLE
from ovn_ipsec.errors import ObservationError
from ovn_ipsec.model.conns import Guard, GuardMode
from ovn_ipsec.model.steps import SetGuard
from tests.contract.guard_table import CLOSED, MIXED, nft, put, sends
from tests.unit.test_guard import guards
from tools.lab.container import wait_until
from tools.lab.netns import socket_in

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("private_network")]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


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
