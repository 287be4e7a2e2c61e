"""An enroller that keeps running lives through outages of the API server and follows its news."""

from __future__ import annotations

import threading

import pytest
from cryptography import x509

from ovn_ipsec.identity import kubernetes as way
from ovn_ipsec.identity.denylist import DenyList
from ovn_ipsec.identity.generations import Generations
from ovn_ipsec.identity.node import run
from tests.kubernetes.enrolling_node import Node, PlayedSigner
from tools.kubernetes.control_plane import ControlPlane
from tools.lab.container import wait_until
from tools.lab.pki import Authority, KeyType

pytestmark = pytest.mark.kubernetes

WITHIN_S = 30.0


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
        wait_until(lambda: signer.requests() != [], WITHIN_S, "a request")
        plane.stall_server()
        wait_until(lambda: "does not answer" in node.state(), WITHIN_S, "the stall is noticed")
        plane.resume_server()
        plane.kill_server()
        wait_until(lambda: "refused" in node.state(), WITHIN_S, "the death is noticed")
        plane.start()
        signer.start()
        wait_until(lambda: "certificate" in node.database.other_config, 60, "it recovers")
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
        wait_until(lambda: "certificate" in node.database.other_config, WITHIN_S, "an identity")
        first = node.named("certificate")
        crl = old.crl()
        signer.publish(crl)
        wait_until(lambda: "ca_crl" in node.database.other_config, WITHIN_S, "a deny-list")
        crl = old.crl(denied=["node-x"], number=2)
        signer.publish(crl)
        wait_until(lambda: b"node-x" in node.deny_list(), 5, "the revocation is heard of")

        signer.desk.roots = [old, new]
        signer.publish(crl)
        wait_until(lambda: node.named("ca_cert") == old.pem + new.pem, 10, "the new root")
        wait_until(lambda: node.named("certificate") != first, 20, "a renewal under both roots")
        second = node.named("certificate")
        x509.load_pem_x509_certificate(second).verify_directly_issued_by(old.pair.certificate)

        signer.desk.roots = [new, old]
        signer.publish(crl)
        wait_until(lambda: node.named("certificate") != second, 20, "a renewal by the new root")
        third = x509.load_pem_x509_certificate(node.named("certificate"))
        third.verify_directly_issued_by(new.pair.certificate)

        signer.desk.roots = [new]
        signer.publish(crl)
        wait_until(lambda: node.named("ca_cert") == new.pem, 10, "the old root is gone")
        assert len(signer.names) == 3
    finally:
        stop.set()
        news.set()
        threads[0].join(30)
        generations.close()
