"""Enrolment with the real programs: Open vSwitch's database server, and both command lines."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ovn_ipsec.errors import EnrolmentError
from ovn_ipsec.identity.ovsdb import NodeDatabase
from tests.contract.ovsdb_server import OvsdbServer
from tools.lab.container import wait_until

pytestmark = pytest.mark.contract

WITHIN_S = 30.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OvsdbServer]:
    (tmp_path / "ovsdb").mkdir()
    running = OvsdbServer(tmp_path / "ovsdb")
    running.start()
    yield running
    running.kill()


@pytest.fixture
def running(server: OvsdbServer) -> OvsdbServer:
    server.vsctl("init")
    server.vsctl("set", "open_vswitch", ".", "external_ids:system-id=node-a")
    server.vsctl("set", "open_vswitch", ".", "other_config:hw-offload=false")
    return server


def test_three_keys_are_set_together_and_all_others_stay(running: OvsdbServer) -> None:
    database = NodeDatabase(running.remote)
    assert database.read().external_ids == {"system-id": "node-a"}
    for number in (1, 2):
        values = {key: f"/g-{number}/{key}" for key in ("certificate", "private_key", "ca_cert")}
        database.set_other_config(values)
        assert database.read().other_config == values | {"hw-offload": "false"}


def test_keys_that_others_write_at_the_same_time_are_not_lost(running: OvsdbServer) -> None:
    database = NodeDatabase(running.remote)
    for number in range(10):
        running.vsctl("set", "open_vswitch", ".", f"other_config:other-{number}=x")
        database.set_other_config({"certificate": f"/c-{number}"})
    config = database.read().other_config
    assert {f"other-{number}" for number in range(10)} < set(config)
    assert config["certificate"] == "/c-9"


def test_no_connection_and_no_thread_stay_behind(running: OvsdbServer) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (names alone)

    database = NodeDatabase(running.remote)
    database.read()
    before = open_files()
    for _ in range(20):
        database.read()
    # The thread of the last connection may be about to close it.
    deadline = time.monotonic() + 5
    while open_files() > before + 1:
        assert time.monotonic() < deadline, "descriptors leak"
        time.sleep(0.05)


def test_database_that_is_not_set_up_absent_or_silent_is_a_named_error(
    server: OvsdbServer, tmp_path: Path
) -> None:
    with pytest.raises(EnrolmentError, match="not set up yet"):
        NodeDatabase(server.remote).read()
    with pytest.raises(EnrolmentError, match="no such socket"):
        NodeDatabase(f"unix:{tmp_path}/nowhere").read()
    os.kill(server.pid, signal.SIGSTOP)
    begin = time.monotonic()
    with pytest.raises(EnrolmentError, match="no answer in 1 s"):
        NodeDatabase(server.remote, 1).read()
    assert time.monotonic() - begin < 5
    os.kill(server.pid, signal.SIGCONT)


class Machine:
    """The authority's and the node's command lines, as people run them."""

    def __init__(self, directory: Path, database: OvsdbServer) -> None:
        self.state = directory / "ca"
        self.identity = directory / "identity"
        self.token_file = directory / "token"
        self.database = database
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]

    def ca(self, *argv: str) -> str:
        command = [sys.executable, "-m", "ca.cli", argv[0], f"--state={self.state}", *argv[1:]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout

    def serve(self) -> subprocess.Popen[bytes]:
        flags = [f"--state={self.state}", "--name=localhost", f"--port={self.port}"]
        process = subprocess.Popen([sys.executable, "-m", "ca.cli", "serve", *flags])
        deadline = time.monotonic() + 30
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return process
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)

    def enroll_command(self, *more: str) -> list[str]:
        flags = [f"--url=https://localhost:{self.port}", f"--directory={self.identity}"]
        flags += [f"--token-file={self.token_file}", "--key-type=p256", *more]
        return [sys.executable, "-m", "ovn_ipsec.cli", "enroll", self.database.remote, *flags]

    def named(self) -> dict[str, str]:
        return dict(NodeDatabase(self.database.remote).read().other_config)

    def certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(Path(self.named()["certificate"]).read_bytes())

    def deny_list(self) -> bytes:
        pem = Path(self.named()["ca_crl"]).read_bytes()
        return x509.load_pem_x509_crl(pem).public_bytes(Encoding.DER)


def ended(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(timeout=20)


def test_node_enrols_renews_and_survives_without_the_authority(
    running: OvsdbServer, tmp_path: Path
) -> None:
    machine = Machine(tmp_path, running)
    machine.ca("init", "--leaf-life=15s", "--key=p256")
    machine.token_file.touch(mode=0o600)
    machine.token_file.write_text(machine.ca("token", "node-a"))
    serving = machine.serve()
    try:
        command = machine.enroll_command("--once", "--timeout=30")
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert machine.token_file.read_text().split(".")[-2] not in done.stderr
        first = machine.certificate()

        keeping = subprocess.Popen(machine.enroll_command())
        wait_until(lambda: machine.certificate() != first, WITHIN_S, "the renewal")
        assert machine.certificate().subject == first.subject
        wait_until(lambda: "ca_crl" in machine.named(), WITHIN_S, "the deny-list")
        machine.ca("token", "node-b")
        machine.ca("revoke", "node-b")
        wait_until(
            lambda: b"node-b" in machine.deny_list(), WITHIN_S, "the revocation is heard of"
        )
        assert ended(keeping) == 0, "also while an answer is waited for"
        left = [path.name for path in machine.identity.glob("generation-*")]
        assert len(left) == 2
    finally:
        assert ended(serving) == 0
    before = machine.named()
    command = machine.enroll_command("--once", "--timeout=1")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "Connection refused" in done.stderr and machine.named() == before
