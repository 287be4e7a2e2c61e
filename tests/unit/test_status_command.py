"""``ovn-ipsec status``: the table, its bounds, its exit codes, against a served socket."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ovn_ipsec.drivers.libreswan_details import parse_details
from ovn_ipsec.drivers.libreswan_status import Dialect
from ovn_ipsec.model.causes import Cause, CauseCode
from ovn_ipsec.model.conns import OwnCertificate
from ovn_ipsec.model.snapshot import (
    ActiveConnection,
    SaDetail,
    Snapshot,
    TunnelState,
    TunnelStatus,
)
from ovn_ipsec.status import command
from ovn_ipsec.status.client import ask_status
from ovn_ipsec.status.command import ALL_ENCRYPTED, NOT_ALL, UNREACHABLE, run_status
from ovn_ipsec.status.json_report import json_tunnels
from ovn_ipsec.status.overview import build_overview, render_age, render_bytes
from ovn_ipsec.status.serve import serve_control
from ovn_ipsec.status.table import render
from tests.control_fake import VIEW, FakeAgent, make_snapshot

PROGRAM = "ovs-monitor-ipsec"
MISSING = Cause(CauseCode.PEER_SILENT, "192.0.2.9 does not answer IKE", "check that it is up")


def tunnel(number: int, cause: Cause | None = None) -> TunnelStatus:
    name = f"ovn-{number:06x}-0"
    names = (f"{name}-in-1", f"{name}-out-1")
    view = replace(VIEW, remote_ip="192.0.2.9", remote_name=f"2dc40cb7-845e-4326-9d1d-{number}")
    made_s = int(datetime.now(UTC).timestamp()) - 7200
    active = tuple(ActiveConnection(each, "line", 1_200_000, 512, made_s) for each in names)
    if cause is None:
        status = TunnelStatus(name, 1, TunnelState.CONFIGURED, view, connections=active)
    else:
        status = TunnelStatus(name, 1, TunnelState.CONFIGURED, view, missing=names, cause=cause)
    return replace(status, ike_up=cause is None)


def node(*tunnels: TunnelStatus) -> Snapshot:
    until = datetime.now(UTC) + timedelta(days=41, hours=1)
    return replace(
        make_snapshot(0),
        tunnels=tunnels,
        certificate=OwnCertificate("me", until),
        details={
            each.name: SaDetail("AES_GCM_16_256", 1000)
            for one in tunnels
            for each in one.connections
        },
        details_at_s=time.monotonic(),
    )


def drawn(snapshot: Snapshot, width: int, *, problems_only: bool = False) -> list[str]:
    told = json_tunnels(snapshot, time.monotonic()) or {}
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False)
    console.print(render(build_overview(told), width, problems_only=problems_only))
    return out.getvalue().splitlines()


@contextmanager
def serving(rundir: Path, snapshot: Snapshot) -> Iterator[FakeAgent]:
    agent = FakeAgent(snapshot)
    agent.tick.set()
    server = serve_control(rundir / f"{PROGRAM}.77.ctl", agent, program=PROGRAM)
    try:
        yield agent
    finally:
        server.close()


def ask(rundir: Path, *argv: str) -> tuple[int, str]:
    out = io.StringIO()
    return run_status(argv, rundir, PROGRAM, out), out.getvalue()


def test_eighty_columns_hold_every_column_and_the_summary() -> None:
    lines = drawn(node(tunnel(1), tunnel(2, MISSING)), 80)
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == [
        "CHASSIS",
        "ADDRESS",
        "TUNNEL",
        "STATE",
        "IKE",
        "SA",
        "AGE",
        "REKEY",
        "IN",
        "OUT",
    ]
    (up,) = [line for line in lines if "encrypted " in line and "2h" in line]
    assert up.split()[1:] == [
        "192.0.2.9",
        "ovn-000001-0",
        "encrypted",
        "up",
        "1+1",
        "2h",
        "16m",
        "2.4M",
        "1.0K",
    ]
    assert "ovn-000002-0: the peer does not answer IKE" in lines
    assert "  -> check that it is up" in lines
    assert lines[-1] == "1 of 2 tunnels are encrypted; certificate valid for 41 d"


def test_wide_terminals_get_the_cipher_and_whole_names() -> None:
    (line,) = [line for line in drawn(node(tunnel(1)), 160) if "192.0.2.9" in line]
    assert "AES_GCM_16_256" in line
    assert "2dc40cb7-845e-4326-9d1d-1" in line


def test_five_hundred_peers_are_bounded_to_the_problems_when_asked() -> None:
    snapshot = node(*(tunnel(n, MISSING if n in (3, 4) else None) for n in range(500)))
    assert len(drawn(snapshot, 80)) > 500
    lines = drawn(snapshot, 80, problems_only=True)
    assert len(lines) < 12
    assert lines[-1].startswith("498 of 500 tunnels")


def test_no_escape_sequence_reaches_what_is_no_terminal_or_comes_from_a_row(
    tmp_path: Path,
) -> None:
    bad = replace(tunnel(1, MISSING), name="\x1b[2J[red]x")
    with serving(tmp_path, node(bad)):
        code, out = ask(tmp_path)
    assert code == NOT_ALL
    assert "\x1b" not in out
    assert "[red]" in out


@pytest.mark.parametrize("flags", [(), ("--json",), ("--cached",), ("--problems",)])
def test_exit_code_is_zero_only_if_all_is_encrypted(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    with serving(tmp_path, node(tunnel(1))) as agent:
        assert ask(tmp_path, *flags)[0] == ALL_ENCRYPTED
        agent.current = node(tunnel(1), tunnel(2, MISSING))
        assert ask(tmp_path, *flags)[0] == NOT_ALL
        agent.current = replace(
            node(tunnel(1)), causes=(Cause(CauseCode.GUARD_ABSENT, "no guard", "wait"),)
        )
        assert ask(tmp_path, *flags)[0] == NOT_ALL
        agent.current = replace(node(tunnel(1)), complete=False)
        assert ask(tmp_path, *flags)[0] == NOT_ALL


def answers_until_interrupted(times: int) -> Callable[..., dict[str, Any]]:
    left = iter(range(times))

    def ask_or_interrupt(path: Path, *, refresh: bool) -> dict[str, Any]:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return ask_status(path, refresh=refresh)

    return ask_or_interrupt


@pytest.mark.parametrize("flags", [("--json",), ("--watch", "--json")])
def test_interrupted_before_anything_was_shown_says_nothing_of_the_tunnels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    monkeypatch.setattr(command, "ask_status", answers_until_interrupted(0))
    with serving(tmp_path, node(tunnel(1))):
        assert ask(tmp_path, *flags) == (130, "")


@pytest.mark.parametrize(("cause", "code"), [(None, ALL_ENCRYPTED), (MISSING, NOT_ALL)])
def test_watching_that_is_interrupted_ends_with_what_it_has_shown_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: Cause | None, code: int
) -> None:
    monkeypatch.setattr(command, "ask_status", answers_until_interrupted(1))
    monkeypatch.setattr(command, "WATCH_PERIOD_S", 0)
    with serving(tmp_path, node(tunnel(1, cause))):
        assert ask(tmp_path, "--watch", "--json")[0] == code


def test_json_is_the_agents_with_a_summary(tmp_path: Path) -> None:
    with serving(tmp_path, node(tunnel(1), tunnel(2, MISSING))):
        code, out = ask(tmp_path, "--json")
    told = json.loads(out)
    assert code == NOT_ALL
    assert told["summary"]["tunnels_encrypted"] == 1
    assert told["tunnels"][1]["cause"]["code"] == "peer-silent"


def test_absent_or_dead_agent_is_told_by_its_own_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(tmp_path)[0] == UNREACHABLE
    (tmp_path / f"{PROGRAM}.5.ctl").touch()
    assert ask(tmp_path, "--json")[0] == UNREACHABLE
    assert "OVS_RUNDIR" in capsys.readouterr().err


def test_details_are_read_from_the_status_of_both_dialects() -> None:
    old = (
        '000 "tun-b-in-3":   ESP algorithm newest: AES_GCM_16_256-NONE; pfsgroup=<Phase1>\n'
        '000 #73: "tun-b-in-3":500 STATE_V2_ESTABLISHED_CHILD_SA (established Child SA); LIVENESS'
        " in 7s; REKEY in 28144s; REPLACE in 28797s; newest; eroute owner; IKE SA #69; idle;\n"
        '000 #70: "tun-b-in-3":500 STATE_V2_ESTABLISHED_CHILD_SA (established Child SA); REKEY in'
        " 5s; REPLACE in 6s; IKE SA #69; idle;\n"
    )
    new = old.replace("000 ", "").replace("STATE_V2_", "")
    expected = {"tun-b-in-3": SaDetail("AES_GCM_16_256", 28144)}
    assert parse_details(old, Dialect.V4) == expected
    assert parse_details(new, Dialect.V5) == expected


@given(st.integers(0, 10**21), st.floats(0, 1e9))
def test_numbers_stay_narrow(count: int, seconds: float) -> None:
    assert len(render_bytes(count)) <= 5
    assert len(render_age(seconds)) <= 6


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "tunnels",
                        "node",
                        "name",
                        "connections",
                        "cause",
                        "config",
                        "missing",
                        "state",
                    ]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=20,
    )
)
def test_answer_of_another_version_is_no_error(value: object) -> None:
    build_overview(value if isinstance(value, dict) else {"tunnels": value, "node": value})
