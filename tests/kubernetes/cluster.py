"""The cluster as tests see it: Nodes and their agents, requests, and signer processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tools.kubernetes.client import Client, Json, Refused
from tools.kubernetes.control_plane import ControlPlane, Identity, service_account

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests" / "base" / "signer"
NAMESPACE = "ovn-ipsec"
SIGNER_NAME = "ipsec.ovn.org/node"
SIGNER = service_account(NAMESPACE, "ovn-ipsec-signer")
AGENT = service_account(NAMESPACE, "ovn-ipsec-node")
STRANGER = service_account("default", "builder")
PLAIN = service_account(NAMESPACE, "default")
"""Who was given nothing."""
CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
SPACE = f"/api/v1/namespaces/{NAMESPACE}"
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
ANNOTATION = "k8s.ovn.org/node-chassis-id"
WAIT_S = 30.0

_AGENT_ROLE: Json = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": "test-node-agents"},
    "rules": [
        {
            "apiGroups": ["certificates.k8s.io"],
            "resources": ["certificatesigningrequests"],
            "verbs": ["create", "get", "list", "watch", "delete"],
        }
    ],
}
_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class Node:
    """A Node with an agent that has a user name of its own, as with OVN-Kubernetes."""

    name: str

    @property
    def identity(self) -> Identity:
        return Identity(f"system:ovn-node:{self.name}", ("system:ovn-nodes",))

    @property
    def chassis_id(self) -> str:
        return f"chassis-of-{self.name}"


class Replica:
    """One ``ovn-ipsec-ca serve-kubernetes``."""

    def __init__(self, kubeconfig: Path, log: Path, arguments: Sequence[str]) -> None:
        self.log = log
        command = [sys.executable, "-m", "ca.cli", "serve-kubernetes", *arguments]
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=output, cwd=ROOT
            )

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def said(self, text: str) -> bool:
        return text in self.log.read_text()


class Cluster:
    """What a test has in its hands."""

    def __init__(self, plane: ControlPlane, directory: Path, nodes: Sequence[Node]) -> None:
        self.plane = plane
        self.directory = directory
        self.nodes = nodes
        self.admin = plane.client()
        self._replicas: list[Replica] = []

    def clean(self) -> None:
        """The manifests, every Node with its annotation, and no request, state or Lease."""
        self.admin.apply(_object("v1", "Namespace", NAMESPACE))
        self.admin.apply_directory(MANIFESTS)
        self.admin.apply(_AGENT_ROLE)
        subjects = [
            {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": who.user}
            for who in (AGENT, STRANGER, *(node.identity for node in self.nodes))
        ]
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole"}
        binding = _object("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "test-node-agents")
        role = {**reference, "name": "test-node-agents"}
        self.admin.apply({**binding, "roleRef": role, "subjects": subjects})
        for path in (
            CSRS,
            f"{SPACE}/secrets",
            f"{SPACE}/configmaps",
            LEASES,
            f"{SPACE}/pods?gracePeriodSeconds=0",
            "/api/v1/namespaces/default/pods?gracePeriodSeconds=0",
            "/api/v1/nodes",
        ):
            self.admin.delete(path)
        for node in self.nodes:
            self.annotate(node.name, node.chassis_id)

    def close(self) -> None:
        """Kill every replica; what they said is shown with a failed test."""
        for replica in self._replicas:
            replica.kill()
            sys.stderr.write(f"--- {replica.log.name}\n{replica.log.read_text()}")
        self.plane.resume_server()
        self.plane.start()

    def annotate(self, node: str, chassis_id: str | None, annotation: str = ANNOTATION) -> None:
        """Make a Node, or change its chassis id."""
        annotations = {} if chassis_id is None else {annotation: chassis_id}
        body = _object("v1", "Node", node)
        body["metadata"]["annotations"] = annotations
        self.admin.apply(body)

    def signer(self, *arguments: str) -> Replica:
        """Start a replica; it leads when nobody else does."""
        log = self.directory / f"signer-{len(self._replicas)}.log"
        replica = Replica(self.plane.kubeconfig(SIGNER), log, arguments)
        self._replicas.append(replica)
        return replica

    def ask(
        self,
        who: Identity | Client,
        chassis_id: str,
        *,
        signer: str = SIGNER_NAME,
        usages: Sequence[str] = ("ipsec tunnel",),
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> str:
        """A new request of this identity; its name."""
        pem = request_pem(chassis_id, key or ec.generate_private_key(ec.SECP256R1()))
        spec = {
            "signerName": signer,
            "usages": list(usages),
            "request": b64encode(pem).decode(),
        }
        body = _object("certificates.k8s.io/v1", "CertificateSigningRequest", "")
        body["metadata"] = {"generateName": "ovn-ipsec-", "labels": {"ipsec.ovn.org/node": "n"}}
        client = who if isinstance(who, Client) else self.plane.client(who)
        created = client.create({**body, "spec": spec})
        return str(created["metadata"]["name"])

    def request(self, name: str) -> Json:
        """A request as it is now."""
        return self.admin.get(f"{CSRS}/{name}")

    def certificate(self, name: str, within_s: float = WAIT_S) -> x509.Certificate:
        """The certificate that a request gets. Raises AssertionError when it is refused."""

        def look() -> bytes | None:
            status = self.request(name).get("status", {})
            assert not conditions(status) & {"Denied", "Failed"}, status
            return b64decode(status.get("certificate", "")) or None

        return x509.load_pem_x509_certificate(wait_for(look, within_s))

    def refusal(self, name: str, kind: str = "Denied") -> str:
        """The message with which a request is refused."""

        def look() -> str | None:
            status = self.request(name).get("status", {})
            assert "certificate" not in status
            found = [c["message"] for c in status.get("conditions", ()) if c["type"] == kind]
            return found[0] if found else None

        return wait_for(look)

    def roots(self) -> list[x509.Certificate]:
        """What nodes are told to trust, the one that signs first."""

        def look() -> Json | None:
            with contextlib.suppress(Refused):
                return self.admin.get(f"{SPACE}/configmaps/ovn-ipsec-ca")
            return None

        data = wait_for(look)["data"]
        roots = x509.load_pem_x509_certificates(data["ca-bundle.pem"].encode())
        crl = x509.load_pem_x509_crl(data["crl.pem"].encode())
        assert crl.issuer == roots[0].subject
        return roots

    def authority(self, *arguments: str) -> str:
        """An operator's command on the state, in the signer's pod as it were; what it prints."""
        environment = {**os.environ, "KUBECONFIG": str(self.plane.kubeconfig(SIGNER))}
        command = [sys.executable, "-m", "ca.cli", *arguments]
        state = f"--state=kubernetes:{NAMESPACE}/ovn-ipsec-ca"
        done = subprocess.run(
            [*command, state], env=environment, cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def pod_token(self, pod: str, node: str, who: Identity = AGENT) -> Client:
        """The agent's pod on a Node, and its own token from the API server."""
        namespace, name = who.user.split(":")[2:]
        body = _object("v1", "Pod", pod)
        body["metadata"]["namespace"] = namespace
        containers = [{"name": "agent", "image": "ovn-ipsec:latest"}]
        spec = {"serviceAccountName": name, "nodeName": node, "containers": containers}
        created = self.admin.create({**body, "spec": spec})
        account = _object("v1", "ServiceAccount", name)
        account["metadata"]["namespace"] = namespace
        self.admin.apply(account)
        bound = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": created["metadata"]["uid"]}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
        asked = {**review, "spec": {"boundObjectRef": bound}}
        return replace(self.admin, token=self.admin.call("POST", path, asked)["status"]["token"])

    def client(self, who: Identity) -> Client:
        """Requests of this identity."""
        return self.plane.client(who)

    @contextlib.contextmanager
    def refused(self, status: int = 403) -> Iterator[None]:
        """The API server itself says no."""
        try:
            yield
        except Refused as error:
            assert error.status == status, error
        else:
            raise AssertionError("the API server allowed it")


def conditions(status: Json) -> set[str]:
    """Types of a request's conditions."""
    return {item["type"] for item in status.get("conditions", ())}


def wait_for(look: Callable[[], _Found | None], within_s: float = WAIT_S) -> _Found:
    """What ``look`` finds at last. Raises TimeoutError."""
    deadline = time.monotonic() + within_s
    while True:
        with contextlib.suppress(OSError):
            found = look()
            if found:
                return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"not seen within {within_s:g} s")
        time.sleep(0.1)


def request_pem(chassis_id: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    """A PKCS #10 request as the enroller makes it: CN and DNS name are the chassis id."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, chassis_id)])
    names = x509.SubjectAlternativeName([x509.DNSName(chassis_id)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    request = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM)


def _object(version: str, kind: str, name: str) -> Json:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}}
