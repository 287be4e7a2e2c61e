"""A node enrols by CertificateSigningRequest at a real API server.

OVSDB is played, and so is the signer, which has to refuse, be late and roll over on demand; at the
end the real one answers.
"""

from __future__ import annotations

import base64
import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ovn_ipsec import cli
from ovn_ipsec.errors import BusyError, EnrolmentError
from ovn_ipsec.identity import kubernetes as way
from ovn_ipsec.identity.denylist import DenyList
from ovn_ipsec.identity.generations import Generations
from ovn_ipsec.identity.kubernetes import LABEL, KubernetesWay, Place
from ovn_ipsec.identity.kubernetes_api import ClusterApi
from ovn_ipsec.identity.model import Decision, KeyKind, Level
from ovn_ipsec.identity.node import Enrolment, Parts, run, run_once
from tests.fake_desk import FakeDesk
from tests.kubernetes.cluster import Cluster
from tests.unit.test_enrolment import PlayedDatabase
from tools.kubernetes.client import Client, Json
from tools.kubernetes.control_plane import ControlPlane, service_account
from tools.lab.pki import Authority, KeyType

pytestmark = pytest.mark.kubernetes

REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
NAMESPACE = "ovn-ipsec"
AGENT = service_account(NAMESPACE, "ovn-ipsec")
KEEPING = service_account(NAMESPACE, "may-not-delete")
SIGNER = "ipsec.ovn.org/node"
_numbers = iter(range(1, 1000))


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


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    directory = tmp_path_factory.mktemp("control-plane")
    with ControlPlane(directory, [AGENT, KEEPING]) as running:
        admin = running.client()
        admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        for body in role("ovn-ipsec", "create", "list", "watch", "delete"):
            admin.apply(body)
        for body in role("may-not-delete", "create", "list", "watch"):
            admin.apply(body)
        yield running


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


@pytest.fixture
def signer(plane: ControlPlane) -> Iterator[PlayedSigner]:
    played = PlayedSigner(plane.client(), f"worker-{next(_numbers)}")
    yield played
    played.stop()


@pytest.fixture
def node(plane: ControlPlane, signer: PlayedSigner, tmp_path: Path) -> Node:
    return node_of(plane, tmp_path / "identity", signer.node)


def until(condition: Callable[[], object], otherwise: str, limit_s: float = 30) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)


def test_node_enrols_by_a_request_and_leaves_none_behind(node: Node, signer: PlayedSigner) -> None:
    signer.start()
    began = time.monotonic()
    assert node.once().in_place
    assert time.monotonic() - began < 5, "it was not watched for"
    certificate = x509.load_pem_x509_certificate(node.named("certificate"))
    (name,) = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    assert name.value == f"chassis-of-{signer.node}"
    assert node.named("ca_cert") == signer.desk.authority.pem
    assert len(signer.names) == 1 and signer.requests() == []


def test_denial_is_told_and_the_next_try_is_another_request(
    node: Node, signer: PlayedSigner
) -> None:
    signer.denies = "worker-9 is chassis abc,\nnot this one"
    signer.start()
    decision = node.once(timeout_s=1)
    assert (decision.in_place, decision.level) == (False, Level.ALARM)
    assert "Denied: Bound: worker-9 is chassis abc, not this one" in decision.reason
    signer.denies = None
    assert node.once().in_place
    until(lambda: signer.requests() == [], "a denied request stays behind")


