"""The control socket as the real ``ovs-appctl`` and ``ovs-lib`` see it."""

import ast
import fcntl
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovn_ipsec.status.serve import control_socket_path, serve_control
from tests.contract.appctl import OpenVswitchPrograms, find_programs
from tests.control_fake import FakeAgent

pytestmark = pytest.mark.contract

SOCKET = "agent.1.ctl"
# What ovs-lib's stop_daemon does before it decides to send `exit`. An empty answer counts as
# new enough there, so the version itself is looked at as well.
STOP_DAEMON = """
. /usr/share/openvswitch/scripts/ovs-lib
version=$(ovs-appctl -T 1 -t "$1" version | awk 'NR==1{print $NF}')
version_geq "$version" 2.5.90 && echo "$version"
"""


@pytest.fixture
def agent() -> FakeAgent:
    return FakeAgent()


@pytest.fixture
def programs(agent: FakeAgent, tmp_path: Path) -> Iterator[OpenVswitchPrograms]:
    found = find_programs(tmp_path)
    server = serve_control(tmp_path / SOCKET, agent, program="ovs-monitor-ipsec")
    try:
        yield found
    finally:
        server.close()


def test_tunnels_show_arrives_whole_with_one_final_newline(programs: OpenVswitchPrograms) -> None:
    done = programs.appctl(SOCKET, "tunnels/show")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "Interface name: tun0 v1 (CONFIGURED)\n  Tunnel Type:    geneve\n"
    )
    assert done.stdout.endswith("  Guard:          enforce\n")


def test_one_tunnel_is_shown_and_an_unknown_one_is_an_error(
    programs: OpenVswitchPrograms,
) -> None:
    assert programs.appctl(SOCKET, "tunnels/show", "tun0").returncode == 0
    done = programs.appctl(SOCKET, "tunnels/show", "nobody")
    assert done.returncode == 2
    assert "nobody: no such tunnel" in done.stderr


def test_ipsec_status_is_a_python_dict(programs: OpenVswitchPrograms) -> None:
    done = programs.appctl(SOCKET, "ipsec/status")
    assert ast.literal_eval(done.stdout) == {"tun0": {"tun0-out-1": "000 #2: up"}}
    assert programs.appctl(SOCKET, "xfrm/policies").stdout == "{}\n"
    assert programs.appctl(SOCKET, "xfrm/state").stdout == "{}\n"


def test_ovs_lib_finds_a_version_that_gets_exit_before_term(
    programs: OpenVswitchPrograms,
) -> None:
    done = programs.run("sh", "-c", STOP_DAEMON, "sh", str(programs.seen_as / SOCKET))
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+\S*\n", done.stdout)


def test_list_commands_names_those_of_the_original(programs: OpenVswitchPrograms) -> None:
    done = programs.appctl(SOCKET, "list-commands")
    lines = done.stdout.splitlines()
    assert lines[0] == "The available commands are:"
    names = {line.split()[0] for line in lines[1:]}
    assert names >= {
        "exit",
        "ipsec/status",
        "list-commands",
        "refresh",
        "tunnels/show",
        "version",
        "xfrm/policies",
        "xfrm/state",
    }


def test_exit_cleans_up_unless_told_not_to_and_refuses_anything_else(
    programs: OpenVswitchPrograms, agent: FakeAgent
) -> None:
    done = programs.appctl(SOCKET, "exit", "--no-cleanp")
    assert done.returncode == 2
    assert "unrecognized parameter: --no-cleanp" in done.stderr
    assert agent.exits == []
    assert programs.appctl(SOCKET, "exit", "--no-cleanup").stdout == ""
    assert programs.appctl(SOCKET, "exit", options=("-T", "1")).returncode == 0
    assert agent.exits == [False, True]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("no/such",), '"no/such" is not a valid command'),
        (("tunnels/show", "a", "b"), '"tunnels/show" command takes at most 1 arguments'),
        (("set-options",), '"set-options" command requires at least 1 arguments'),
        (("set-options", "--format=xml"), "--format"),
    ],
)
def test_wrong_calls_are_errors_with_exit_code_2(
    programs: OpenVswitchPrograms, words: tuple[str, ...], complaint: str
) -> None:
    done = programs.appctl(SOCKET, *words)
    assert done.returncode == 2
    assert complaint in done.stderr


def test_json_where_the_client_offers_it(programs: OpenVswitchPrograms) -> None:
    """Clients before 3.5 have no ``--format``: their refusal is the whole proof then."""
    if "--format" not in programs.run("ovs-appctl", "--help").stdout:
        done = programs.appctl(SOCKET, "tunnels/show", options=("--format", "json"))
        assert "unrecognized option" in done.stderr
        return
    done = programs.appctl(SOCKET, "tunnels/show", options=("--format", "json"))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert [tunnel["name"] for tunnel in answer["tunnels"]] == ["tun0"]
    assert answer["node"]["guard"]["mode"] == "enforce"
    plain = programs.appctl(SOCKET, "version", options=("--format", "json"))
    answer = json.loads(plain.stdout)
    assert answer["reply-format"] == "plain"
    assert answer["reply"].startswith("ovs-monitor-ipsec (Open vSwitch)")


def test_refresh_returns_when_the_tick_is_done(
    programs: OpenVswitchPrograms, agent: FakeAgent
) -> None:
    threading.Timer(0.5, agent.tick.set).start()
    began = time.monotonic()
    done = programs.appctl(SOCKET, "refresh")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - began >= 0.5


DAEMON = """
import sys
import ovs.daemon, ovs.jsonrpc, ovs.vlog
from pathlib import Path
from ovn_ipsec.status.serve import serve_control
from tests.control_fake import FakeAgent
ovs.vlog.Vlog.init(sys.argv[2])
serve_control(Path(sys.argv[1]), FakeAgent(), program="ovs-monitor-ipsec")
print("ready", flush=True)
sys.stdin.read()
"""


def test_log_levels_and_log_file_are_set_by_vlog_commands(tmp_path: Path) -> None:
    programs = find_programs(tmp_path)
    log = tmp_path / "agent.log"
    daemon = subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(tmp_path / SOCKET), str(log)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "ready\n"
        assert programs.appctl(SOCKET, "vlog/set", "file:dbg").returncode == 0
        levels = programs.appctl(SOCKET, "vlog/list").stdout.splitlines()
        assert [line.split()[-1] for line in levels if line.startswith("daemon ")] == ["dbg"]
        log.rename(tmp_path / "rotated")
        assert programs.appctl(SOCKET, "vlog/reopen").returncode == 0
        assert log.exists()
    finally:
        assert daemon.stdin is not None
        daemon.stdin.close()
        assert daemon.wait(timeout=10) == 0


def test_ovs_appctl_finds_the_socket_by_program_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = find_programs(tmp_path)
    monkeypatch.setenv("OVS_RUNDIR", str(tmp_path))
    path = control_socket_path("ovs-monitor-ipsec")
    server = serve_control(path, FakeAgent(), program="ovs-monitor-ipsec")
    with (tmp_path / "ovs-monitor-ipsec.pid").open("w") as pidfile:
        pidfile.write(f"{os.getpid()}\n")
        pidfile.flush()
        fcntl.lockf(pidfile, fcntl.LOCK_EX)  # ovs-appctl believes only a locked pidfile
        try:
            rundir = f"OVS_RUNDIR={programs.seen_as}"
            done = programs.run("env", rundir, "ovs-appctl", "-t", "ovs-monitor-ipsec", "version")
        finally:
            server.close()
    assert done.stdout.startswith("ovs-monitor-ipsec (Open vSwitch)"), done.stderr
