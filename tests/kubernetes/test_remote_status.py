"""The component that lets other nodes ask each node, and the example that scrapes it."""

from __future__ import annotations

import pytest
import yaml

from ovn_ipsec.settings import HttpAddress, parse_agent_arguments
from tests.kubernetes.rendered import (
    PLATFORMS,
    REPOSITORY,
    by_name,
    kustomize_with,
    node_pod,
    settings,
)
from tools.image.manifest import arguments_of, containers

pytestmark = pytest.mark.kubernetes


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize(
    "components",
    [
        ("remote-status",),
        ("remote-status", "staged-roll-out"),
        ("staged-roll-out", "remote-status"),
        ("host-libreswan", "remote-status"),
    ],
    ids="+".join,
)
def test_agents_serve_their_status_at_the_address_of_their_node(
    platform: str, components: tuple[str, ...]
) -> None:
    made = kustomize_with(platform, *components)
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
    assert parsed.http == HttpAddress("127.0.0.1", 9311), "and nothing of the base is lost"
    assert parsed.guard_follow == ("staged-roll-out" in components)
    # What the example looks for is there.
    monitor = yaml.safe_load((REPOSITORY / "share/examples/podmonitor.yaml").read_text())
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in [port["name"] for port in agent["ports"]]
    template = by_name(made)["DaemonSet/ovn-ipsec"]["spec"]["template"]
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= template["metadata"]["labels"].items()
