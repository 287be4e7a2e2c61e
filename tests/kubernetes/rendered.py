"""Manifests as kubectl and helm make them, read back."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tools.kubernetes.command_line import ensure_command_line

Object = dict[str, Any]

REPOSITORY = Path(__file__).parents[2]
MANIFESTS = REPOSITORY / "manifests"
CHART = MANIFESTS / "helm" / "ovn-ipsec"
PLATFORMS = ("kube-ovn", "openshift", "ovn-kubernetes")


def kustomize(directory: Path) -> list[Object]:
    """What ``kubectl apply -k`` would apply."""
    return _objects("kubectl", "kustomize", str(directory))


def kustomize_staged(platform: str) -> list[Object]:
    """The overlay with the component for ``ovn-ipsec cluster``."""
    return kustomize_with(platform, "staged-roll-out")


def kustomize_with(platform: str, *components: str) -> list[Object]:
    """The overlay with these components, in this order."""
    with tempfile.TemporaryDirectory() as name:
        parts = {
            "resources": [os.path.relpath(MANIFESTS / "overlays" / platform, name)],
            "components": [
                os.path.relpath(MANIFESTS / "components" / one, name) for one in components
            ],
        }
        Path(name, "kustomization.yaml").write_text(yaml.safe_dump(parts))
        return kustomize(Path(name))


def helm_template(chart: Path, *flags: str) -> list[Object]:
    """What ``helm install`` would apply."""
    return _objects("helm", "template", "x", str(chart), "--namespace", "ovn-ipsec", *flags)


def _objects(program: str, *arguments: str) -> list[Object]:
    done = subprocess.run(
        [ensure_command_line() / program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def by_name(objects: list[Object]) -> dict[str, Object]:
    """Keyed by kind and name; no two may be the same."""
    found = {f"{item['kind']}/{item['metadata']['name']}": item for item in objects}
    assert len(found) == len(objects)
    return found


def node_pod(objects: list[Object]) -> Object:
    """The pod's specification in the DaemonSet."""
    pod: Object = by_name(objects)["DaemonSet/ovn-ipsec"]["spec"]["template"]["spec"]
    return pod


def settings(objects: list[Object]) -> dict[str, str]:
    """The settings' ConfigMap, under whatever name."""
    (found,) = (
        item["data"]
        for item in objects
        if item["kind"] == "ConfigMap"
        and item["metadata"]["name"].startswith("ovn-ipsec-settings")
    )
    assert isinstance(found, dict)
    return found
