"""The component ``staged-roll-out``, put on top of what runs; it stays there."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import yaml

from tests.kubelet.node_pod import NodePod, wait_for
from tests.kubernetes.rendered import kustomize_staged
from tools.kubernetes.host_ovs import southbound, start_southbound
from tools.kubernetes.worker import Worker

pytestmark = [pytest.mark.kubelet, pytest.mark.slow]


def test_the_guard_obeys_the_southbound_database_and_the_node_reports(
    node: NodePod, worker: Worker, tmp_path: Path
) -> None:
    start_southbound(worker)
    manifests = tmp_path / "staged.yaml"
    manifests.write_text(yaml.safe_dump_all(kustomize_staged("ovn-kubernetes")))
    node.kubectl("apply", "-f", str(manifests))
    node.kubectl("rollout", "status", "daemonset/ovn-ipsec", "--timeout=110s")
    node.wait_until_ready()
    for stage in ("audit", "enforce"):
        tell(worker, stage)
        wait_for(f"the guard is told {stage}", partial(has_heard, worker, stage))
    assert report(worker)["wanted"] == 1
    # It has Open vSwitch's socket, which is not root's, and nothing else of the node's.
    status = node.execute("follower", "cat", "/proc/self/status")
    values = dict(line.split(":", 1) for line in status.splitlines())
    assert int(values["CapBnd"], 16) == 1 << 1
    assert set(node.restarts().values()) == {0}


def tell(worker: Worker, stage: str) -> None:
    """As northd copies it from the northbound database."""
    row = {"options": ["map", [["ovn-ipsec-guard", stage]]]}
    southbound(worker, {"op": "update", "table": "SB_Global", "where": [], "row": row})


def has_heard(worker: Worker, stage: str) -> bool:
    """Whether the guard is in this mode, and the cluster told so."""
    guard = worker.host("nft", "list", "table", "inet", "ovn_ipsec")
    return f"mode={stage}" in guard and report(worker).get("guard") == stage


def report(worker: Worker) -> dict[str, object]:
    rows = southbound(worker, {"op": "select", "table": "Chassis_Private", "where": []})["rows"]
    said = dict(rows[0]["external_ids"][1]).get("ovn-ipsec", "{}")
    found = json.loads(said)
    assert isinstance(found, dict)
    return found
