"""Many nodes ask at the same time: how long each waits for its certificate.

``python -m tools.bench.kubernetes_requests``: a real API server and one signer process; every
node's CertificateSigningRequest is made as fast as the threads can, and one watch tells when each
has its certificate.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tools.kubernetes.client import Client
from tools.kubernetes.control_plane import ControlPlane, Identity, service_account

GOAL_P99_S = 5.0
_START_S = 60.0
_CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
_MANIFESTS = Path(__file__).parents[2] / "manifests" / "base" / "signer"
_SIGNER = service_account("ovn-ipsec", "ovn-ipsec-signer")
_ANNOTATION = "k8s.ovn.org/node-chassis-id"
_LONGEST_S = 120.0


def main() -> int:
    """Print latencies; 1 when a request was lost or the goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--threads", type=int, default=16)
    flags = parser.parse_args()
    names = [f"worker-{number}" for number in range(flags.count)]
    identities = [Identity(f"system:ovn-node:{name}", ("system:masters",)) for name in names]
    with (
        tempfile.TemporaryDirectory() as directory,
        ControlPlane(Path(directory), [_SIGNER, *identities]) as plane,
    ):
        _prepare(plane.client(), names)
        signer = _signer(plane)
        try:
            clients = [plane.client(identity) for identity in identities]
            took = _run(plane.client(), clients, names, flags.threads)
        finally:
            signer.kill()
            signer.wait()
    return _report(took, flags.count)


def _report(took: list[float], count: int) -> int:
    took = sorted(took)
    if len(took) < count:
        print(f"FAIL: {count - len(took)} of {count} requests have no certificate")
        return 1
    p99 = took[len(took) * 99 // 100]
    verdict = "PASS" if p99 < GOAL_P99_S else "FAIL"
    print(f"median {took[len(took) // 2]:.2f} s, p99 {p99:.2f} s, longest {took[-1]:.2f} s")
    print(f"{verdict}: {count} requests at once, all signed; p99 has to be under {GOAL_P99_S:g} s")
    return 0 if verdict == "PASS" else 1


def _prepare(admin: Client, names: list[str]) -> None:
    admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ovn-ipsec"}})
    admin.apply_directory(_MANIFESTS)
    for name in names:
        metadata = {"name": name, "annotations": {_ANNOTATION: f"chassis-{name}"}}
        admin.create({"apiVersion": "v1", "kind": "Node", "metadata": metadata})


def _signer(plane: ControlPlane) -> subprocess.Popen[bytes]:
    """Leading, and with an authority: the ConfigMap with the roots is there."""
    environment = {**os.environ, "KUBECONFIG": str(plane.kubeconfig(_SIGNER))}
    log = plane.directory / "signer.log"
    command = [sys.executable, "-m", "ca.cli", "serve-kubernetes"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stderr=file)
    deadline = time.monotonic() + _START_S
    while "answering requests" not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError(f"the signer does not start: {log.read_text()}")
        time.sleep(0.1)
    return process


def _run(admin: Client, clients: list[Client], names: list[str], threads: int) -> list[float]:
    bodies = [_request(f"chassis-{name}") for name in names]
    started: dict[str, float] = {}
    ended: dict[str, float] = {}
    watching = threading.Event()
    watch = threading.Thread(target=_watch, args=(admin, ended, watching, len(names)), daemon=True)
    watch.start()
    if not watching.wait(_START_S):
        raise RuntimeError("the API server does not answer the watch")

    def ask(client: Client, body: dict[str, object]) -> None:
        begun = time.monotonic()
        started[client.create(body)["metadata"]["name"]] = begun

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(ask, clients, bodies))
    print(f"all created after {time.monotonic() - min(started.values()):.2f} s")
    watch.join(_LONGEST_S)
    return [ended[name] - started[name] for name in ended]


def _watch(admin: Client, ended: dict[str, float], watching: threading.Event, count: int) -> None:
    context = ssl.create_default_context(cafile=admin.ca)
    connection = http.client.HTTPSConnection(
        "127.0.0.1", admin.port, context=context, timeout=_LONGEST_S
    )
    connection.request(
        "GET", f"{_CSRS}?watch=true", headers={"Authorization": f"Bearer {admin.token}"}
    )
    response = connection.getresponse()
    watching.set()
    while len(ended) < count:
        event = json.loads(response.readline())["object"]
        if event.get("status", {}).get("certificate"):
            ended.setdefault(event["metadata"]["name"], time.monotonic())


def _request(chassis_id: str) -> dict[str, object]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, chassis_id)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    pem = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    return {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "ovn-ipsec-"},
        "spec": {
            "signerName": "ipsec.ovn.org/node",
            "usages": ["ipsec tunnel"],
            "request": b64encode(pem).decode(),
        },
    }


if __name__ == "__main__":
    sys.exit(main())
