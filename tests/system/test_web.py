"""The cluster view of three real nodes, and who may ask them over TLS.

The pages that the view serves are left in the results, for ``make test-web-lab`` to open in a
browser, which the machine lacks.
"""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.system.pairs import start_closed
from tools.lab.container import PROJECT, wait_until
from tools.lab.identity import CA_CRL, KEYS, install_identity
from tools.lab.lab import Lab
from tools.lab.netns import socket_in
from tools.lab.node import Node
from tools.lab.pki import Authority, Pair, key_pem

pytestmark = pytest.mark.system

WITHIN_S = 90.0
TLS_PORT = 9182
AGENT_PORT, VIEW_PORT = 9180, 9181
"""On loopback, as they are by default."""
LINK = re.compile(r'href="(/[^"#]*)"')


@dataclass
class Cluster:
    """Nodes a, b and c in a full mesh; between a and c nothing comes up."""

    a: Node
    b: Node
    c: Node
    authority: Authority
    identities: dict[str, Pair]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    authority = Authority.create()
    with Lab() as lab:
        nodes = lab.overlay("a", "b", "c")
        identities = {node.name: authority.issue(node.name) for node in nodes}
        for node in nodes:
            install_identity(node, identities[node.name], authority)
            node.start_pluto()
            start_closed(
                node,
                "--no-restart-ike-daemon",
                "--report-status",
                f"--status-tls={node.ipv4}:{TLS_PORT}",
                f"--http=127.0.0.1:{AGENT_PORT}",
            )
        for one in nodes:
            for other in nodes:
                # a takes the peer at c's address for somebody else, so it refuses c.
                wrong = (one.name, other.name) == ("a", "c")
                name = "elsewhere" if wrong else other.name
                if one is not other:
                    one.add_tunnel(f"tun-{other.name}", other.ipv4, remote_name=name)
        a, b, c = nodes
        yield Cluster(a, b, c, authority, identities)


def row_word(node: Node, port: str) -> str:
    """What ``ovs-vsctl list interface`` shows as ipsec_status; empty when it shows none."""
    told = node.vsctl("--format=json", "--columns=external_ids", "list", "interface", port)
    ids = dict(json.loads(told)["data"][0][0][1])
    return str(ids.get("ipsec_status", ""))


def _says(node: Node, port: str, words: tuple[str, ...]) -> bool:
    return row_word(node, port) in words


def test_rows_of_real_agents_say_what_is_encrypted_and_why_not(cluster: Cluster) -> None:
    expected = {
        (cluster.a, "tun-b"): ("encrypted",),
        (cluster.b, "tun-a"): ("encrypted",),
        (cluster.b, "tun-c"): ("encrypted",),
        (cluster.c, "tun-b"): ("encrypted",),
        (cluster.a, "tun-c"): ("down: peer-name-mismatch", "down: rejected-by-peer"),
        (cluster.c, "tun-a"): ("down: rejected-by-peer", "down: peer-not-authenticated"),
    }
    for (node, port), words in expected.items():
        said = partial(_says, node, port, words)
        wait_until(said, WITHIN_S, f"{node.name}: {port} is one of {words}", interval_s=1)


def test_peer_that_refuses_makes_the_node_unready_and_nobody_else(cluster: Cluster) -> None:
    # pluto forgets such an IKE SA at once, so that hardly a look sees it: its log tells.
    refuses = "1 tunnel answers IKE and is not encrypted: tun-c"
    wait_until(
        lambda: refuses in _fetch(cluster.a, AGENT_PORT, "/readyz")["body"],
        WITHIN_S,
        "a says that c answers",
        interval_s=1,
    )
    assert _fetch(cluster.a, AGENT_PORT, "/readyz")["status"] == 503
    ready = _fetch(cluster.b, AGENT_PORT, "/readyz")
    assert ready["status"] == 200, ready["body"]


def test_view_of_real_nodes_is_served_and_its_pages_are_kept(cluster: Cluster) -> None:
    view = cluster.b
    argv = [sys.executable, "-m", "ovn_ipsec.cli", "web", "--period=2", f"--peers={TLS_PORT}"]
    argv += ["--database=unix:/run/openvswitch/db.sock"]
    with view.path("/var/log/openvswitch/web.log").open("a") as log:
        process = view.popen(argv, stdout=log, environment={"PYTHONPATH": str(PROJECT)})
    try:
        wait_until(lambda: _settled(view), WITHIN_S, "the view shows three nodes", interval_s=1)
        pages = _crawl(view)
    finally:
        process.terminate()
        process.wait(30)
    told = json.loads(pages["/cluster.json"]["body"])
    assert [node["name"] for node in told["nodes"]] == ["a", "b", "c"]
    assert all(node["certificate_until"] and node["guard"] == "enforce" for node in told["nodes"])
    # A pair is linked from both of its places in the matrix.
    assert sum(path.startswith("/pair/") for path in pages) == 6
    assert sum(path.startswith("/node/") for path in pages) == 3
    target = Path(os.environ.get("LAB_RESULTS_DIRECTORY", "/results"), "cluster-pages.json")
    target.write_text(json.dumps(pages))


