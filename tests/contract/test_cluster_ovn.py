"""A roll-out with the real OVN: both databases, northd, and ovn-controller on two chassis.

Played are the agents alone: pluto is not needed to see how wishes and reports travel.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from ovn_ipsec.cluster.databases import (
    GUARD_MODE_KEY,
    LocalSwitch,
    Northbound,
    Southbound,
    read_cluster,
)
from ovn_ipsec.cluster.follow import Follower
from ovn_ipsec.cluster.rollout import RollOut
from ovn_ipsec.cluster.stages import Goal
from ovn_ipsec.errors import ClusterError
from tests.contract.ovsdb_server import program
from tools.lab.container import wait_until

pytestmark = pytest.mark.contract

WITHIN_S = 30.0
OVN_SCHEMAS = Path("/usr/share/ovn")
OVS_SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")


class Programs:
    """Everything that a test starts, in one directory each."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._running = ExitStack()

    def start(self, *argv: str, rundir: Path) -> None:
        names = ("OVS_RUNDIR", "OVN_RUNDIR", "OVS_LOGDIR", "OVN_LOGDIR")
        places = dict.fromkeys(names, str(rundir))
        process = subprocess.Popen(
            [program(argv[0]), *argv[1:]],
            env=os.environ | places,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._running.callback(process.wait)
        self._running.callback(process.kill)

    def database(self, schema: Path, rundir: Path, name: str) -> str:
        rundir.mkdir(exist_ok=True)
        file, socket = rundir / f"{name}.db", rundir / f"{name}.sock"
        subprocess.run(["ovsdb-tool", "create", file, schema], check=True, timeout=20)
        control = f"--unixctl={rundir / name}.ctl"
        self.start("ovsdb-server", str(file), f"--remote=punix:{socket}", control, rundir=rundir)
        wait_until(socket.exists, WITHIN_S, f"{name} starts")
        return f"unix:{socket}"

    def close(self) -> None:
        self._running.close()


class PlayedAgent:
    """Answers as ``ovn-ipsec agent --guard-follow --http`` does, from the database's rows."""

    def __init__(self, switch: LocalSwitch) -> None:
        self.switch = switch
        self.encrypts = True
        agent = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                data = json.dumps(agent.answer()).encode()
                self.send_response(503)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self) -> dict[str, object]:
        read = {
            name: options
            for name, options in self.switch.ovn_tunnels().items()
            if "remote_name" in options
        }
        peers = [options["remote_name"] for options in read.values()]
        missing = [] if self.encrypts else peers
        counts = {"wanted": len(peers), "encrypted": len(peers) - len(missing), "revoked": 0}
        mode = self.switch.settings()[1].get(GUARD_MODE_KEY, "enforce")
        return {
            "guard": mode,
            "tunnels": counts,
            "unencrypted": missing,
            "read": {name: options["remote_ip"] for name, options in read.items()},
            "age_s": 2.0,
        }


class Chassis:
    """ovn-controller beside an Open vSwitch without datapath, and the follower."""

    def __init__(self, programs: Programs, name: str, address: str, southbound: str) -> None:
        rundir = programs.directory / name
        self.name = name
        self.remote = programs.database(OVS_SCHEMA, rundir, "db")
        self.vsctl("--no-wait", "init")
        control = f"--unixctl={rundir}/vswitchd.ctl"
        dummy = ["--enable-dummy=override", "--disable-system", control]
        programs.start("ovs-vswitchd", self.remote, *dummy, rundir=rundir)
        self.vsctl("add-br", "br-int", "--", "set", "bridge", "br-int", "datapath_type=dummy")
        settings = {
            "system-id": name,
            "hostname": f"host-{name}",
            "ovn-remote": southbound,
            "ovn-encap-type": "geneve",
            "ovn-encap-ip": address,
        }
        pairs = [f'external_ids:{key}="{value}"' for key, value in settings.items()]
        self.vsctl("set", "Open_vSwitch", ".", *pairs)
        programs.start("ovn-controller", self.remote, rundir=rundir)
        self.switch = LocalSwitch(self.remote)
        self.agent = PlayedAgent(self.switch)
        agent = ("127.0.0.1", self.agent.server.server_port)
        self.follower = Follower(self.switch, None, agent, time.time)

    def vsctl(self, *words: str) -> str:
        command = ["ovs-vsctl", f"--db={self.remote}", "--timeout=20", *words]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=30
        ).stdout

    def guard(self) -> str:
        return self.switch.settings()[1].get(GUARD_MODE_KEY, "")


