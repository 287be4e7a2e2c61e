"""The agent's health endpoints: the real agent, Open vSwitch's database server, no pluto."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.contract.ovsdb_server import OvsdbServer
from tools.lab.container import wait_until

pytestmark = pytest.mark.contract

WITHIN_S = 40.0
PORT = 9180
ASK = """
import sys, urllib.request, urllib.error
try:
    answer = urllib.request.urlopen(sys.argv[1], timeout=5)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status, answer.read().decode())
"""


@dataclass
class Node:
    """A network namespace with an agent, which must not touch the machine's own nftables."""

    database: OvsdbServer
    holder: subprocess.Popen[bytes]
    agent: subprocess.Popen[bytes]

    def get(self, path: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{PORT}{path}"
        command = [*entering(self.holder), sys.executable, "-c", ASK, url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        status, _, body = done.stdout.partition(" ")
        return int(status or 0), body

    def ready(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.get("/readyz?format=json")[1])
        return value


def entering(holder: subprocess.Popen[bytes]) -> list[str]:
    return ["nsenter", f"--net=/proc/{holder.pid}/ns/net"]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with contextlib.ExitStack() as stack:
        (tmp_path / "ovsdb").mkdir()
        database = OvsdbServer(tmp_path / "ovsdb")
        database.start()
        stack.callback(database.kill)
        database.vsctl("init")
        holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up; echo; exec sleep 600"],
            stdout=subprocess.PIPE,
        )
        stack.callback(holder.wait)
        stack.callback(holder.kill)
        assert holder.stdout is not None and holder.stdout.readline()
        root = tmp_path / "root"
        root.mkdir()
        command = [*entering(holder), sys.executable, "-m", "ovn_ipsec.cli", "agent"]
        command += [database.remote, f"--root-prefix={root}", f"--http=127.0.0.1:{PORT}"]
        command += ["--no-restart-ike-daemon", f"--ipsec-ctl={tmp_path}/pluto.ctl"]
        agent = subprocess.Popen(command, env=os.environ | {"OVS_RUNDIR": str(tmp_path)})
        stack.callback(agent.wait)
        stack.callback(agent.kill)
        started = Node(database, holder, agent)
        wait_until(lambda: started.get("/livez")[0] == 200, WITHIN_S, "the agent serves")
        yield started


def test_agent_without_pluto_is_alive_started_and_not_ready_and_says_why(node: Node) -> None:
    wait_until(lambda: node.get("/startupz")[0] == 200, WITHIN_S, "a complete look")
    status, text = node.get("/readyz")
    assert status == 503
    assert "reason: IKE daemon: not running\n" in text
    assert "guard: enforce\n" in text, "the guard stands without pluto"
    options = ["options:remote_ip=192.0.2.2", "options:remote_name=node-b"]
    row = ["--id=@i", "create", "interface", "name=tun", "type=geneve", *options]
    port = ["--id=@p", "create", "port", "name=tun", "interfaces=@i"]
    bridge = ["--id=@b", "create", "bridge", "name=br", "ports=@p"]
    switch = ["set", "open_vswitch", ".", "bridges=@b"]
    node.database.vsctl(*row, "--", *port, "--", *bridge, "--", *switch)
    wait_until(lambda: node.ready()["tunnels"]["wanted"] == 1, WITHIN_S, "the row is seen")
    reasons = " ".join(node.ready()["reasons"])
    assert "own certificate: no certificate: set other_config:certificate" in reasons
    assert "1 tunnel cannot be configured: tun (node-b, 192.0.2.2)" in reasons
    status, text = node.get("/status")
    assert status == 200 and json.loads(text)["tunnels"][0]["state"] == "INVALID"


def test_agent_whose_database_stalls_is_alive(node: Node) -> None:
    wait_until(lambda: node.get("/startupz")[0] == 200, WITHIN_S, "a complete look")
    os.kill(node.database.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: node.get("/livez")[1].startswith("alive"), WITHIN_S, "the loop moves")
        time.sleep(5)
        status, text = node.get("/livez")
        assert status == 200 and float(text.split(" ago")[0].split()[-2]) < 5
    finally:
        os.kill(node.database.pid, signal.SIGCONT)
