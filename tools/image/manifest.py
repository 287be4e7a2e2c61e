"""A pod's manifest, as far as a kubelet would act on it: which containers, how, where. Pure.

What a manifest may say and this does not know is a ValueError where it would change what runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.image.oci import Container, Mount

Json = Mapping[str, Any]

_UNITS = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


@dataclass(frozen=True, slots=True)
class Volume:
    """Where a volume's content is."""

    name: str
    host_path: Path | None = None
    """A directory of the node's."""
    memory_bytes: int | None = None
    """A file system in memory that lives as long as the pod, of this size."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod's template."""

    specification: Json
    settings: Mapping[str, str]
    """What the ConfigMaps that its variables come from hold."""

    @property
    def grace_s(self) -> float:
        """How long its containers may take to end."""
        return float(self.specification["terminationGracePeriodSeconds"])

    def volumes(self, *names: str) -> list[Volume]:
        """Those that these containers mount."""
        mounted = {mount["name"] for name in names for mount in self._item(name)["volumeMounts"]}
        declared = self.specification["volumes"]
        return [_volume(item) for item in declared if item["name"] in mounted]

    def pre_stop(self, name: str) -> list[str]:
        """The command of a container's preStop hook; [] for none."""
        hook = self._item(name).get("lifecycle", {}).get("preStop")
        return list(hook["exec"]["command"]) if hook else []

    def container(self, name: str, volumes: Mapping[str, Path]) -> Container:
        """One of its containers, for the runtime; `volumes` says where each volume is.

        KeyError when the manifest does not say what it has to: user, rights, seccomp profile.
        """
        item = self._item(name)
        pod, own = self.specification["securityContext"], item["securityContext"]
        if own["capabilities"]["drop"] != ["ALL"]:
            raise ValueError(f"{name} keeps capabilities that are not named")
        profile = own.get("seccompProfile", pod["seccompProfile"])["type"]
        if profile not in ("RuntimeDefault", "Unconfined"):
            raise ValueError(f"{name}: unknown seccomp profile {profile}")
        return Container(
            name,
            arguments_of(item, self.settings),
            user=own.get("runAsUser", pod["runAsUser"]),
            capabilities=own["capabilities"]["add"],
            mounts=[
                Mount(volumes[mount["name"]], mount["mountPath"], mount.get("readOnly", False))
                for mount in item["volumeMounts"]
            ],
            environment={
                entry["name"]: entry["value"] for entry in item.get("env", []) if "value" in entry
            },
            read_only_root=own["readOnlyRootFilesystem"],
            no_new_privileges=not own["allowPrivilegeEscalation"],
            seccomp=profile == "RuntimeDefault",
        )

    def _item(self, name: str) -> Json:
        return containers(self.specification)[name]


def containers(pod: Json) -> dict[str, dict[str, Any]]:
    """All containers of a pod, those for its start included."""
    return {item["name"]: item for item in pod.get("initContainers", []) + pod["containers"]}


def arguments_of(container: Json, values: Mapping[str, str]) -> list[str]:
    """A container's command line with its variables filled in as the kubelet does."""
    environment = {}
    for item in container.get("env", []):
        source = item.get("valueFrom", {})
        if "configMapKeyRef" in source:
            key = source["configMapKeyRef"]["key"]
            if key in values or not source["configMapKeyRef"].get("optional"):
                environment[item["name"]] = values[key]
        else:
            environment[item["name"]] = item.get("value", "node-1")
    return [
        re.sub(r"\$\((\w+)\)", lambda match: environment[match[1]], word)
        for word in (*container["command"], *container.get("args", []))
    ]


def _volume(item: Json) -> Volume:
    if "hostPath" in item:
        return Volume(item["name"], host_path=Path(item["hostPath"]["path"]))
    if item.get("emptyDir", {}).get("medium") == "Memory":
        return Volume(item["name"], memory_bytes=_bytes(item["emptyDir"]["sizeLimit"]))
    raise ValueError(f"volume {item['name']}: neither hostPath nor memory")


def _bytes(quantity: str) -> int:
    found = re.fullmatch(r"(\d+)(\w*)", quantity)
    if found is None or found[2] not in _UNITS:
        raise ValueError(f"unknown quantity {quantity!r}")
    return int(found[1]) * _UNITS[found[2]]
