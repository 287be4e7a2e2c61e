"""What becomes of the CertificateSigningRequests by which a node enrols, at a real API server."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from ovn_ipsec import cli
from ovn_ipsec.errors import BusyError, EnrolmentError
from ovn_ipsec.identity import kubernetes as way
from ovn_ipsec.identity.kubernetes import KubernetesWay, Place
from ovn_ipsec.identity.kubernetes_api import ClusterApi
from ovn_ipsec.identity.model import Level
from tests.kubernetes.enrolling_node import (
    AGENT,
    KEEPING,
    SIGNER,
    Node,
    PlayedSigner,
    node_of,
)
from tests.unit.test_enrolment import PlayedDatabase
from tools.kubernetes.control_plane import ControlPlane
from tools.lab.container import wait_until

pytestmark = pytest.mark.kubernetes


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
    wait_until(lambda: signer.requests() == [], 30, "the denied request is gone")


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
