"""The cluster view over real connections: agents' endpoints, mutual TLS, the page's server."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ovn_ipsec.errors import OvnIpsecError, SettingsError
from ovn_ipsec.model.conns import OwnCertificate
from ovn_ipsec.model.snapshot import Snapshot
from ovn_ipsec.settings import HttpAddress, ReadyWhen
from ovn_ipsec.status.probes import Probes, ProbeServer
from ovn_ipsec.status.tls import NodeFiles, TlsProbeServer
from ovn_ipsec.web.collect import Collector, UnansweredError, ask, client_context
from ovn_ipsec.web.command import ALL_ENCRYPTED, NOT_ALL, UNREACHABLE, run_once, run_web
from ovn_ipsec.web.model import PairState, Standing
from ovn_ipsec.web.serve import POLICY, WebServer
from ovn_ipsec.web.settings import NodeKeys, Target, WebSettings, parse_web_arguments
from tests.control_fake import make_snapshot
from tests.simulated import name, tunnel
from tools.lab.pki import Authority, KeyType

HERE = "127.0.0.1"


class Watched:
    def __init__(self, own: int, *up: int) -> None:
        self.taken: Snapshot = replace(
            make_snapshot(0),
            tunnels=tuple(tunnel(own, peer) for peer in up),
            certificate=OwnCertificate(name(own), datetime(2100, 1, 1, tzinfo=UTC)),
        )

    def snapshot(self) -> Snapshot:
        return self.taken

    def want_fresh(self) -> None:
        pass

    def last_progress_s(self) -> float:
        return time.monotonic()


def clock() -> datetime:
    return datetime.now(UTC)


def probes(own: int, *up: int) -> Probes:
    return Probes(Watched(own, *up), ReadyWhen.ANSWERING, 120)


def plain(server: ProbeServer) -> Target:
    return Target("", HttpAddress(HERE, server.server_port))


@contextmanager
def three_agents() -> Iterator[list[ProbeServer]]:
    with ExitStack() as stack:
        servers = [ProbeServer(HERE, 0, probes(own, *({0, 1, 2} - {own}))) for own in range(3)]
        for server in servers:
            stack.callback(server.close)
        yield servers


@pytest.fixture
def agents() -> Iterator[list[ProbeServer]]:
    with three_agents() as servers:
        yield servers


class Pki:
    """Files of nodes, each with a certificate of one authority."""

    def __init__(self, directory: Path, authority: Authority) -> None:
        self._directory = directory
        self._authority = authority
        self.ca_cert = directory / "ca.pem"
        self.ca_cert.write_bytes(authority.pem)

    def keys(self, node: str) -> NodeKeys:
        certificate, key = (self._directory / f"{node}.{kind}" for kind in ("crt", "key"))
        self._authority.issue(node, kind=KeyType.P256).write(certificate, key)
        return NodeKeys(key, certificate, self.ca_cert)

    def files(self, node: str) -> NodeFiles:
        keys = self.keys(node)
        return NodeFiles(str(keys.certificate), str(keys.private_key), str(keys.ca_cert))


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path, Authority.create(kind=KeyType.P256))


@contextmanager
def remote(files: NodeFiles | None, own: int = 1) -> Iterator[TlsProbeServer]:
    server = TlsProbeServer(HERE, 0, probes(own, 0), lambda: files)
    try:
        yield server
    finally:
        server.close()


def at(server: ProbeServer, node: str) -> Target:
    return Target(node, HttpAddress(HERE, server.server_port))


def test_three_agents_make_a_matrix_and_one_that_dies_stays_as_it_was(
    agents: list[ProbeServer],
) -> None:
    collector = Collector([plain(agent) for agent in agents], None, None, clock)
    collector.round()
    cluster = collector.cluster()
    assert [node.name for node in cluster.nodes] == ["node-0", "node-1", "node-2"]
    assert set(cluster.counts().values()) == {0, 3} and cluster.all_encrypted
    agents[2].close()
    collector.round()
    cluster = collector.cluster()
    assert cluster.nodes[2].standing is Standing.SILENT
    assert cluster.nodes[2].view is not None and cluster.nodes[2].answered_at is not None
    assert cluster.state(0, 1) is PairState.ENCRYPTED
    assert cluster.state(0, 2) is PairState.ONE_SIDED


def test_once_prints_and_tells_by_its_exit_code(agents: list[ProbeServer]) -> None:
    targets = tuple(plain(agent) for agent in agents)
    listen = HttpAddress(HERE, 1)
    settings = WebSettings(listen, targets, None, None, 30, once=True, json=False)
    out = io.StringIO()
    assert run_once(settings, clock, out) == ALL_ENCRYPTED
    assert "3 of 3 pairs of nodes are encrypted; 3 of 3 nodes answer" in out.getvalue()
    agents[0].close()
    out = io.StringIO()
    assert run_once(replace(settings, json=True), clock, out) == NOT_ALL
    assert json.loads(out.getvalue())["all_encrypted"] is False
    assert run_once(replace(settings, targets=targets[:1]), clock, io.StringIO()) == UNREACHABLE


def test_node_is_asked_over_mutual_tls_and_only_for_what_others_may_know(pki: Pki) -> None:
    with remote(pki.files("node-1")) as server:
        context = client_context(pki.keys("node-0"))
        view = ask(at(server, "NODE-1"), context)
        assert [row.peer for row in view.overview.rows] == ["node-0"]
        for path, expected in (("/metrics", 200), ("/readyz", 404), ("/livez", 404)):
            connection = http.client.HTTPSConnection(HERE, server.server_port, context=context)
            connection.request("GET", path)
            assert connection.getresponse().status == expected
            connection.close()


def test_node_under_another_name_or_of_another_authority_is_not_believed(
    pki: Pki, tmp_path: Path
) -> None:
    context = client_context(pki.keys("node-0"))
    with remote(pki.files("node-1")) as server, pytest.raises(UnansweredError) as refused:
        ask(at(server, "node-2"), context)
    assert str(refused.value) == "its certificate is of node-1"
    (tmp_path / "other").mkdir()
    foreign = Pki(tmp_path / "other", Authority.create("another", kind=KeyType.P256))
    with remote(foreign.files("node-1")) as server, pytest.raises(UnansweredError) as refused:
        ask(at(server, "node-1"), context)
    assert "is not trusted" in str(refused.value)


def test_client_without_a_good_certificate_gets_nothing(pki: Pki, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    foreign = Pki(tmp_path / "other", Authority.create("another", kind=KeyType.P256))
    files = pki.files("node-1")
    certificate = pki.keys("node-9")
    stranger = replace(foreign.keys("x"), ca_cert=pki.ca_cert)
    with remote(replace(files, denied=frozenset({"node-9"}))) as server:
        for keys in (stranger, certificate):
            with pytest.raises(UnansweredError):
                ask(at(server, "node-1"), client_context(keys))
        bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        bare.check_hostname = False
        bare.load_verify_locations(pki.ca_cert)
        with pytest.raises(UnansweredError):
            ask(at(server, "node-1"), bare)
        old = client_context(pki.keys("node-0"))
        old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(UnansweredError):
            ask(at(server, "node-1"), old)
        # Whom nobody denied still gets an answer, from the same server.
        ask(at(server, "node-1"), client_context(pki.keys("node-0")))


def test_renewed_certificate_is_shown_without_a_restart(pki: Pki) -> None:
    context = client_context(pki.keys("node-0"))

    def serial(server: TlsProbeServer) -> object:
        bare = socket.create_connection((HERE, server.server_port))
        with bare, context.wrap_socket(bare) as secured:
            return (secured.getpeercert() or {})["serialNumber"]

    with remote(pki.files("node-1")) as server:
        before = serial(server)
        pki.keys("node-1")
        assert serial(server) != before


def test_node_without_certificate_and_connection_held_open_keep_nobody_out(pki: Pki) -> None:
    context = client_context(pki.keys("node-0"))
    with remote(None) as server, pytest.raises(UnansweredError):
        ask(at(server, "node-1"), context)
    with remote(pki.files("node-1")) as server, ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(socket.create_connection((HERE, server.server_port)))
        ask(at(server, "node-1"), context)


def test_status_may_be_served_where_the_address_is_yet_to_come() -> None:
    TlsProbeServer("192.0.2.77", 0, probes(1), lambda: None).close()


def test_peers_of_the_local_agent_are_asked_and_those_of_others_are_not(
    pki: Pki, agents: list[ProbeServer]
) -> None:
    """Peers are at 192.0.0.x, where nobody is: that they are asked is seen by their error."""
    keys = pki.keys("node-0")
    collector = Collector([plain(agents[0])], 1, replace(keys, ca_cert=Path("/absent")), clock)
    collector.round()
    standings = {node.name: node.standing for node in collector.cluster().nodes}
    assert standings["node-1"] is standings["node-2"] is Standing.SILENT
    with remote(pki.files("node-1")) as server:
        collector = Collector([at(server, "node-1")], 1, keys, clock)
        collector.round()
        (peer,) = [node for node in collector.cluster().nodes if node.name == "node-0"]
        assert peer.standing is Standing.UNASKED


def serve_once(*chunks: bytes) -> Target:
    listener = socket.create_server((HERE, 0))

    def serve() -> None:
        with listener, listener.accept()[0] as client:
            client.recv(65536)
            with contextlib.suppress(ConnectionError):  # whoever asks may have heard enough
                for chunk in chunks:
                    client.sendall(chunk)

    threading.Thread(target=serve, daemon=True).start()
    return Target("", HttpAddress(HERE, listener.getsockname()[1]))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"SSH-2.0-x\r\n", "answers as another program does"),
        (b"HTTP/1.0 503 no\r\n\r\n", "it answers 503"),
        (b"HTTP/1.0 200 OK\r\n\r\n{", "its answer is no JSON"),
        (b"HTTP/1.0 200 OK\r\n\r\n{}", "its owner answers as another program does"),
        (b"HTTP/1.0 200 OK\r\n\r\n" + b"[" * 200_000, "no JSON|recursion"),
        (b"HTTP/1.0 200 OK\r\n\r\n" + b" " * (17 << 20), "has over"),
    ],
)
def test_nonsense_is_told_as_such(answer: bytes, reason: str) -> None:
    with pytest.raises(UnansweredError, match=reason):
        ask(serve_once(answer), None)


@pytest.fixture(scope="module")
def page() -> Iterator[WebServer]:
    with three_agents() as agents:
        collector = Collector([plain(agent) for agent in agents], None, None, clock)
        collector.round()
    server = WebServer(HttpAddress(HERE, 0), collector)
    thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def get(server: WebServer, path: str, host: str = "localhost") -> tuple[int, str, str]:
    connection = http.client.HTTPConnection(HERE, server.server_port, timeout=5)
    try:
        connection.request("GET", path, headers={"Host": host})
        response = connection.getresponse()
        policy = response.headers["Content-Security-Policy"]
        return response.status, policy, response.read().decode()
    finally:
        connection.close()


def test_pages_lead_to_one_another_under_a_strict_policy(page: WebServer) -> None:
    status, policy, front = get(page, "/")
    assert (status, policy) == (200, POLICY)
    assert "✓ 3 of 3 pairs of nodes are encrypted" in front
    keys = [node.key for node in page.collector.cluster().nodes]
    for path in (f"/node/{keys[0]}", f"/pair/{keys[0]}/{keys[2]}", "/style.css", "/cluster.json"):
        assert get(page, path)[:2] == (200, POLICY)
    for path in (f"/pair/{keys[0]}/{keys[0]}", f"/pair/{keys[0]}", "/node/" + "0" * 16, "//["):
        assert get(page, path)[0] == 404


def test_page_is_not_told_to_whom_points_a_name_at_it(page: WebServer) -> None:
    assert get(page, "/", "evil.example:9181")[0] == 421
    assert get(page, "/", "[::1]:9181")[0] == get(page, "/", "127.0.0.1:9181")[0] == 200


def test_port_of_the_page_that_is_taken_is_a_named_error(page: WebServer) -> None:
    listen = HttpAddress(HERE, page.server_port)
    settings = WebSettings(listen, (), None, None, 30, once=False, json=False)
    with pytest.raises(OvnIpsecError, match=f"{page.server_port}: cannot listen"):
        run_web(settings, clock, threading.Event())


def test_all_that_is_wrong_on_the_command_line_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as error:
        parse_web_arguments(
            [
                "--listen",
                "0.0.0.0:1",
                "--agent",
                "192.0.2.1:2",
                "--node",
                "192.0.2.1:3",
                "--peers",
                "x",
                "--period",
                "0",
                "--json",
            ]
        )
    lines = str(error.value).splitlines()
    assert [line.split(":")[0].split(" ")[0] for line in lines] == [
        "--listen",
        "--agent",
        "--node",
        "--peers",
        "--period",
        "--node",
        "--json",
    ]
    settings = parse_web_arguments(
        [
            "--node",
            "a=b=[2001:db8::1]:9182",
            "--private-key",
            "k",
            "--certificate",
            "c",
            "--ca-cert",
            "r",
        ]
    )
    assert settings.targets[1] == Target("a=b", HttpAddress("2001:db8::1", 9182))
