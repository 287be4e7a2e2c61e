"""The control socket under clients that misbehave: nobody else waits, nothing dies."""

import json
import os
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ovn_ipsec.status import unixctl
from ovn_ipsec.status.serve import serve_control
from ovn_ipsec.status.unixctl import Call, Command, ControlServer
from tests.control_fake import FakeAgent, make_snapshot

PROMPT_S = 30.0
"""Far above what an answer takes, far below any time-out of the server."""


@pytest.fixture
def agent() -> FakeAgent:
    return FakeAgent()


@pytest.fixture
def path(agent: FakeAgent, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "agent.1.ctl"
    server = serve_control(path, agent, program="ovs-monitor-ipsec", refresh_timeout_s=30.0)
    try:
        yield path
    finally:
        server.close()


def connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(PROMPT_S)
    sock.connect(str(path))
    return sock


def request(method: str, *params: str, request_id: int = 0) -> bytes:
    return json.dumps({"id": request_id, "method": method, "params": params}).encode()


def receive(sock: socket.socket) -> dict[str, Any]:
    """The next reply; the beginning of one more may be lost."""
    data = b""
    while True:
        chunk = sock.recv(65536)
        if not chunk:
            raise EOFError(data)
        data += chunk
        try:
            value, _ = json.JSONDecoder().raw_decode(data.decode())
        except ValueError:  # not yet whole
            continue
        assert isinstance(value, dict)
        return value


def ask(path: Path, method: str, *params: str) -> dict[str, Any]:
    with connect(path) as sock:
        sock.sendall(request(method, *params))
        return receive(sock)


def dropped(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def test_socket_is_for_its_owner_alone_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "x.ctl"
    path.write_text("left behind by a killed agent")
    server = serve_control(path, FakeAgent(), program="p")
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    server.close()
    assert not path.exists()


def test_path_longer_than_a_socket_address_works(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    server = serve_control(directory / "x.ctl", FakeAgent(), program="p")
    link = tmp_path / "short"
    link.symlink_to(directory)
    try:
        assert ask(link / "x.ctl", "version")["error"] is None
    finally:
        server.close()


def test_queries_are_prompt_while_the_main_thread_is_busy_and_clients_hammer(
    path: Path, agent: FakeAgent
) -> None:
    agent.current = make_snapshot(300)
    slowest: list[float] = []

    def hammer() -> None:
        worst = 0.0
        for _ in range(10):
            began = time.monotonic()
            reply = ask(path, "tunnels/show")
            worst = max(worst, time.monotonic() - began)
            assert reply["result"].count("Interface name:") == 300
        slowest.append(worst)

    threads = [threading.Thread(target=hammer) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)  # the bulk apply
    for thread in threads:
        thread.join()
    assert len(slowest) == len(threads)
    assert max(slowest) < PROMPT_S
    assert agent.wanted == 80


def test_answers_go_before_other_work_where_that_is_allowed(path: Path) -> None:
    (thread,) = [each for each in threading.enumerate() if each.name == "unixctl"]
    assert thread.native_id is not None
    assert ask(path, "version")["error"] is None
    here = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    hurries = os.getpriority(os.PRIO_PROCESS, thread.native_id) < here
    done = subprocess.run(["nice", "-n", "-1", "true"], capture_output=True, check=True)
    assert hurries == (done.stderr == b""), "nice(1) complains where it may not"


def test_half_requests_of_fifty_clients_delay_nobody(path: Path) -> None:
    clients = [connect(path) for _ in range(50)]
    for client in clients:
        client.sendall(b'{"id": 0, "method": "tunn')
    assert ask(path, "version")["error"] is None
    for client in clients:
        client.sendall(b'els/show", "params": []}')
        assert "tun0" in receive(client)["result"]
        client.close()


def test_half_a_request_is_dropped_after_a_while(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unixctl, "STALL_S", 0.1)
    with connect(path) as sock:
        sock.settimeout(10)
        sock.sendall(b'{"id": 0')
        assert dropped(sock)
    assert ask(path, "version")["error"] is None


def test_huge_request_is_dropped_and_the_rest_answered(path: Path) -> None:
    with connect(path) as sock:
        with pytest.raises((ConnectionError, TimeoutError)):
            for _ in range(10_000):
                sock.sendall(b'{"id": 0, "method": "' + b"x" * 65536)
        assert ask(path, "version")["error"] is None


@pytest.mark.parametrize(
    "rubbish",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"[]",
        b"\xff\xff\xff\xff\xff",
        b'{"id": null, "method": "exit", "params": []}',
        b'{"id": 0, "method": "exit", "params": [1]}',
        b'{"id": 0, "method": "exit", "params": "--no-cleanup"}',
        b'{"id": 0, "method": ["exit"], "params": []}',
        b'{"id": 0, "a": ' + b"[" * 50_000,
        b'{"id": ' + b"9" * 50_000 + b', "method": "exit", "params": []}',
    ],
)
def test_rubbish_is_dropped_and_does_nothing(path: Path, agent: FakeAgent, rubbish: bytes) -> None:
    with connect(path) as sock:
        sock.sendall(rubbish)
        assert dropped(sock)
    assert ask(path, "version")["error"] is None
    assert agent.exits == []


def test_client_that_leaves_before_its_reply_hurts_nobody(path: Path, agent: FakeAgent) -> None:
    agent.current = make_snapshot(500)
    for _ in range(20):
        with connect(path) as sock:
            sock.sendall(request("tunnels/show"))
    with connect(path) as sock:
        sock.sendall(request("refresh"))
    agent.tick.set()
    assert ask(path, "refresh")["error"] is None


def test_client_that_does_not_read_its_reply_delays_nobody(path: Path, agent: FakeAgent) -> None:
    agent.current = make_snapshot(3000)
    with connect(path) as lazy:
        lazy.sendall(request("tunnels/show") * 20)
        assert ask(path, "version")["error"] is None
        assert receive(lazy)["result"].count("Interface name:") == 3000


def test_more_clients_than_fit_cost_the_idle_ones(path: Path) -> None:
    clients = [connect(path) for _ in range(unixctl.MAX_CLIENTS + 10)]
    assert ask(path, "version")["error"] is None
    assert dropped(clients[0])
    for client in clients:
        client.close()


def test_requests_sent_at_once_are_all_answered_in_order(path: Path) -> None:
    with connect(path) as sock:
        sock.sendall(b"".join(request("version", request_id=n) for n in range(1, 4)))
        seen: list[int] = []
        decoder, text = json.JSONDecoder(), ""
        while len(seen) < 3:
            text += sock.recv(65536).decode()
            while text:
                try:
                    value, end = decoder.raw_decode(text)
                except json.JSONDecodeError:
                    break
                seen.append(value["id"])
                text = text[end:]
        assert seen == [1, 2, 3]


def test_client_that_shuts_down_its_sending_side_still_gets_the_reply(
    path: Path, agent: FakeAgent
) -> None:
    with connect(path) as sock:
        sock.sendall(request("refresh"))
        sock.shutdown(socket.SHUT_WR)
        time.sleep(0.1)
        agent.tick.set()
        assert receive(sock)["error"] is None
        assert dropped(sock)


def test_refresh_waits_for_its_tick_while_others_are_answered(
    path: Path, agent: FakeAgent
) -> None:
    with connect(path) as first, connect(path) as second:
        first.sendall(request("refresh"))
        second.sendall(request("refresh"))
        assert "tun0" in ask(path, "tunnels/show")["result"]
        first.settimeout(0.2)
        with pytest.raises(TimeoutError):
            first.recv(1)
        first.settimeout(PROMPT_S)
        agent.tick.set()
        assert receive(first)["error"] is None
        assert receive(second)["error"] is None


def test_refresh_that_takes_too_long_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.ctl"
    server = serve_control(path, FakeAgent(), program="p", refresh_timeout_s=0.1)
    try:
        assert "not done within 0.1 s" in ask(path, "refresh")["error"]
    finally:
        server.close()


def test_command_that_raises_is_an_error_and_the_server_lives(tmp_path: Path) -> None:
    def broken(call: Call, argv: list[str]) -> None:
        raise RuntimeError("a bug")

    def good(call: Call, argv: list[str]) -> None:
        call.reply("fine")

    path = tmp_path / "x.ctl"
    commands = {"broken": Command("", 0, 0, broken), "good": Command("", 0, 0, good)}
    server = ControlServer(path, commands)
    server.start()
    try:
        assert "failed inside the agent" in ask(path, "broken")["error"]
        assert ask(path, "good")["result"] == "fine\n"
    finally:
        server.close()


def test_bad_options_do_not_end_the_agent(path: Path) -> None:
    assert "--format" in ask(path, "set-options", "--format", "xml")["error"]
    assert "--format" in ask(path, "set-options", "--help")["error"]
    assert ask(path, "version")["error"] is None


def test_unknown_state_of_the_ike_daemon_is_an_error_never_an_empty_dict(
    path: Path, agent: FakeAgent
) -> None:
    agent.current = make_snapshot(ike_known=False)
    for command in ("ipsec/status", "xfrm/policies", "xfrm/state"):
        assert "unknown" in ask(path, command)["error"]
