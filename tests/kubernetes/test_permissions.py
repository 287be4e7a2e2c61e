"""What the signer's identity may do is what its page says, no less and no more."""

from __future__ import annotations

import pytest

from tests.kubernetes.cluster import (
    AGENT,
    NAMESPACE,
    PLAIN,
    ROOT,
    SIGNER,
    STRANGER,
    Cluster,
)
from tools.kubernetes.client import Client, Json

pytestmark = pytest.mark.kubernetes

Rule = tuple[str, str, str, str]
"""Group, resource, object name (empty for any), verb."""
_PAGE = ROOT / "docs" / "kubernetes-signer.md"


def test_the_signer_may_do_what_its_table_says_and_nothing_else(cluster: Cluster) -> None:
    signer = cluster.client(SIGNER)
    ordinary = _rules(cluster.client(PLAIN), NAMESPACE)
    everywhere, here = _documented("everywhere"), _documented(NAMESPACE)
    assert _rules(signer, NAMESPACE) - ordinary == everywhere | here
    assert _rules(signer, "kube-system") - ordinary == everywhere


def test_single_decisions_agree_with_the_table(cluster: Cluster) -> None:
    """``kubectl auth can-i``, for what would hurt most."""
    signer = cluster.client(SIGNER)
    for group, resource, name, verb in _documented("everywhere"):
        assert signer.may(verb, f"{group}/{resource}", name)
    for group, resource, name, verb in _documented(NAMESPACE):
        assert signer.may(verb, f"{group}/{resource}", name, NAMESPACE)
        if name:
            assert not signer.may(verb, f"{group}/{resource}", "another", NAMESPACE)
    csr = "certificates.k8s.io/certificatesigningrequests"
    for verb, resource, name, namespace in (
        ("list", "/secrets", "", NAMESPACE),
        ("get", "/secrets", "ovn-ipsec-ca", "default"),
        ("delete", "/configmaps", "ovn-ipsec-ca", NAMESPACE),
        ("sign", "certificates.k8s.io/signers", "kubernetes.io/kubelet-serving", ""),
        ("create", csr, "", ""),
        ("delete", csr, "", ""),
        ("update", "/nodes", "worker-0", ""),
        ("create", "/serviceaccounts/token", "ovn-ipsec-node", NAMESPACE),
        ("update", "rbac.authorization.k8s.io/roles", "ovn-ipsec-signer", NAMESPACE),
    ):
        assert not signer.may(verb, resource, name, namespace), (verb, resource, name)


def test_others_may_do_none_of_what_makes_the_authority(cluster: Cluster) -> None:
    for who in (AGENT, STRANGER, cluster.nodes[0].identity):
        client = cluster.client(who)
        for group, resource, name, verb in _documented(NAMESPACE):
            assert not client.may(verb, f"{group}/{resource}", name, NAMESPACE)
        for resource, verb in (
            ("certificatesigningrequests/approval", "update"),
            ("certificatesigningrequests/status", "update"),
            ("signers", "approve"),
            ("signers", "sign"),
        ):
            full = f"certificates.k8s.io/{resource}"
            assert not client.may(verb, full, "ipsec.ovn.org/node")


def _documented(where: str) -> set[Rule]:
    """The table's rows of one place."""
    rules = set()
    for line in _PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 5 or cells[0] != where:
            continue
        _, group, resource, names, verbs = cells
        group = "" if group == "core" else group
        rules |= {(group, resource, names, verb) for verb in verbs.split(", ")}
    assert rules, f"{_PAGE}: no row begins with {where}"
    return rules


def _rules(client: Client, namespace: str) -> set[Rule]:
    """Everything that an identity may do to resources in a namespace."""
    body: Json = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview"}
    review = client.create({**body, "spec": {"namespace": namespace}})
    return {
        (group, resource, name, verb)
        for rule in review["status"]["resourceRules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames") or [""]
        for verb in rule["verbs"]
    }
