"""What must not get a certificate, and who must not get at the authority."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.kubernetes.cluster import (
    AGENT,
    CSRS,
    SIGNER,
    SPACE,
    STRANGER,
    Cluster,
    conditions,
)
from tests.kubernetes.test_signing import common_name

pytestmark = pytest.mark.kubernetes


def test_a_node_does_not_get_the_name_of_another_one(cluster: Cluster) -> None:
    cluster.signer()
    node, other = cluster.nodes[:2]
    refusal = cluster.refusal(cluster.ask(node.identity, other.chassis_id))
    assert f"names '{other.chassis_id}', the requester is '{node.chassis_id}'" in refusal


def test_usages_that_are_not_ipsec_tunnel_alone_are_denied(cluster: Cluster) -> None:
    cluster.signer()
    node = cluster.nodes[0]
    for usages in (("client auth",), ("ipsec tunnel", "cert sign")):
        name = cluster.ask(node.identity, node.chassis_id, usages=usages)
        assert "not ['ipsec tunnel']" in cluster.refusal(name)


def test_requests_of_other_signers_are_never_touched(cluster: Cluster) -> None:
    cluster.signer()
    node = cluster.nodes[0]
    foreign = cluster.ask(node.identity, node.chassis_id, signer="example.com/other")
    before = cluster.request(foreign)
    cluster.certificate(cluster.ask(node.identity, node.chassis_id))
    assert cluster.request(foreign) == before


def test_the_signer_cannot_approve_or_sign_for_the_cluster_itself(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    usages = ("digital signature", "key encipherment", "client auth")
    signer = "kubernetes.io/kube-apiserver-client"
    name = cluster.ask(node.identity, node.chassis_id, signer=signer, usages=usages)
    csr = cluster.request(name)
    for part, kind in (("approval", "Approved"), ("status", "Failed")):
        csr["status"] = {"conditions": [{"type": kind, "status": "True", "reason": "Mine"}]}
        with cluster.refused():
            cluster.client(SIGNER).call("PUT", f"{CSRS}/{name}/{part}", csr)


def test_a_node_cannot_approve_its_own_request(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    name = cluster.ask(node.identity, node.chassis_id)
    csr = cluster.request(name)
    csr["status"] = {"conditions": [{"type": "Approved", "status": "True", "reason": "Mine"}]}
    for part in ("approval", "status"):
        with cluster.refused():
            cluster.client(node.identity).call("PUT", f"{CSRS}/{name}/{part}", csr)
    assert not conditions(cluster.request(name).get("status", {}))


def test_nobody_but_the_signer_reads_or_writes_the_authority(cluster: Cluster) -> None:
    cluster.signer()
    cluster.roots()
    for who in (AGENT, STRANGER, cluster.nodes[0].identity):
        client = cluster.client(who)
        for path in ("secrets/ovn-ipsec-ca", "secrets", "configmaps/ovn-ipsec-ca-log-00000"):
            with cluster.refused():
                client.get(f"{SPACE}/{path}")
        with cluster.refused():
            client.merge(f"{SPACE}/configmaps/ovn-ipsec-ca", {"data": {"ca-bundle.pem": "mine"}})


def test_without_a_binding_the_reason_is_in_the_denial_and_nothing_is_guessed(
    cluster: Cluster,
) -> None:
    cluster.signer()
    bare, gone, other = cluster.nodes[:3]
    cluster.annotate(bare.name, None)
    cluster.admin.delete(f"/api/v1/nodes/{gone.name}")
    stranger = cluster.pod_token("build", other.name, STRANGER)
    expected = {
        cluster.ask(bare.identity, bare.chassis_id): "worker-0 has no annotation",
        cluster.ask(gone.identity, gone.chassis_id): "there is no Node worker-1",
        # A ServiceAccount's token that is bound to no pod.
        cluster.ask(AGENT, other.chassis_id): "names neither a Node nor a pod",
        # Every pod's token proves its Node; only the agents speak for it.
        cluster.ask(stranger, other.chassis_id): "default/builder is not that of the nodes'",
    }
    for name, reason in expected.items():
        assert reason in cluster.refusal(name)


def test_the_token_of_a_pod_that_was_replaced_proves_nothing(cluster: Cluster) -> None:
    pod = cluster.pod_token("agent", "worker-0")
    name = cluster.ask(pod, cluster.nodes[0].chassis_id)
    cluster.admin.delete(f"{SPACE}/pods/agent?gracePeriodSeconds=0")
    cluster.pod_token("agent", "worker-1")
    cluster.signer()
    assert "is another one than the token's" in cluster.refusal(name)


def test_an_id_on_two_nodes_is_denied_to_both_until_one_gives_way(cluster: Cluster) -> None:
    cluster.signer()
    first, second = cluster.nodes[:2]
    cluster.annotate(second.name, first.chassis_id.upper())
    for node in (first, second):
        refusal = cluster.refusal(cluster.ask(node.identity, first.chassis_id))
        assert "is claimed by other Nodes, too" in refusal
    cluster.annotate(second.name, second.chassis_id)
    cluster.certificate(cluster.ask(first.identity, first.chassis_id))


def test_an_id_that_a_node_has_a_certificate_of_cannot_be_taken_or_blocked_by_another(
    cluster: Cluster,
) -> None:
    cluster.signer()
    owner, thief = cluster.nodes[:2]
    cluster.certificate(cluster.ask(owner.identity, owner.chassis_id))
    cluster.annotate(thief.name, owner.chassis_id)
    refusal = cluster.refusal(cluster.ask(thief.identity, owner.chassis_id))
    assert f"{owner.chassis_id} is Node {owner.name}, which has a live certificate" in refusal
    cluster.certificate(cluster.ask(owner.identity, owner.chassis_id))


def test_a_changed_id_is_denied_until_the_former_one_is_revoked(cluster: Cluster) -> None:
    cluster.signer()
    node = cluster.nodes[0]
    cluster.certificate(cluster.ask(node.identity, node.chassis_id))
    cluster.annotate(node.name, "renamed")
    refusal = cluster.refusal(cluster.ask(node.identity, "renamed"))
    assert f"has a certificate as {node.chassis_id}" in refusal
    cluster.authority("revoke", node.chassis_id)
    renamed = cluster.certificate(cluster.ask(node.identity, "renamed"))
    assert common_name(renamed) == "renamed"


def test_a_revoked_node_comes_back_only_when_an_operator_admits_it(cluster: Cluster) -> None:
    cluster.signer()
    node = cluster.nodes[0]
    cluster.certificate(cluster.ask(node.identity, node.chassis_id))
    cluster.authority("revoke", node.chassis_id)
    refusal = cluster.refusal(cluster.ask(node.identity, node.chassis_id))
    assert f"{node.chassis_id} was revoked" in refusal
    cluster.authority("admit", node.chassis_id)
    cluster.certificate(cluster.ask(node.identity, node.chassis_id))


def test_a_key_is_certified_for_one_node_only(cluster: Cluster) -> None:
    cluster.signer()
    key = ec.generate_private_key(ec.SECP256R1())
    first, second = cluster.nodes[:2]
    cluster.certificate(cluster.ask(first.identity, first.chassis_id, key=key))
    refusal = cluster.refusal(cluster.ask(second.identity, second.chassis_id, key=key))
    assert "this public key belongs to another chassis" in refusal
