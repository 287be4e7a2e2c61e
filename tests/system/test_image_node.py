"""Nodes whose containers run from our image's own root file system, as the DaemonSet has them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.system.pairs import PSK, settle
from tools.lab.container import LabError, wait_until
from tools.lab.lab import Lab
from tools.lab.pcap import Kind
from tools.lab.pod import NodePod, daemonset_pod
from tools.lab.traffic import Traffic
from tools.lab.wire import Mark

# Slow: the image is built anew for each change of the code.
pytestmark = [pytest.mark.system, pytest.mark.slow]

_SETTINGS = {"guard-mode": "enforce", "guard-on-unknown": "enforce", "guard-ports": ""}
_CAPABILITIES = {"DAC_OVERRIDE": 1, "NET_BIND_SERVICE": 10, "NET_ADMIN": 12, "AUDIT_WRITE": 29}
_LEFT_ITS_STATE = 12
_UP_S = 90.0
# A pod takes 4 s to be replaced, and an emulated machine ten times as long.
_PATIENT = ("options:ipsec_retransmit-timeout=120s",)


@dataclass
class Nodes:
    """Two nodes, a and b, with a pod each and a tunnel, and traffic between them."""

    lab: Lab
    pods: dict[str, NodePod]
    traffic: Traffic
    since: Mark

    def assert_no_plaintext(self) -> None:
        """Not one tunnel packet in clear since before there was a tunnel port."""
        assert self.lab.wire.packets(Kind.PLAINTEXT, since=self.since) == []


@pytest.fixture
def nodes(lab: Lab) -> Iterator[Nodes]:
    a, b = lab.overlay("a", "b")
    template = daemonset_pod(_SETTINGS)
    pods = {node.name: NodePod(node, template) for node in (a, b)}
    for pod in pods.values():
        pod.start()
    for pod in pods.values():
        pod.wait_until_ready()
    since = lab.wire.mark()
    with lab.traffic(a, b) as traffic:
        lab.connect(a, b, psk=PSK)
        for node, peer in ((a, b), (b, a)):
            node.set_interface(f"tun-{peer.name}", *_PATIENT)
        traffic.wait_flowing(_UP_S)
        for pod in pods.values():
            wait_until_up(pod)
        yield Nodes(lab, pods, traffic, since)


def wait_until_up(pod: NodePod) -> None:
    """By the agent's own word, asked in its container."""

    def up() -> bool:
        shown = pod.appctl("tunnels/show")
        return shown.count("esp.") >= 2 and "Not up" not in shown

    wait_until(up, _UP_S, "tunnels/show says so", interval_s=0.5)


def test_containers_of_the_image_encrypt_with_no_more_rights_than_the_manifest_has(
    nodes: Nodes,
) -> None:
    start = time.monotonic()
    settle(5)
    assert nodes.traffic.lost(start) == 0
    nodes.assert_no_plaintext()
    for node in nodes.lab.nodes:
        assert nodes.lab.wire.count(Kind.ESP, since=nodes.since, src=node.ipv4) > 50
    for pod in nodes.pods.values():
        assert "Interface name: tun-" in pod.appctl("tunnels/show")
        assert_confined(pod, "agent", {"DAC_OVERRIDE", "NET_ADMIN"})
        assert_confined(pod, "pluto", {"AUDIT_WRITE", "NET_ADMIN", "NET_BIND_SERVICE"})


def assert_confined(pod: NodePod, name: str, capabilities: set[str]) -> None:
    """Named capabilities alone, no new privileges, system calls filtered, the root read-only."""
    status = pod.process_status(name)
    assert status["Name"] == {"agent": "ovn-ipsec", "pluto": "pluto"}[name]
    for kind in ("CapBnd", "CapPrm", "CapEff"):
        assert int(status[kind], 16) == sum(1 << _CAPABILITIES[item] for item in capabilities)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    with pytest.raises(LabError, match="Read-only file system"):
        pod.execute(name, "touch", "/opt/ovn-ipsec/probe")
    # Which the kernel would allow.
    with pytest.raises(LabError, match="Operation not permitted"):
        pod.execute(name, "unshare", "--user", "true")


def test_a_rollout_sends_nothing_in_clear_and_loses_nothing(
    nodes: Nodes, record_property: Callable[[str, object], None]
) -> None:
    for name, pod in nodes.pods.items():
        start = time.monotonic()
        codes = pod.stop()
        assert codes["pluto"] == _LEFT_ITS_STATE
        pod.start()
        took_s = pod.wait_until_ready()
        wait_until_up(pod)
        settle(30)
        lost = nodes.traffic.lost(start)
        record_property(f"lost_{name}", lost)
        record_property(f"ready_s_{name}", round(took_s, 1))
        assert lost <= 2  # what is under way when a child SA takes over from another
    nodes.assert_no_plaintext()