def test_request_that_a_crash_left_waiting_is_taken_up_again(
    plane: ControlPlane, node: Node, signer: PlayedSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(way, "_WAIT_S", 1)
    signer.publish()
    decision = node.once(timeout_s=2)
    assert not decision.in_place and "is waited for" in decision.reason
    (waiting,) = signer.requests()
    signer.answer(waiting)
    again = node_of(plane, node.directory, signer.node)
    again.database = node.database
    assert again.once().in_place
    assert signer.requests() == [] and signer.names == []


def test_request_that_somebody_denied_or_deleted_while_the_process_was_away_is_made_anew(
    plane: ControlPlane, node: Node, signer: PlayedSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(way, "_WAIT_S", 1)
    signer.publish()
    node.once(timeout_s=1)
    (waiting,) = signer.requests()
    signer.denies = "the binding is not known yet"
    signer.answer(waiting)
    signer.denies = None
    signer.start()
    again = node_of(plane, node.directory, signer.node)
    assert again.once().in_place
    assert waiting["metadata"]["name"] not in [
        item["metadata"]["name"] for item in signer.requests()
    ]


def test_requests_of_other_nodes_are_left_alone(
    plane: ControlPlane, node: Node, signer: PlayedSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(way, "_WAIT_S", 1)
    signer.start()
    other = PlayedSigner(plane.client(), f"{signer.node}-other")
    node_of(plane, node.directory / "other", other.node, KEEPING).once(timeout_s=1)
    (waiting,) = other.requests()
    other.answer(waiting)
    assert node.once().in_place
    assert len(other.requests()) == 1


def test_process_that_may_not_delete_enrols_all_the_same(
    plane: ControlPlane, signer: PlayedSigner, tmp_path: Path
) -> None:
    signer.start()
    assert node_of(plane, tmp_path / "identity", signer.node, KEEPING).once().in_place
    assert len(signer.requests()) == 1


def test_api_server_that_is_killed_or_stalls_is_waited_for(
    plane: ControlPlane, node: Node, signer: PlayedSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(way, "_WAIT_S", 3)
    monkeypatch.setattr("ovn_ipsec.identity.kubernetes_api._WATCH_MARGIN_S", 1)
    monkeypatch.setattr("ovn_ipsec.identity.kubernetes_api._READ_S", 2)
    signer.publish()
    stop = threading.Event()
    generations = Generations(node.directory)
    thread = threading.Thread(
        target=run, args=(node.opened(generations), node.clock, stop.wait), daemon=True
    )
    thread.start()
    try:
        until(signer.requests, "no request was made")
        plane.stall_server()
        until(lambda: "does not answer" in node.state(), "the stall was not noticed")
        plane.resume_server()
        plane.kill_server()
        until(lambda: "refused" in node.state(), "the death was not noticed")
        plane.start()
        signer.start()
        until(lambda: "certificate" in node.database.other_config, "no recovery", 60)
        assert len(signer.names) == 1, "the request of before was not taken up again"
    finally:
        plane.resume_server()
        plane.start()
        stop.set()
        thread.join(30)
        generations.close()
    assert not thread.is_alive()


def test_roll_over_and_deny_list_are_followed_within_seconds(
    node: Node, signer: PlayedSigner
) -> None:
    signer.desk.leaf_life_s = 120  # renewals that a roll-over asks for are spread over 6 s
    signer.start()
    stop, news = threading.Event(), threading.Event()

    def wait(seconds: float) -> bool:
        news.wait(seconds)
        news.clear()
        return stop.is_set()

    node.way.on_news = news.set
    generations = Generations(node.directory)
    enrolment = node.opened(generations)
    deny_list = DenyList(
        node.directory, node.way, enrolment.credentials, node.database, look_s=0.2
    )
    threads = [
        threading.Thread(target=run, args=(enrolment, node.clock, wait), daemon=True),
        threading.Thread(target=deny_list.follow, args=(stop.wait,), daemon=True),
    ]
    for thread in threads:
        thread.start()
    old, new = signer.desk.authority, Authority.create("first", kind=KeyType.P256)
    try:
        until(lambda: "certificate" in node.database.other_config, "no identity")
        first = node.named("certificate")
        crl = old.crl()
        signer.publish(crl)
        until(lambda: "ca_crl" in node.database.other_config, "no deny-list")
        crl = old.crl(denied=["node-x"], number=2)
        signer.publish(crl)
        until(lambda: b"node-x" in node.deny_list(), "the revocation is not heard of", 5)

        signer.desk.roots = [old, new]
        signer.publish(crl)
        until(lambda: node.named("ca_cert") == old.pem + new.pem, "the new root", 10)
        until(lambda: node.named("certificate") != first, "no renewal under both roots", 20)
        second = node.named("certificate")
        x509.load_pem_x509_certificate(second).verify_directly_issued_by(old.pair.certificate)

        signer.desk.roots = [new, old]
        signer.publish(crl)
        until(lambda: node.named("certificate") != second, "no renewal by the new root", 20)
        third = x509.load_pem_x509_certificate(node.named("certificate"))
        third.verify_directly_issued_by(new.pair.certificate)

        signer.desk.roots = [new]
        signer.publish(crl)
        until(lambda: node.named("ca_cert") == new.pem, "the old root stays", 10)
        assert len(signer.names) == 3
    finally:
        stop.set()
        news.set()
        threads[0].join(30)
        generations.close()


def test_command_enrols_once_as_an_init_container_does(
    plane: ControlPlane,
    signer: PlayedSigner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    database = PlayedDatabase({"system-id": "chassis-1"})
    monkeypatch.setattr("ovn_ipsec.identity.node.NodeDatabase", lambda _remote: database)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setenv("NODE_NAME", signer.node)
    argv = ["enroll", "unix:/nowhere", "--kubernetes", "--once", "--key-type=p256"]
    argv += [f"--kubeconfig={plane.kubeconfig(AGENT)}", f"--directory={tmp_path}"]
    signer.start()
    assert cli.main(argv) == 0
    assert "certificate" in database.other_config
    missing = [*argv[:4], "--timeout=1", f"--directory={tmp_path}/2", "--kubeconfig=/none"]
    assert cli.main(missing) == 1
    assert "/none: no way to the Kubernetes API" in capsys.readouterr().err


def test_what_the_identity_may_not_read_is_an_error_with_the_remedy(
    plane: ControlPlane, tmp_path: Path
) -> None:
    place = Place("worker", SIGNER, "kube-system", "ovn-ipsec-ca")
    api = ClusterApi(plane.kubeconfig(AGENT))
    with pytest.raises(EnrolmentError, match=r"403: .*check the RBAC rules"):
        KubernetesWay(place, lambda: api).roots()
    absent = replace(place, config_map="ovn-ipsec-ca")
    with pytest.raises(BusyError, match="404"):
        KubernetesWay(absent, lambda: ClusterApi(plane.kubeconfig())).roots()


def test_real_signer_gives_a_node_its_certificate_roots_and_deny_list(
    cluster: Cluster, tmp_path: Path
) -> None:
    who = cluster.nodes[0]
    for body in role("enroller", "create", "list", "watch", "delete", user=who.identity.user):
        cluster.admin.apply(body)
    cluster.signer()
    node = node_of(cluster.plane, tmp_path / "identity", who.name, who.identity)
    node.database.external_ids["system-id"] = who.chassis_id
    assert node.once().in_place
    roots = x509.load_pem_x509_certificates(node.named("ca_cert"))
    assert roots == cluster.roots()
    certificate = x509.load_pem_x509_certificate(node.named("certificate"))
    certificate.verify_directly_issued_by(roots[0])

    generations = Generations(node.directory)
    enrolment = node.opened(generations)
    enrolment.step()
    deny_list = DenyList(node.directory, node.way, enrolment.credentials, node.database)
    deny_list.follow_once()
    generations.close()
    assert x509.load_pem_x509_crl(node.named("ca_crl")).issuer == roots[0].subject

    # One that claims to be another chassis is told why it gets nothing.
    liar = node_of(cluster.plane, tmp_path / "liar", who.name, who.identity)
    liar.database.external_ids["system-id"] = cluster.nodes[1].chassis_id
    decision = liar.once(timeout_s=1)
    assert not decision.in_place and "Denied: OvnIpsecPolicy" in decision.reason
