"""Many nodes renew at the same time: how long each waits for its answer.

``python -m tools.bench.est_renewals``: a server process of its own, and nodes that are certified
before the clock starts; each has a TLS connection of its own, spread evenly over the time.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ca import office, roots
from ca.cli import open_desk, wall_clock
from ca.csr import KeyKind
from ca.desk import LocalDesk
from ca.files import RealFiles
from ca.requests import ByOperator
from ca.settings import CaSettings

GOAL_P99_S = 1.0
_NAME = "localhost"
_PATH = "/.well-known/est/simplereenroll"


@dataclass(frozen=True, slots=True)
class Node:
    """A certified node with its next request ready."""

    context: ssl.SSLContext
    body: bytes


def main() -> int:
    """Print latencies; 1 when a renewal was lost or the goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--key", type=KeyKind, choices=list(KeyKind), default=KeyKind.RSA_3072)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        nodes = _certified(directory, flags.count, flags.key)
        port = _free_port()
        server = _serve(directory / "ca", port)
        try:
            begin = time.monotonic()
            with ThreadPoolExecutor(flags.threads) as pool:
                moments = [begin + flags.seconds * n / flags.count for n in range(flags.count)]
                results = list(pool.map(lambda n, at: _renew(n, at, port), nodes, moments))
        finally:
            server.terminate()
            server.wait(timeout=20)
    return _report(results, flags.seconds)


def _report(results: list[tuple[str, float]], seconds: float) -> int:
    took = sorted(latency for _, latency in results)
    p99 = took[len(took) * 99 // 100]
    print(f"{len(took)} renewals in {seconds:.0f} s: {dict(Counter(what for what, _ in results))}")
    print(f"median {took[len(took) // 2]:.3f} s, p99 {p99:.3f} s, longest {took[-1]:.3f} s")
    return 0 if p99 < GOAL_P99_S and all(what == "200" for what, _ in results) else 1


def _certified(directory: Path, count: int, kind: KeyKind) -> list[Node]:
    """Nodes with certificates; making them is not measured."""
    settings = CaSettings(name="bench CA", key_kind=kind)
    roots.init_authority(
        RealFiles(), directory / "ca", settings, wall_clock(), office.random_serial
    )
    desk = open_desk(str(directory / "ca"))
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(lambda n: _node(desk, directory, n), range(count)))


def _node(desk: LocalDesk, directory: Path, number: int) -> Node:
    name = f"node-{number}"
    key = ec.generate_private_key(ec.SECP256R1())
    der = desk.sign(_request(name, key), ByOperator(name))
    file = directory / f"{name}.pem"
    file.write_bytes(
        x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
        + key.private_bytes(
            Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=b"".join(desk.bundle()))
    context.load_cert_chain(file)
    file.unlink()
    fresh = _request(name, ec.generate_private_key(ec.SECP256R1()))
    return Node(context, base64.encodebytes(fresh))


def _request(name: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _serve(state: Path, port: int) -> subprocess.Popen[bytes]:
    flags = [f"--state={state}", f"--name={_NAME}", "--address=127.0.0.1", f"--port={port}"]
    process = subprocess.Popen([sys.executable, "-m", "ca.cli", "serve", *flags])
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.1)


def _renew(node: Node, at: float, port: int) -> tuple[str, float]:
    """What came back, and how long after its moment."""
    time.sleep(max(0.0, at - time.monotonic()))
    connection = http.client.HTTPSConnection(_NAME, port, context=node.context, timeout=30)
    try:
        headers = {"Content-Type": "application/pkcs10"}
        connection.request("POST", _PATH, node.body, headers)
        response = connection.getresponse()
        response.read()
        what = str(response.status)
    except OSError as error:
        what = type(error).__name__
    finally:
        connection.close()
    return what, time.monotonic() - at


if __name__ == "__main__":
    sys.exit(main())
