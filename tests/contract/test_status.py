"""A whole agent with a real pluto, OVSDB and nftables, asked why its tunnel is not up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.ovsdb_server import OvsdbServer
from tests.contract.two_plutos import Pluto, TwoPlutos

pytestmark = pytest.mark.contract

SECRET = "a key that nobody may see"
HTTP = "127.0.0.1:9180"


class Agent:
    """``ovn-ipsec agent`` in the network namespace of a pluto, its log as JSON."""

    def __init__(self, pluto: Pluto, directory: Path, database: OvsdbServer) -> None:
        self.rundir = directory / "rundir"
        self.rundir.mkdir()
        self.log = directory / "agent.log"
        self.enter = pluto.enter
        self.database = database
        self._environment = os.environ | {"OVS_RUNDIR": str(self.rundir)}
        etc = pluto.directory
        (etc / "ipsec.secrets").write_text(f"include {etc}/ovn.secrets\n")
        flags = ["--no-restart-ike-daemon", "--log-format=json", f"--http={HTTP}"]
        flags += [f"--ipsec-ctl={pluto.run_directory / 'pluto.ctl'}"]
        flags += [f"--ipsec-d={pluto.nss_directory}", f"--ipsec-secrets={etc}/ovn.secrets"]
        flags += [f"--root-ipsec-conf={etc}/ipsec.conf", f"--ipsec-conf={etc}/ovn.conf"]
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [*self._argv("agent"), *flags, f"unix:{directory}/db.sock"],
                env=self._environment,
                stderr=log,
            )

    def _argv(self, command: str) -> list[str]:
        return [*self.enter, sys.executable, "-m", "ovn_ipsec.cli", command]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Another command of ``ovn-ipsec`` on the same node."""
        return subprocess.run(
            [*self._argv(words[0]), *words[1:]],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def get(self, path: str) -> str:
        """A page of its HTTP server."""
        code = (
            f"import urllib.request as r; print(r.urlopen('http://{HTTP}{path}').read().decode())"
        )
        return subprocess.run(
            [*self.enter, sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    database = OvsdbServer(tmp_path)
    database.start()
    with TwoPlutos(tmp_path) as two:
        for end in two.ends:
            end.nss_directory.mkdir()
            argv = ["ipsec", "initnss", "--nssdir", str(end.nss_directory)]
            subprocess.run(argv, check=True, capture_output=True)
            end.start()
        started = Agent(two.left, tmp_path, database)
        database.vsctl("init", "--", "add-br", "br0", "--", "add-port", "br0", "tun-b")
        options = [f'options:psk="{SECRET}"', f"options:remote_ip={two.right.address}"]
        database.vsctl("set", "interface", "tun-b", "type=geneve", *options)
        try:
            yield started
        finally:
            started.close()
            database.kill()


def await_cause(agent: Agent, *codes: str) -> dict[str, Any]:
    """The JSON of status as soon as the tunnel has one of these causes."""
    deadline = time.monotonic() + 40
    while True:
        done = agent.run("status", "--json", "--cached")
        told: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
        causes = [tunnel["cause"] or {} for tunnel in told.get("tunnels", ())]
        if [cause for cause in causes if cause.get("code") in codes]:
            assert done.returncode == 3
            return told
        assert time.monotonic() < deadline, (done, agent.log.read_text()[-3000:])
        time.sleep(0.3)


def test_peer_without_connection_is_told_everywhere_and_the_key_nowhere(
    agent: Agent, tmp_path: Path
) -> None:
    told = await_cause(agent, "no-proposal-chosen")
    assert told["node"]["log_problem"] is None
    table = agent.run("status")
    assert table.returncode == 3
    assert "tun-b: the peer has no connection for this node" in table.stdout
    assert "0 of 1 tunnels are encrypted" in table.stdout
    assert 'ovn_ipsec_tunnels_not_up{cause="no-proposal-chosen"} 1.0' in agent.get("/metrics")
    lines = [json.loads(line) for line in agent.log.read_text().splitlines()]
    events = [(line.get("event"), line.get("cause")) for line in lines]
    assert ("tunnel-cause", "no-proposal-chosen") in events
    proof = agent.run("verify", "--json", "--seconds=1")
    checks = {check["name"]: check["ok"] for check in json.loads(proof.stdout)["checks"]}
    assert proof.returncode == 3
    assert checks == {
        "guard": True,
        "tunnel tun-b": False,
        "nothing leaves in clear": True,
        "nothing comes in clear": True,
    }
    bundle = tmp_path / "bundle.tar.gz"
    assert agent.run("support-bundle", f"--output={bundle}").returncode == 0
    unpacked = subprocess.run(["tar", "-xzOf", bundle], capture_output=True, check=True).stdout
    everything = json.dumps(told) + table.stdout + agent.log.read_text() + unpacked.decode()
    assert SECRET not in everything and SECRET.encode().hex() not in everything


SEND = """
import contextlib, socket, sys, time
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(600):
    with contextlib.suppress(PermissionError):  # the guard is closed to it yet
        out.sendto(b"geneve", (sys.argv[1], 6081))
    time.sleep(0.05)
"""


def test_node_whose_tunnels_are_plain_by_design_does_not_pass_for_an_encrypted_one(
    agent: Agent,
) -> None:
    peer = "10.90.0.2"
    agent.database.vsctl("remove", "interface", "tun-b", "options", "psk")
    sender = subprocess.Popen([*agent.enter, sys.executable, "-c", SEND, peer])
    try:
        deadline = time.monotonic() + 25
        while True:
            proof = agent.run("verify", "--json", "--seconds=1")
            told = json.loads(proof.stdout)["checks"] if proof.stdout else ()
            failed = {check["name"]: check["reason"] for check in told if not check["ok"]}
            if "tunnels without IPsec" in failed or time.monotonic() > deadline:
                break
    finally:
        sender.kill()
        sender.wait()
    assert proof.returncode == 3
    assert set(failed) == {"tunnels", "tunnels without IPsec", "nothing leaves in clear"}
    assert f"to {peer} (" in failed["tunnels without IPsec"]
    assert "in clear by rows without IPsec option" in failed["nothing leaves in clear"]


def test_agent_that_is_gone_is_told_by_exit_code(agent: Agent) -> None:
    await_cause(agent, "no-proposal-chosen")
    agent.close()
    done = agent.run("status", "--json")
    assert done.returncode == 4
    assert done.stdout == ""
