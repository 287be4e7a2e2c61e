"""What a node's ServiceAccount may do, as the API server says it, is what the manual says."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from itertools import product

import pytest
import yaml

from tests.kubernetes.cluster import AGENT
from tests.kubernetes.rendered import MANIFESTS, PLATFORMS, REPOSITORY, Object, kustomize
from tools.kubernetes.command_line import ensure_command_line
from tools.kubernetes.control_plane import ControlPlane

pytestmark = pytest.mark.kubernetes

REVIEW = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
VERBS = ("create", "delete", "get", "list", "patch", "update", "watch")
FOREIGN = {"SecurityContextConstraints"}
RESOURCES: tuple[Object, ...] = (
    {"group": "certificates.k8s.io", "resource": "certificatesigningrequests"},
    *(
        {
            "group": "certificates.k8s.io",
            "resource": "certificatesigningrequests",
            "subresource": part,
        }
        for part in ("approval", "status")
    ),
    {"resource": "configmaps", "namespace": "ovn-ipsec", "name": "ovn-ipsec-ca"},
    {"resource": "configmaps", "namespace": "ovn-ipsec", "name": "another"},
    {"resource": "configmaps", "namespace": "kube-system", "name": "ovn-ipsec-ca"},
    {"resource": "secrets", "namespace": "ovn-ipsec", "name": "ovn-ipsec-ca"},
    {"resource": "secrets", "namespace": "ovn-ipsec"},
    {"resource": "nodes"},
    {"resource": "pods", "namespace": "ovn-ipsec"},
    {"group": "apps", "resource": "daemonsets", "namespace": "ovn-ipsec"},
    {"group": "coordination.k8s.io", "resource": "leases", "namespace": "ovn-ipsec"},
    {"group": "rbac.authorization.k8s.io", "resource": "clusterroles"},
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A cluster of its own, so that no other test's roles add to what is looked at."""
    with ControlPlane(tmp_path_factory.mktemp("rights"), []) as plane:
        _kubectl(plane, "apply", "-k", str(MANIFESTS / "overlays" / "ovn-kubernetes"))
        yield plane


def _kubectl(plane: ControlPlane, *arguments: str, stdin: str | None = None) -> str:
    done = subprocess.run(
        [ensure_command_line() / "kubectl", "--kubeconfig", plane.kubeconfig(), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _named(resource: Object) -> str:
    text = f"{resource['resource']}/{resource.get('subresource', '')}".rstrip("/")
    return f"{text} {resource.get('namespace', '')}/{resource.get('name', '')}"


def test_a_node_may_do_what_the_manual_says_and_nothing_else(installed: ControlPlane) -> None:
    documented = set()
    for line in (REPOSITORY / "docs" / "kubernetes.md").read_text().splitlines():
        if row := re.fullmatch(r"\| CertificateSigningRequests \| ([a-z, ]+) \|", line):
            documented |= {("certificatesigningrequests /", verb) for verb in row[1].split(", ")}
        if row := re.fullmatch(r"\| ConfigMap `([a-z/-]+)` \| ([a-z, ]+) \|", line):
            documented |= {(f"configmaps {row[1]}", verb) for verb in row[2].split(", ")}
    admin = installed.client()
    allowed = set()
    for resource, verb in product(RESOURCES, VERBS):
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": AGENT.user,
                "groups": [*AGENT.groups, "system:authenticated"],
                "resourceAttributes": {**resource, "verb": verb},
            },
        }
        if admin.call("POST", REVIEW, review)["status"]["allowed"]:
            allowed.add((_named(resource), verb))
    assert len(documented) == 7
    assert allowed == documented


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_api_server_takes_every_object(installed: ControlPlane, platform: str) -> None:
    objects = [
        item
        for item in kustomize(MANIFESTS / "overlays" / platform)
        if item["kind"] not in FOREIGN
    ]
    text = yaml.safe_dump_all(objects)
    said = _kubectl(installed, "apply", "--dry-run=server", "-f", "-", stdin=text)
    assert len(said.splitlines()) == len(objects)
