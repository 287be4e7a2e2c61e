"""The manifests, as kubectl and helm make them of what is in ``manifests/``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

import ovn_ipsec
from ovn_ipsec.cli import main
from ovn_ipsec.cluster.settings import FollowSettings, parse_cluster_arguments
from ovn_ipsec.identity.settings import parse_enroll_arguments
from ovn_ipsec.settings import (
    GuardSettings,
    OnUnknown,
    parse_agent_arguments,
    parse_guard_arguments,
)
from tests.kubernetes.rendered import (
    CHART,
    MANIFESTS,
    PLATFORMS,
    Object,
    by_name,
    helm_template,
    kustomize,
    kustomize_staged,
    node_pod,
    settings,
)
from tools.image.manifest import arguments_of, containers

pytestmark = pytest.mark.kubernetes

NETWORK = """\
apiVersion: operator.openshift.io/v1
kind: Network
metadata: {name: cluster}
spec:
  defaultNetwork:
    type: OVNKubernetes
    ovnKubernetesConfig: {mtu: 1400, genevePort: 6082, ipsecConfig: {mode: %s}}
"""
IMAGE = "registry.example:5000/x/ovn-ipsec:9"
SETTINGS = "ovn-ipsec-settings"
FOREIGN = {"SecurityContextConstraints"}
"""Kinds that Kubernetes itself does not have."""


def alike(objects: list[Object]) -> dict[str, Object]:
    """Without what kustomize and helm have for "new settings make new pods", and the namespace,
    which helm makes by a flag."""

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: renamed(item) for key, item in value.items()}
        if isinstance(value, list):
            return [renamed(item) for item in value]
        return SETTINGS if isinstance(value, str) and value.startswith(f"{SETTINGS}-") else value

    found = by_name([renamed(item) for item in objects if item["kind"] != "Namespace"])
    for item in found.values():
        template = item.get("spec", {}).get("template", {})
        template.get("metadata", {}).get("annotations", {}).pop("ovn-ipsec/settings", None)
        # Their order has no meaning, and kustomize puts patched ones first.
        template.get("spec", {}).get("volumes", []).sort(key=lambda volume: volume["name"])
    return found


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_chart_makes_the_objects_of_the_overlay(platform: str) -> None:
    chart = alike(helm_template(CHART, "--set", f"platform={platform}"))
    overlay = alike(kustomize(MANIFESTS / "overlays" / platform))
    assert "DaemonSet/ovn-ipsec" in chart
    assert chart == overlay
    staged = alike(helm_template(CHART, "--set", f"platform={platform},stagedRollOut=true"))
    assert staged != chart
    assert staged == alike(kustomize_staged(platform))


@pytest.mark.parametrize("mode", ["Disabled", "External", "Full"])
@pytest.mark.parametrize("flags", [[], [f"--image={IMAGE}"], ["--staged-roll-out"]])
def test_a_rendering_is_the_same_for_kustomize_and_helm(
    tmp_path: Path, mode: str, flags: list[str]
) -> None:
    file, out = tmp_path / "net.yml", tmp_path / "out"
    file.write_text(NETWORK % mode)
    assert main(["render", str(file), "-o", str(out), *flags]) == 0
    staged = "--staged-roll-out" in flags
    made = kustomize(out)
    chart = alike(helm_template(out / "helm" / "ovn-ipsec", "-f", str(out / "values.yaml")))
    assert chart == alike(made)
    if mode == "Disabled":
        assert list(by_name(made)) == ["Namespace/ovn-ipsec"]
        return
    pod = node_pod(made)
    assert ("pluto" in containers(pod)) == (mode == "Full")
    assert ("follower" in containers(pod)) == staged
    wanted = IMAGE if f"--image={IMAGE}" in flags else f"ovn-ipsec:{ovn_ipsec.__version__}"
    assert {item["image"] for item in containers(pod).values()} == {wanted}
    assert settings(made)["guard-ports"] == "udp/6082"
    assert settings(made)["guard-on-unknown"] == ("audit" if staged else "enforce")
    assert settings(made)["guard-mode"] == ("follow" if staged else "enforce")


@pytest.mark.parametrize("how", ["kustomize", "helm"])
def test_another_setting_makes_new_pods(tmp_path: Path, how: str) -> None:
    templates = []
    for port in ("udp/1", "udp/2"):
        if how == "helm":
            made = helm_template(CHART, "--set", f"settings.guard-ports={port}")
        else:
            file, out = tmp_path / "net.yml", tmp_path / port.replace("/", "-")
            file.write_text((NETWORK % "Full").replace("6082", port[4:]))
            assert main(["render", str(file), "-o", str(out)]) == 0
            made = kustomize(out)
        templates.append(by_name(made)["DaemonSet/ovn-ipsec"]["spec"]["template"])
    assert templates[0] != templates[1]


def test_every_command_line_is_one_that_its_program_takes() -> None:
    made = kustomize_staged("openshift")
    values = settings(made)
    lines = {
        name: arguments_of(item, values)
        for name, item in containers(node_pod(made)).items()
        if item["command"][0] == "ovn-ipsec"
    }
    assert lines["guard"][:2] == ["ovn-ipsec", "guard"]
    assert parse_guard_arguments(lines["guard"][2:]) == GuardSettings("apply", OnUnknown.AUDIT)
    assert lines["agent"][:2] == ["ovn-ipsec", "agent"]
    agent = [word for word in lines["agent"][2:] if word != "--pidfile"]  # python-ovs's own
    parsed, _ = parse_agent_arguments(agent, prog="ovn-ipsec")
    assert not parsed.restart_ike_daemon
    assert parsed.guard_follow
    plain = settings(kustomize(MANIFESTS / "overlays" / "openshift"))
    agent = arguments_of(containers(node_pod(made))["agent"], plain)[2:]
    agent.remove("--pidfile")
    assert not parse_agent_arguments(agent, prog="ovn-ipsec")[0].guard_follow
    assert lines["follower"][:2] == ["ovn-ipsec", "cluster"]
    following = parse_cluster_arguments(lines["follower"][2:])
    assert isinstance(following, FollowSettings)
    assert parsed.http is not None
    assert following.agent == (parsed.http.address, parsed.http.port)
    assert following.keys is not None
    for name, once in (("enroll", True), ("enroller", False)):
        assert lines[name][:2] == ["ovn-ipsec", "enroll"]
        enrolment = parse_enroll_arguments(lines[name][2:], {"NODE_NAME": "node-1"})
        assert enrolment.once is once
        assert enrolment.cluster is not None
        assert enrolment.cluster.signer == values["signer-name"]


def test_the_guard_closes_the_node_before_anything_else_runs() -> None:
    pod = node_pod(kustomize(MANIFESTS / "overlays" / "ovn-kubernetes"))
    assert pod["initContainers"][0]["name"] == "guard"


@pytest.mark.parametrize("platform", PLATFORMS)
def test_no_container_has_more_than_the_documented_capabilities(platform: str) -> None:
    pod = node_pod(kustomize_staged(platform))
    documented = {}
    for line in (MANIFESTS.parent / "docs" / "kubernetes.md").read_text().splitlines():
        if row := re.match(r"\| `(\w+)` (?:\(init\) )?\| `[^|]*` \| ([A-Z_, ]+) \|", line):
            documented[row[1]] = set(row[2].split(", "))
    for item in containers(pod).values():
        security = item["securityContext"]
        assert security.pop("allowPrivilegeEscalation") is False
        assert security.pop("readOnlyRootFilesystem") is True
        capabilities = security.pop("capabilities")
        assert security == {}
        assert capabilities["drop"] == ["ALL"]
        assert set(capabilities["add"]) == documented.pop(item["name"])
    assert documented == {}


def test_only_enrolment_has_a_token() -> None:
    pod = node_pod(kustomize_staged("ovn-kubernetes"))
    assert pod["automountServiceAccountToken"] is False
    holders = {
        name
        for name, item in containers(pod).items()
        if any(mount["name"] == "token" for mount in item["volumeMounts"])
    }
    assert holders == {"enroll", "enroller"}


@pytest.mark.parametrize("mode", ["External", "Full"])
@pytest.mark.parametrize("staged", ["false", "true"])
def test_every_mount_has_its_volume(mode: str, staged: str) -> None:
    made = helm_template(CHART, "--set", f"mode={mode},stagedRollOut={staged}")
    pod = node_pod(made)
    mounted = {
        mount["name"] for item in containers(pod).values() for mount in item["volumeMounts"]
    }
    assert {item["name"] for item in pod["volumes"]} == mounted


@pytest.mark.parametrize("staged", [False, True])
def test_openshift_allows_the_pods_what_they_ask_for_and_no_more(*, staged: bool) -> None:
    overlay = MANIFESTS / "overlays" / "openshift"
    made = by_name(kustomize_staged("openshift") if staged else kustomize(overlay))
    allowed = made["SecurityContextConstraints/ovn-ipsec-node"]
    pod = node_pod(list(made.values()))
    asked = {
        name
        for item in containers(pod).values()
        for name in item["securityContext"]["capabilities"]["add"]
    }
    assert set(allowed["allowedCapabilities"]) == asked
    kinds = {key for item in pod["volumes"] for key in item if key != "name"}
    # A projected volume needs the kinds of its sources, too.
    assert set(allowed["volumes"]) == kinds | {"configMap", "downwardAPI"}
    account = f"system:serviceaccount:ovn-ipsec:{pod['serviceAccountName']}"
    assert allowed["users"] == [account]


@pytest.mark.parametrize("version", ["1.30", "1.37"])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_object_fits_the_schema_of_current_kubernetes(platform: str, version: str) -> None:
    objects = kustomize_staged(platform)
    checked = [item for item in objects if item["kind"] not in FOREIGN]
    assert len(checked) >= 7
    for item in checked:
        kubernetes_validate.validate(item, version, strict=True)


def test_a_misspelt_field_does_not_fit_the_schema() -> None:
    objects = kustomize(MANIFESTS / "overlays" / "ovn-kubernetes")
    node_pod(objects)["hostNetwrok"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(by_name(objects)["DaemonSet/ovn-ipsec"], "1.37", strict=True)
