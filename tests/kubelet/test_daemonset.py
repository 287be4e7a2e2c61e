"""The DaemonSet and the signer as a cluster runs them: scheduler, kubelet, containerd and runc.

The peer is silent and the kernel may lack ESP: that tunnels get encrypted is shown in the lab.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

import pytest

from tests.kubelet.guard_watch import GuardWatch
from tests.kubelet.node_pod import NodePod, wait_for
from tools.kubernetes.host_ovs import CHASSIS, PEER_CHASSIS
from tools.kubernetes.worker import Worker

pytestmark = [pytest.mark.kubelet, pytest.mark.slow]

LIVENESS_S = 240.0
"""Six probes, ten seconds apart; then the grace period, since a stopped process hears nothing."""
LEAVES_ITS_STATE = "Pluto is shutting down (leaving state)"
"""What pluto logs upon ``whack --shutdown --leave-state``."""


def test_a_pod_is_guarded_first_then_enrolled_by_the_signer_and_then_ready(node: NodePod) -> None:
    guard = node.container("guard")["state"]["terminated"]
    enroll = node.container("enroll")["state"]["terminated"]
    assert (guard["exitCode"], enroll["exitCode"]) == (0, 0)
    assert guard["finishedAt"] <= enroll["startedAt"]
    signer = ("--for=condition=Available", "deployment/ovn-ipsec-signer", "--timeout=60s")
    node.kubectl("wait", *signer)
    assert certificate(node).startswith("/var/lib/ovn-ipsec/identity/")
    # Finished requests are deleted.
    assert node.kubectl("get", "csr", "-o", "name") == ""


def test_kubectl_shows_how_the_node_is(node: NodePod) -> None:
    (line,) = node.kubectl(
        "get", "pods", "--no-headers", "-l", "app.kubernetes.io/name=ovn-ipsec"
    ).splitlines()
    assert line.split()[1:3] == ["3/3", "Running"]
    tunnels = node.execute("agent", *["ovs-appctl", "-t", "ovs-monitor-ipsec", "tunnels/show"])
    assert f"Remote name:    {PEER_CHASSIS}" in tunnels
    assert "CONFIGURED" in tunnels
    answer = node.ready_answer()
    assert "1 silent" in answer
    assert f"certificate: {CHASSIS}" in answer
    assert "guard: enforce" in answer
    assert f"of {CHASSIS}'s identity is installed" in node.log("enroll")


def test_the_cause_that_only_plutos_log_can_give_is_shown(node: NodePod) -> None:
    def known() -> bool:
        # The exit code says that not all is encrypted.
        ask = node.execute("agent", "/bin/sh", "-c", "ovn-ipsec status --json || true")
        said = json.loads(ask)
        (tunnel,) = said["tunnels"]
        assert said["node"]["log_problem"] is None
        return (tunnel["cause"] or {}).get("code") == "peer-silent"

    wait_for("the cause is known", known)
    # kubectl shows the same log.
    wait_for("a retry is shown", lambda: "retransmission; will wait" in node.log("pluto"))


def test_no_process_has_more_rights_than_its_container_asks_for(node: NodePod) -> None:
    """What the kernel says, of every container of the pod."""
    asked = {
        item["name"]: set(item["securityContext"]["capabilities"]["add"])
        for item in node.pod()["spec"]["containers"]
    }
    numbers = {"DAC_OVERRIDE": 1, "NET_BIND_SERVICE": 10, "NET_ADMIN": 12, "AUDIT_WRITE": 29}
    for name, names in asked.items():
        status = node.execute(name, "cat", "/proc/self/status")
        values = dict(line.split(":", 1) for line in status.splitlines())
        assert int(values["CapBnd"], 16) == sum(1 << numbers[item] for item in names)
        assert values["NoNewPrivs"].strip() == "1"
        assert values["Seccomp"].strip() == "2"


def test_a_killed_agent_comes_back_and_reloads_nothing(node: NodePod) -> None:
    before = node.connections()
    assert sorted(before) == ["ovn-0-in-1", "ovn-0-out-1"]
    with GuardWatch(node.worker) as watch:
        restarted(node, "agent", lambda: node.signal("agent", signal.SIGKILL))
        assert watch.gaps() == []
    assert node.connections() == before


def test_a_killed_pluto_comes_back_with_its_connections(node: NodePod) -> None:
    with GuardWatch(node.worker) as watch:
        number = node.execute("pluto", "cat", "/run/pluto/pluto.pid").strip()
        restarted(node, "pluto", lambda: kill_in(node, "pluto", number))
        assert watch.gaps() == []
    assert sorted(node.connections()) == ["ovn-0-in-1", "ovn-0-out-1"]


def test_pluto_outlives_a_peer_that_does_not_answer(node: NodePod) -> None:
    """pluto 4.10 ends with a stack overflow when it may not write to the kernel's audit log, which
    it does whenever an IKE SA fails."""
    restarts = node.restarts()["pluto"]
    tries = node.log("pluto").count("initiating IKEv2")
    wait_for("pluto tries again", lambda: node.log("pluto").count("initiating IKEv2") > tries + 1)
    assert node.restarts()["pluto"] == restarts


def test_an_agent_that_hangs_is_restarted_by_its_liveness_probe(node: NodePod) -> None:
    before = node.connections()
    with GuardWatch(node.worker) as watch:
        restarted(node, "agent", lambda: node.signal("agent", signal.SIGSTOP), LIVENESS_S)
        assert watch.gaps() == []
    assert node.connections() == before


def test_a_change_rolls_out_and_leaves_the_kernel_as_it_is(node: NodePod, worker: Worker) -> None:
    old = node.pod()["metadata"]["name"]
    identity = certificate(node)
    words = ["--namespace=ovn-ipsec", "logs", old, "--container=pluto", "--follow", "--tail=1"]
    worker.start_daemon("last-words", [*worker.kubectl_words(), *words])
    change = '{"spec":{"template":{"metadata":{"annotations":{"test/change":"1"}}}}}'
    with GuardWatch(worker) as watch:
        node.kubectl("patch", "daemonset", "ovn-ipsec", "--patch", change)
        node.kubectl("rollout", "status", "daemonset/ovn-ipsec", "--timeout=110s")
        assert watch.gaps() == []
    assert node.pod()["metadata"]["name"] != old
    assert LEAVES_ITS_STATE in worker.log("last-words")
    assert sorted(node.connections()) == ["ovn-0-in-1", "ovn-0-out-1"]
    assert set(node.restarts().values()) == {0}
    assert certificate(node) == identity


def test_a_guard_that_somebody_removes_is_seen_and_comes_back(node: NodePod) -> None:
    """Or the other tests' watch would prove nothing."""
    with GuardWatch(node.worker) as watch:
        node.worker.host("nft", "delete", "table", "inet", "ovn_ipsec")
        wait_for("the guard is back", watch.table_stands, 60)
        assert len(watch.gaps()) == 1


def kill_in(node: NodePod, container: str, process: str) -> None:
    """A process that is not the container's first."""
    node.execute(container, "/bin/sh", "-c", f"kill -9 {process}")


def certificate(node: NodePod) -> str:
    """The file that Open vSwitch is told to be the node's certificate."""
    words = "ovs-vsctl --no-wait get open . other_config:certificate"
    return node.worker.host(*words.split(" ")).strip().strip('"')


def restarted(
    node: NodePod, container: str, act: Callable[[], None], timeout_s: float = 120
) -> None:
    """Until that container, and no other, has been started once more, and the pod is ready."""
    before = node.restarts()
    act()
    wanted = {**before, container: before[container] + 1}
    wait_for(f"{container} is restarted", lambda: node.restarts() == wanted, timeout_s)
    node.wait_until_ready()
