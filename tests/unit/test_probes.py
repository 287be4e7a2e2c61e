"""The health endpoints, over real connections."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from ovn_ipsec.commands.agent import serve_probes
from ovn_ipsec.errors import SettingsError
from ovn_ipsec.model.snapshot import Snapshot
from ovn_ipsec.settings import HttpAddress, ReadyWhen, Settings, parse_agent_arguments
from ovn_ipsec.status.listener import Listener
from ovn_ipsec.status.probes import LIVE_MARGIN_S, MAX_CLIENTS, Probes, ProbeServer
from tools.lab.container import wait_until


class Watched:
    def __init__(self) -> None:
        self.taken = Snapshot(time.monotonic(), datetime.now(UTC))
        self.progress_s = time.monotonic()

    def snapshot(self) -> Snapshot:
        return self.taken

    def want_fresh(self) -> None:
        pass

    def last_progress_s(self) -> float:
        return self.progress_s


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture
def server(watched: Watched) -> Iterator[ProbeServer]:
    running = ProbeServer("127.0.0.1", 0, Probes(watched, ReadyWhen.ANSWERING, 120))
    yield running
    running.close()


def get(server: ProbeServer, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_starting_node_is_alive_and_neither_started_nor_ready(server: ProbeServer) -> None:
    assert get(server, "/livez")[0] == 200
    assert get(server, "/startupz") == (
        503,
        "starting\nreason: not all sources have reported yet\n",
    )
    status, text = get(server, "/readyz")
    assert (status, text.splitlines()[0]) == (503, "not ready")
    status, text = get(server, "/readyz?format=json")
    assert status == 503 and json.loads(text)["ready"] is False
    status, text = get(server, "/status")
    assert status == 200 and json.loads(text)["tunnels"] == []
    assert get(server, "/secrets")[0] == 404
    assert get(server, "//[")[0] == 404


def test_loop_that_is_stuck_longer_than_any_program_may_take_is_dead(
    server: ProbeServer, watched: Watched
) -> None:
    watched.progress_s = time.monotonic() - 120
    assert get(server, "/livez")[0] == 200
    watched.progress_s = time.monotonic() - 120 - LIVE_MARGIN_S
    status, text = get(server, "/livez")
    assert status == 503 and text.startswith("stuck: the loop got on 180.")


def test_connections_that_are_held_open_do_not_keep_a_probe_out(server: ProbeServer) -> None:
    held = [
        socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(3 * MAX_CLIENTS)
    ]
    try:
        for _ in range(3):
            assert get(server, "/livez")[0] == 200
    finally:
        for each in held:
            each.close()


@pytest.mark.parametrize(("option", "flag"), [("http", "--http"), ("status_tls", "--status-tls")])
def test_port_that_is_taken_is_a_problem_that_names_the_option(
    server: ProbeServer, watched: Watched, option: str, flag: str
) -> None:
    at = HttpAddress("127.0.0.1", server.server_port)
    agent: Any = SimpleNamespace(node_files=lambda: None)  # never asked: the port comes first
    asked: Any = {option: at}
    (listener,) = serve_probes(agent, Settings("unix:x", **asked))
    assert (listener.problem or "").startswith(f"{flag} 127.0.0.1:{at.port}: cannot listen: ")
    listener.close()


def test_server_listens_when_the_port_is_free_again(watched: Watched) -> None:
    probes = Probes(watched, ReadyWhen.ANSWERING, 120)
    held = ProbeServer("127.0.0.1", 0, probes)
    made: list[ProbeServer] = []

    def make() -> ProbeServer:
        made.append(ProbeServer("127.0.0.1", held.server_port, probes))
        return made[-1]

    listener = Listener("--http x", make, retry_s=0.05)
    assert listener.problem and not made
    held.close()
    wait_until(lambda: listener.problem is None, 10, "the port")
    assert get(made[0], "/livez")[0] == 200
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        get(made[0], "/livez")


def test_listener_that_never_listened_ends_at_once(server: ProbeServer) -> None:
    def make() -> ProbeServer:
        return ProbeServer("127.0.0.1", server.server_port, server.probes)

    began = time.monotonic()
    Listener("--http x", make, retry_s=60).close()
    assert time.monotonic() - began < 5


def test_address_must_be_of_the_loopback_interface() -> None:
    def read(text: str) -> HttpAddress | None:
        return parse_agent_arguments(["unix:x", "--http", text], prog="agent")[0].http

    assert read("127.0.0.1:9180") == HttpAddress("127.0.0.1", 9180)
    assert read("[::1]:9180") == HttpAddress("::1", 9180)
    for address in ("0.0.0.0:9180", "192.0.2.1:9180", "[::]:9180"):
        with pytest.raises(SettingsError, match="is not a loopback address"):
            read(address)
    for text in (
        "9180",
        "localhost:9180",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:",
        ":9180",
    ):
        with pytest.raises(SettingsError, match="give ADDRESS:PORT"):
            read(text)
