"""What containerd tells runc of our containers, which is what the lab's nodes tell it, too."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.kubelet.node_pod import NodePod
from tools.image import manifest
from tools.image.oci import Namespaces, specification

pytestmark = [pytest.mark.kubelet, pytest.mark.slow]

_TASKS = Path("/run/containerd/io.containerd.runtime.v2.task/k8s.io")
_SYSTEM = ("/proc", "/dev", "/sys")
_KUBELETS_OWN = {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}


@pytest.mark.parametrize("name", ["agent", "pluto"])
def test_containers_run_as_those_of_the_labs_nodes_do(node: NodePod, name: str) -> None:
    container_id = node.container(name)["containerID"].removeprefix("containerd://")
    real = json.loads((_TASKS / container_id / "config.json").read_text())
    pod = node.pod()["spec"]
    # As they are in the cluster: another test may have applied others.
    settings, *_ = re.findall(r'"name": "(ovn-ipsec-settings-\w+)"', json.dumps(pod))
    values = json.loads(node.kubectl("get", "configmap", settings, "-o", "json"))["data"]
    assert differences(real, manifest.Pod(pod, values), name) == []


def differences(real: dict[str, Any], pod: manifest.Pod, name: str) -> list[str]:
    """Where the two configurations give a process other rights or another view."""
    places = {volume.name: Path("/there") for volume in pod.volumes(name)}
    made = specification(pod.container(name, places), Path("/image"), [], Namespaces({}), "/g")
    found = [
        (key, real["process"][key], made["process"][key])
        for key in ("args", "capabilities", "noNewPrivileges", "cwd")
    ]
    found += [
        (key, real["linux"][key], made["linux"][key])
        for key in ("seccomp", "maskedPaths", "readonlyPaths")
    ]
    found.append(("read-only root", real["root"]["readonly"], made["root"]["readonly"]))
    found.append(("devices", *(item["linux"]["resources"]["devices"] for item in (real, made))))
    found.append(("mounts", mounts(real), mounts(made)))
    return [
        f"{what}: {theirs} here, {ours} in the lab"
        for what, theirs, ours in found
        if theirs != ours
    ]


def mounts(configuration: dict[str, Any]) -> set[tuple[str, bool]]:
    """Of the pod's volumes: where, and whether they are read-only."""
    return {
        (item["destination"], "ro" in item["options"])
        for item in configuration["mounts"]
        if not item["destination"].startswith(_SYSTEM) and item["destination"] not in _KUBELETS_OWN
    }
