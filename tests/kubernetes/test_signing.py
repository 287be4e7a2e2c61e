"""A Node's agent asks by CertificateSigningRequest, and the signer answers."""

from __future__ import annotations

import json

import pytest
from cryptography import x509

from tests.kubernetes.cluster import AGENT, CSRS, SPACE, Cluster, conditions, wait_for
from tests.kubernetes.rendered import MANIFESTS, by_name, kustomize

pytestmark = pytest.mark.kubernetes


def test_a_node_gets_a_certificate_of_its_chassis_id_from_the_published_root(
    cluster: Cluster,
) -> None:
    cluster.signer()
    node = cluster.nodes[0]
    name = cluster.ask(node.identity, node.chassis_id)
    certificate = cluster.certificate(name)
    assert certificate.subject.rfc4514_string() == f"CN={node.chassis_id},O=ovn-ipsec"
    certificate.verify_directly_issued_by(cluster.roots()[0])
    assert conditions(cluster.request(name)["status"]) == {"Approved"}


def test_each_proof_of_a_node_that_kubernetes_has_leads_to_its_chassis_id(
    cluster: Cluster,
) -> None:
    cluster.signer()
    prefix = "authentication.kubernetes.io"
    kubelet = cluster.admin.acting_as("system:node:worker-1", ("system:nodes",), {})
    named = cluster.admin.acting_as(AGENT.user, AGENT.groups, {f"{prefix}/node-name": "worker-2"})
    pod = cluster.pod_token("agent-3", "worker-3")
    for node, client in zip(cluster.nodes[1:4], (kubelet, named, pod), strict=True):
        certificate = cluster.certificate(cluster.ask(client, node.chassis_id))
        assert common_name(certificate) == node.chassis_id


def test_with_kube_ovn_that_platforms_annotation_says_which_node_is_which_chassis(
    cluster: Cluster,
) -> None:
    made = by_name(kustomize(MANIFESTS / "overlays" / "kube-ovn"))
    pod = made["Deployment/ovn-ipsec-signer"]["spec"]["template"]["spec"]
    first, second = cluster.nodes[:2]
    cluster.annotate(first.name, "uuid-1", "ovn.kubernetes.io/chassis")
    cluster.signer(*pod["containers"][0]["command"][2:])
    assert common_name(cluster.certificate(cluster.ask(first.identity, "uuid-1"))) == "uuid-1"
    refusal = cluster.refusal(cluster.ask(second.identity, second.chassis_id))
    assert "Node worker-1 has no annotation ovn.kubernetes.io/chassis" in refusal


def test_an_inventory_says_which_node_is_which_chassis_instead_of_annotations(
    cluster: Cluster,
) -> None:
    first, second, third = cluster.nodes[:3]
    inventory = {"apiVersion": "v1", "kind": "ConfigMap", "data": {first.name: "rack-7"}}
    cluster.admin.apply({**inventory, "metadata": {"name": "inventory", "namespace": "ovn-ipsec"}})
    cluster.signer("--inventory", "ovn-ipsec/inventory")
    assert common_name(cluster.certificate(cluster.ask(first.identity, "rack-7"))) == "rack-7"
    refusal = cluster.refusal(cluster.ask(second.identity, second.chassis_id))
    assert "inventory ovn-ipsec/inventory has no Node worker-1" in refusal
    both = {first.name: "rack-7", second.name: "rack-8", third.name: "rack-8"}
    cluster.admin.merge(f"{SPACE}/configmaps/inventory", {"data": both})
    refusal = cluster.refusal(cluster.ask(third.identity, "rack-8"))
    assert "claimed by other Nodes, too: worker-1" in refusal


def test_a_node_renews_with_a_new_key_and_its_first_certificate_stays_valid(
    cluster: Cluster,
) -> None:
    cluster.signer()
    node = cluster.nodes[0]
    first = cluster.certificate(cluster.ask(node.identity, node.chassis_id))
    second = cluster.certificate(cluster.ask(node.identity, node.chassis_id))
    assert first.serial_number != second.serial_number
    rows = json.loads(cluster.authority("list", "--all", "--json"))
    assert [row["state"] for row in rows] == ["valid", "valid"], rows


def test_a_request_that_was_approved_before_the_signer_died_gets_its_one_certificate(
    cluster: Cluster,
) -> None:
    node = cluster.nodes[0]
    name = cluster.ask(node.identity, node.chassis_id)
    csr = cluster.request(name)
    csr["status"] = {"conditions": [{"type": "Approved", "status": "True", "reason": "Died"}]}
    cluster.admin.call("PUT", f"{CSRS}/{name}/approval", csr)
    cluster.signer()
    cluster.certificate(name)
    assert len(json.loads(cluster.authority("list", "--all", "--json"))) == 1


def test_what_somebody_else_approved_against_the_policy_fails_and_is_not_signed(
    cluster: Cluster,
) -> None:
    node, other = cluster.nodes[:2]
    name = cluster.ask(node.identity, other.chassis_id)
    csr = cluster.request(name)
    csr["status"] = {"conditions": [{"type": "Approved", "status": "True", "reason": "Hasty"}]}
    cluster.admin.call("PUT", f"{CSRS}/{name}/approval", csr)
    cluster.signer()
    assert other.chassis_id in cluster.refusal(name, "Failed")


def test_a_roll_over_is_published_and_goes_on_as_nodes_renew(cluster: Cluster) -> None:
    cluster.authority("init", "--settle", "0", "--key", "p256", "--name", "first")
    cluster.signer()
    node = cluster.nodes[0]
    old = cluster.certificate(cluster.ask(node.identity, node.chassis_id))
    cluster.authority("rotate-ca", "start")
    two = wait_for(lambda: roots if len(roots := cluster.roots()) == 2 else None)
    old.verify_directly_issued_by(two[0])
    # A certificate from while both roots are published tells that the node trusts both.
    cluster.certificate(cluster.ask(node.identity, node.chassis_id))
    switched = wait_for(lambda: roots if (roots := cluster.roots())[0] == two[1] else None)
    newest = cluster.certificate(cluster.ask(node.identity, node.chassis_id))
    newest.verify_directly_issued_by(switched[0])


def test_roots_that_somebody_took_out_of_the_config_map_are_published_again(
    cluster: Cluster,
) -> None:
    cluster.signer()
    roots = cluster.roots()
    cluster.admin.delete(f"{SPACE}/configmaps/ovn-ipsec-ca")
    assert cluster.roots() == roots


def common_name(certificate: x509.Certificate) -> str:
    """Of the subject."""
    return str(certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)
