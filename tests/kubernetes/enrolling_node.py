"""A node that enrols at a real API server, and the signer that is played.

OVSDB is played, too. The signer has to refuse, be late and roll over on demand.
"""

from __future__ import annotations

import base64
import datetime as dt
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ovn_ipsec.identity.generations import Generations
from ovn_ipsec.identity.kubernetes import LABEL, KubernetesWay, Place
from ovn_ipsec.identity.kubernetes_api import ClusterApi
from ovn_ipsec.identity.model import Decision, KeyKind
from ovn_ipsec.identity.node import Enrolment, Parts, run_once
from tests.fake_desk import FakeDesk
from tests.unit.test_enrolment import PlayedDatabase
from tools.kubernetes.client import Client, Json
from tools.kubernetes.control_plane import ControlPlane, service_account

REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
NAMESPACE = "ovn-ipsec"
AGENT = service_account(NAMESPACE, "ovn-ipsec")
KEEPING = service_account(NAMESPACE, "may-not-delete")
SIGNER = "ipsec.ovn.org/node"


def role(name: str, *verbs: str, user: str | None = None) -> list[Json]:
    """What docs/enrolment.md says that the enroller needs, for a service account or a user."""
    group = "rbac.authorization.k8s.io"
    requests = {
        "apiGroups": ["certificates.k8s.io"],
        "resources": ["certificatesigningrequests"],
        "verbs": list(verbs),
    }
    config_map = {
        "apiGroups": [""],
        "resources": ["configmaps"],
        "resourceNames": ["ovn-ipsec-ca"],
        "verbs": ["get", "watch"],
    }
    subject = {"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}
    if user is not None:
        subject = {"kind": "User", "apiGroup": group, "name": user}
    made: list[Json] = []
    for kind, rule, where in (
        ("ClusterRole", requests, {}),
        ("Role", config_map, {"namespace": NAMESPACE}),
    ):
        metadata = {"name": name, **where}
        version = f"{group}/v1"
        made.append({"apiVersion": version, "kind": kind, "metadata": metadata, "rules": [rule]})
        made.append(
            {
                "apiVersion": version,
                "kind": f"{kind}Binding",
                "metadata": metadata,
                "subjects": [subject],
                "roleRef": {"apiGroup": group, "kind": kind, "name": name},
            }
        )
    return made


def grant(plane: ControlPlane) -> None:
    """The namespace, and the rights of ``AGENT`` and ``KEEPING`` in it."""
    admin = plane.client()
    admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    for body in role("ovn-ipsec", "create", "list", "watch", "delete"):
        admin.apply(body)
    for body in role("may-not-delete", "create", "list", "watch"):
        admin.apply(body)


@dataclass
class PlayedSigner:
    """Answers the requests of one node from a thread, as the signer's contract says."""

    admin: Client
    node: str
    desk: FakeDesk = field(default_factory=FakeDesk)
    denies: str | None = None
    names: list[str] = field(default_factory=list)
    """Of every request seen."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def publish(self, crl: bytes = b"") -> None:
        roots = b"".join(root.pem for root in self.desk.roots)
        data = {"ca-bundle.pem": roots.decode()} | ({"crl.pem": crl.decode()} if crl else {})
        metadata = {"name": "ovn-ipsec-ca", "namespace": NAMESPACE}
        self.admin.apply(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
        )

    def start(self) -> None:
        self.publish()
        self._thread = threading.Thread(target=self._sign, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def requests(self) -> list[Json]:
        listed = self.admin.get(f"{REQUESTS}?labelSelector={LABEL}%3D{self.node}")
        items: list[Json] = listed["items"]
        return items

    def _sign(self) -> None:
        while not self._stop.wait(0.05):
            try:
                for item in self.requests():
                    if item["metadata"]["name"] not in self.names:
                        self.names.append(item["metadata"]["name"])
                    if not item["status"]:
                        self.answer(item)
            except Exception:  # noqa: BLE001, S112 (the API server is away, or the node was faster)
                continue

    def answer(self, item: Json) -> None:
        path = f"{REQUESTS}/{item['metadata']['name']}"
        assert item["spec"]["usages"] == ["ipsec tunnel"]
        assert item["spec"]["signerName"] == SIGNER
        verdict = {"type": "Approved", "status": "True", "reason": "Bound", "message": "yes"}
        if self.denies is not None:
            verdict |= {"type": "Denied", "message": self.denies}
        item["status"]["conditions"] = [verdict]
        item = self.admin.call("PUT", f"{path}/approval", item)
        if self.denies is None:
            csr = x509.load_pem_x509_csr(base64.b64decode(item["spec"]["request"]))
            (name,) = csr.subject
            leaf = self.desk.leaf(str(name.value), csr.public_key())
            pem = leaf.public_bytes(Encoding.PEM)
            item["status"]["certificate"] = base64.b64encode(pem).decode()
            self.admin.call("PUT", f"{path}/status", item)


@dataclass
class Node:
    """One node: its directory and its row. Time passes as it does."""

    directory: Path
    way: KubernetesWay
    database: PlayedDatabase

    def clock(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC)

    def once(self, timeout_s: float = 30) -> Decision:
        """A process that ends."""
        generations = Generations(self.directory)
        try:
            return run_once(self.opened(generations), self.clock, _sleep, timeout_s)
        finally:
            generations.close()

    def opened(self, generations: Generations) -> Enrolment:
        parts = Parts(self.database, generations, self.clock, courier=self.way)
        return Enrolment(parts, KeyKind.P256)

    def state(self) -> str:
        path = self.directory / "state.json"
        return path.read_text() if path.exists() else ""

    def deny_list(self) -> bytes:
        return x509.load_pem_x509_crl(self.named("ca_crl")).public_bytes(Encoding.DER)

    def named(self, key: str) -> bytes:
        return Path(self.database.other_config[key]).read_bytes()


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def node_of(plane: ControlPlane, directory: Path, name: str, identity: Any = AGENT) -> Node:
    place = Place(name, SIGNER, NAMESPACE, "ovn-ipsec-ca")
    kubeconfig = plane.kubeconfig(identity)
    database = PlayedDatabase({"system-id": f"chassis-of-{name}"})
    return Node(directory, KubernetesWay(place, lambda: ClusterApi(kubeconfig)), database)
