"""One node for the whole run: our overlay, applied to a real control plane and a real kubelet."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

import ovn_ipsec
from tests.kubelet.node_pod import NodePod, wait_for
from tests.kubernetes.rendered import MANIFESTS, REPOSITORY
from tools.kubernetes.host_ovs import CHASSIS, start_open_vswitch
from tools.kubernetes.worker import NODE, Worker


@pytest.fixture(scope="session")
def worker() -> Iterator[Worker]:
    """``make test-kubelet`` has built the image, for here is no way out to a mirror."""
    with Worker(REPOSITORY / "build" / "image", ovn_ipsec.__version__) as worker:
        start_open_vswitch(worker)
        wait_for("the node is registered", lambda: NODE in worker.kubectl("get", "nodes"))
        worker.kubectl("annotate", "node", NODE, f"k8s.ovn.org/node-chassis-id={CHASSIS}")
        worker.kubectl("apply", "-k", str(MANIFESTS / "overlays" / "ovn-kubernetes"))
        yield worker
        sys.stderr.write(worker.kubectl("get", "events", "-A"))


@pytest.fixture
def node(worker: Worker) -> NodePod:
    """With a pod that is ready."""
    pod = NodePod(worker)
    pod.wait_until_ready()
    return pod