def _settled(view: Node) -> bool:
    try:
        cluster = json.loads(_fetch(view, VIEW_PORT, "/cluster.json")["body"])
    except OSError:
        return False
    states = {"".join(pair["nodes"]): pair["state"] for pair in cluster["pairs"]}
    return states == {"ab": "encrypted", "bc": "encrypted", "ac": "down"} and all(
        row["cause"]
        for pair in cluster["pairs"]
        for rows in pair["tunnels"]
        for row in rows
        if pair["state"] == "down"
    )


def _crawl(view: Node) -> dict[str, dict[str, Any]]:
    """Every page that a link leads to, from the first one on."""
    pages: dict[str, dict[str, Any]] = {}
    todo = ["/", "/cluster.json"]
    while todo:
        path = todo.pop()
        if path not in pages:
            pages[path] = _fetch(view, VIEW_PORT, path)
            todo += LINK.findall(pages[path]["body"])
    assert all(page["status"] == 200 for page in pages.values())
    return pages


def _fetch(node: Node, port: int, path: str) -> dict[str, Any]:
    """A page as it is on the wire. OSError."""
    with socket_in(node.netns, socket.AF_INET, socket.SOCK_STREAM) as plain:
        plain.settimeout(20)
        plain.connect(("127.0.0.1", port))
        plain.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        head, _, body = _read(plain).partition(b"\r\n\r\n")
    status, *headers = head.decode().split("\r\n")
    named = dict(line.split(": ", 1) for line in headers)
    return {"status": int(status.split()[1]), "headers": named, "body": body.decode()}


def _read(connection: socket.socket) -> bytes:
    data = b""
    while chunk := connection.recv(1 << 16):
        data += chunk
    return data


def ask_tls(cluster: Cluster, asks: Node, told: Node, pair: Pair | None, path: str) -> bytes:
    """All that a node's TLS port says to a client of another node's; empty: nothing at all.

    ``pair``: the client's certificate and key, which lie beside the client's own.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=cluster.authority.pem.decode())
    if pair is not None:
        asks.write_file(f"{KEYS}/client-key.pem", key_pem(pair.key).decode(), 0o600)
        asks.write_file(f"{KEYS}/client.pem", pair.pem.decode())
        certificate, key = asks.path(f"{KEYS}/client.pem"), asks.path(f"{KEYS}/client-key.pem")
        context.load_cert_chain(certificate, key)
    plain = socket_in(asks.netns, socket.AF_INET, socket.SOCK_STREAM)
    plain.settimeout(20)
    plain.connect((told.ipv4, TLS_PORT))
    with context.wrap_socket(plain) as secured:
        try:
            secured.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            return _read(secured)
        except (ssl.SSLError, ConnectionError):
            return b""


def test_status_port_answers_nodes_of_the_authority_and_tells_others_nothing(
    cluster: Cluster,
) -> None:
    a, c = cluster.a, cluster.c
    stranger = Authority.create("another CA").issue("c")
    status = ask_tls(cluster, c, a, cluster.identities["c"], "/status")
    assert b" 200 " in status.splitlines()[0]
    tunnels = json.loads(status.partition(b"\r\n\r\n")[2])["tunnels"]
    assert [tunnel["name"] for tunnel in tunnels] == ["tun-b", "tun-c"]
    metrics = ask_tls(cluster, c, a, cluster.identities["c"], "/metrics")
    assert b'ovn_ipsec_tunnels{state="encrypted"} 1' in metrics
    for path in ("/readyz", "/livez", "/"):
        page = ask_tls(cluster, c, a, cluster.identities["c"], path)
        assert b" 404 " in page.splitlines()[0]
    for path in ("/status", "/metrics"):
        assert ask_tls(cluster, c, a, None, path) == b""
        assert ask_tls(cluster, c, a, stranger, path) == b""


def test_status_port_tells_a_revoked_node_nothing(cluster: Cluster) -> None:
    a, b, c = cluster.a, cluster.b, cluster.c
    a.write_file(CA_CRL, cluster.authority.crl(denied=["c"]).decode())
    a.vsctl("--no-wait", "set", "Open_vSwitch", ".", f"other_config:ca_crl={CA_CRL}")
    wait_until(
        lambda: ask_tls(cluster, c, a, cluster.identities["c"], "/status") == b"",
        WITHIN_S,
        "the revoked node is told nothing",
        interval_s=1,
    )
    assert ask_tls(cluster, c, a, cluster.identities["c"], "/metrics") == b""
    assert b" 200 " in ask_tls(cluster, b, a, cluster.identities["b"], "/status")
    # Others, who are not told, still answer it.
    assert b" 200 " in ask_tls(cluster, c, b, cluster.identities["c"], "/status")


def test_agent_that_is_told_to_end_takes_its_words_out_of_the_rows(cluster: Cluster) -> None:
    assert row_word(cluster.b, "tun-a") == "encrypted"
    cluster.b.appctl("exit", "--no-cleanup")
    for port in ("tun-a", "tun-c"):
        gone = partial(_says, cluster.b, port, ("",))
        wait_until(gone, WITHIN_S, f"{port} without a word", interval_s=1)
