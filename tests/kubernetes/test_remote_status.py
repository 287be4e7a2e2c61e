"""The component that lets other nodes ask each node, and the example that scrapes it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from ovn_ipsec.settings import HttpAddress, parse_agent_arguments
from tests.kubernetes.rendered import (
    MANIFESTS,
    PLATFORMS,
    REPOSITORY,
    by_name,
    kustomize,
    node_pod,
    settings,
)
from tools.image.manifest import arguments_of, containers

pytestmark = pytest.mark.kubernetes


@pytest.mark.parametrize("platform", PLATFORMS)
def test_agents_serve_their_status_at_the_address_of_their_node(
    tmp_path: Path, platform: str
) -> None:
    for part in ("base", "components", "overlays"):
        shutil.copytree(MANIFESTS / part, tmp_path / part)
    component = "components/remote-status"
    (tmp_path / "kustomization.yaml").write_text(
        f"resources: [overlays/{platform}]\ncomponents: [{component}]\n"
    )
    made = kustomize(tmp_path)
    agent = containers(node_pod(made))["agent"]
    (address,) = (item for item in agent["env"] if item["name"] == "NODE_ADDRESS")
    assert address["valueFrom"] == {"fieldRef": {"fieldPath": "status.hostIP"}}
    words = [
        word.replace("=node-1:", "=192.0.2.7:")
        for word in arguments_of(agent, settings(made))[2:]
        if word != "--pidfile"  # python-ovs's own
    ]
    parsed, _ = parse_agent_arguments(words, prog="ovn-ipsec")
    assert parsed.status_tls == HttpAddress("192.0.2.7", 9182)
    # What the example looks for is there.
    monitor = yaml.safe_load((REPOSITORY / "share/examples/podmonitor.yaml").read_text())
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in [port["name"] for port in agent["ports"]]
    template = by_name(made)["DaemonSet/ovn-ipsec"]["spec"]["template"]
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= template["metadata"]["labels"].items()