class Ovn:
    """The cluster."""

    def __init__(self, programs: Programs) -> None:
        central = programs.directory / "central"
        self.nb = programs.database(OVN_SCHEMAS / "ovn-nb.ovsschema", central, "ovnnb_db")
        self.sb = programs.database(OVN_SCHEMAS / "ovn-sb.ovsschema", central, "ovnsb_db")
        for tool, remote in (("ovn-nbctl", self.nb), ("ovn-sbctl", self.sb)):
            subprocess.run([tool, f"--db={remote}", "init"], check=True, timeout=20)
        databases = [f"--ovnnb-db={self.nb}", f"--ovnsb-db={self.sb}"]
        programs.start("ovn-northd", *databases, rundir=central)
        self.chassis = [
            Chassis(programs, f"node-{letter}", f"10.0.0.{number}", self.sb)
            for number, letter in enumerate("ab", 1)
        ]
        self.southbound = Southbound(self.sb)
        wait_until(lambda: len(self.southbound.nodes()) == 2, WITHIN_S, "ovn-controller registers")
        self.said: list[str] = []

    def reach(self, goal: Goal, *ignored: str, tries: int = 60) -> bool:
        """The command; while it sleeps, the nodes look as they do every 15 s."""
        left = iter(range(tries))

        def sleep(_seconds: float) -> None:
            for chassis in self.chassis:
                chassis.follower.look()
            time.sleep(0.2)

        clock = time.time
        roll_out = RollOut(Northbound(self.nb), self.southbound, clock, self.said.append, ignored)
        return roll_out.reach(goal, lambda: next(left, None) is None, sleep)


@pytest.fixture
def ovn(tmp_path: Path) -> Iterator[Ovn]:
    programs = Programs(tmp_path)
    try:
        yield Ovn(programs)
    finally:
        programs.close()


def test_cluster_is_enabled_and_disabled_step_by_step(ovn: Ovn) -> None:
    one, other = ovn.chassis
    other.agent.encrypts = False
    assert not ovn.reach(Goal.ENABLE, tries=30)
    assert ovn.said[-1] == (
        "waiting for 1 of 2 nodes\n  node-b: 1 of 1 tunnels are not encrypted: to node-a"
    )
    assert (one.guard(), other.guard()) == ("audit", "audit")
    # Another command, elsewhere, goes on from there.
    other.agent.encrypts = True
    assert ovn.reach(Goal.ENABLE)
    assert (one.guard(), other.guard()) == ("enforce", "enforce")
    assert all("remote_name" in options for options in one.switch.ovn_tunnels().values())
    assert ovn.reach(Goal.ENABLE), "once more"

    assert ovn.reach(Goal.DISABLE)
    for chassis in ovn.chassis:
        chassis.follower.look()
        assert chassis.guard() == ""
        assert all(
            "remote_name" not in options for options in chassis.switch.ovn_tunnels().values()
        )
    steps = [line for line in ovn.said if not line.startswith("waiting")]
    assert steps == [
        "guards: audit",
        "IPsec: on",
        "guards: enforce",
        "enable: done",
        "enable: done",
        "guards: audit",
        "IPsec: off",
        "guards: in the mode of each node",
        "disable: done",
    ]


def test_chassis_that_is_dead_is_named_and_can_be_left_behind(ovn: Ovn) -> None:
    dead = ovn.chassis.pop()
    ovn.chassis[0].agent.encrypts = False
    assert not ovn.reach(Goal.ENABLE, tries=5)
    assert "node-b: has not reported" in ovn.said[-1]
    with pytest.raises(ClusterError, match="node-x: there is no such chassis"):
        ovn.reach(Goal.ENABLE, "node-x", tries=0)
    assert ovn.reach(Goal.ENABLE, "host-node-b")
    assert (ovn.chassis[0].guard(), dead.guard()) == ("enforce", "")


def test_report_survives_ovn_controllers_own_writes(ovn: Ovn) -> None:
    (one, _other) = ovn.chassis
    one.follower.look()
    (before,) = [node.report for node in ovn.southbound.nodes() if node.name == one.name]
    assert before is not None
    one.vsctl("set", "Open_vSwitch", ".", "external_ids:ovn-cms-options=enable-chassis-as-gw")
    synced = ["ovn-nbctl", f"--db={ovn.nb}", "--wait=hv", "--timeout=20", "sync"]
    subprocess.run(synced, check=True, timeout=30)
    (after,) = [node.report for node in ovn.southbound.nodes() if node.name == one.name]
    assert after == before


def test_database_that_is_away_or_another_one_is_a_named_error(ovn: Ovn, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="no such socket"):
        Northbound(f"unix:{tmp_path}/nowhere").stage()
    with pytest.raises(ClusterError, match="no database OVN_Northbound"):
        Northbound(ovn.sb).stage()
    first_is_away = f"unix:{tmp_path}/nowhere,{ovn.nb}"
    assert Northbound(first_is_away).stage() == (False, None)
    programs = Programs(tmp_path)
    try:
        schema = OVN_SCHEMAS / "ovn-sb.ovsschema"
        empty = programs.database(schema, tmp_path / "elsewhere", "ovnsb_db")
        with pytest.raises(ClusterError, match=f"{empty}: OVN_Southbound has no chassis"):
            read_cluster(Northbound(ovn.nb), Southbound(empty))
    finally:
        programs.close()
    with pytest.raises(ClusterError, match="there is no chassis node-x"):
        report = ovn.chassis[0].follower.look()
        ovn.southbound.write_report("node-x", report)
