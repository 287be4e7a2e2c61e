"""The DaemonSet's manifest, read as a kubelet would, and what the runtime is told."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.image.manifest import Pod, Volume
from tools.image.oci import Namespaces, specification

DAEMONSET = Path(__file__).parents[3] / "manifests" / "base" / "node" / "daemonset.yaml"
SETTINGS = {"guard-mode": "enforce", "guard-on-unknown": "enforce", "guard-ports": ""}


@pytest.fixture
def template() -> Any:
    return copy.deepcopy(yaml.safe_load(DAEMONSET.read_text())["spec"]["template"]["spec"])


def place(pod: Pod, *names: str) -> dict[str, Path]:
    return {volume.name: Path("/there", volume.name) for volume in pod.volumes(*names)}


def test_a_container_is_run_with_what_the_manifest_gives_it_and_no_more(template: Any) -> None:
    pod = Pod(template, SETTINGS)
    guard = pod.container("guard", place(pod, "guard"))
    assert guard.command[2:] == ["apply", "--guard-on-unknown=enforce", "--guard-ports="]
    made = specification(guard, Path("/image"), ["PATH=/bin"], Namespaces({"mount": ""}), "/g")
    process = made["process"]
    assert process["capabilities"] == {
        kind: ["CAP_NET_ADMIN"] for kind in ("bounding", "effective", "permitted")
    }
    assert process["noNewPrivileges"] is True
    assert made["root"] == {"path": "/image", "readonly": True}
    assert made["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    (bound,) = (item for item in made["mounts"] if item["type"] == "bind")
    assert (bound["source"], bound["destination"]) == ("/there/guard", "/var/lib/openvswitch")
    # The network is the machine's.
    assert made["linux"]["namespaces"] == [{"type": "mount"}]


def test_volumes_are_those_that_the_containers_mount(template: Any) -> None:
    pod = Pod(template, SETTINGS)
    assert pod.volumes("guard") == [
        Volume("guard", host_path=Path("/var/lib/ovn-ipsec/guard")),
    ]
    assert Volume("tmp", memory_bytes=16 << 20) in pod.volumes("pluto")
    assert pod.pre_stop("agent") == []
    assert "--leave-state" in pod.pre_stop("pluto")[-1]


def test_rights_that_a_manifest_gives_are_rights_that_the_runtime_gives(template: Any) -> None:
    """Or a scenario that passes would say nothing about the manifest."""
    agent = template["containers"][0]
    agent["securityContext"] = {
        "allowPrivilegeEscalation": True,
        "readOnlyRootFilesystem": False,
        "capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]},
        "seccompProfile": {"type": "Unconfined"},
    }
    pod = Pod(template, SETTINGS)
    found = pod.container("agent", place(pod, "agent"))
    made = specification(found, Path("/image"), [], Namespaces({}), "/g")
    assert made["process"]["noNewPrivileges"] is False
    assert made["process"]["capabilities"]["bounding"] == ["CAP_SYS_ADMIN"]
    assert made["root"]["readonly"] is False
    assert "seccomp" not in made["linux"]


def test_what_is_left_to_the_runtime_is_refused(template: Any) -> None:
    del template["containers"][0]["securityContext"]["capabilities"]["drop"]
    pod = Pod(template, SETTINGS)
    with pytest.raises(KeyError, match="drop"):
        pod.container("agent", place(pod, "agent"))
