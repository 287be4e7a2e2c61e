"""A container as the runtime is told: the OCI runtime specification's config.json. Pure, but for
the seccomp profile, which is a file beside this one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]

_PROFILE = Path(__file__).with_name("runtime-default.json")
# Of a pod's container, as containerd 1.6 has it; make test-kubelet compares.
_MASKED = (
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
)
_READ_ONLY = (
    "/proc/asound",
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)
_SYSTEM_MOUNTS = (
    ("/proc", "proc", "nosuid,noexec,nodev"),
    ("/dev", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
    ("/dev/pts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
    ("/dev/shm", "tmpfs", "nosuid,noexec,nodev,mode=1777,size=65536k"),
    ("/dev/mqueue", "mqueue", "nosuid,noexec,nodev"),
    ("/sys", "sysfs", "nosuid,noexec,nodev,ro"),
)


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory of the machine in a container."""

    source: Path
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Container:
    """What is run, and with which rights."""

    name: str
    command: Sequence[str]
    user: int = 0
    capabilities: Sequence[str] = ()
    """Without ``CAP_``; all others are dropped."""
    mounts: Sequence[Mount] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    read_only_root: bool = True
    no_new_privileges: bool = True
    seccomp: bool = False
    """Whether containerd's RuntimeDefault filters its system calls."""


@dataclass(frozen=True, slots=True)
class Namespaces:
    """Which a container has: for each of its own, or a pod's, kind the file of one to join ("": a
    new one). The machine's where a kind is not named."""

    joined: Mapping[str, str]

    def listed(self) -> list[Json]:
        return [
            {"type": kind, **({"path": path} if path else {})}
            for kind, path in self.joined.items()
        ]


def runtime_default() -> Json:
    """The seccomp profile that containerd 1.6.20 gave to each container of the node's pod.

    It depends on the container's capabilities, and on none of those that ours ask for.
    """
    found = json.loads(_PROFILE.read_text("ascii"))
    assert isinstance(found, dict)
    return found


def specification(
    container: Container,
    root: Path,
    environment: Sequence[str],
    namespaces: Namespaces,
    group: str,
) -> Json:
    """The configuration (OCI runtime specification, config.md) of a container in `root`.

    `environment` is the image's; `group` is the path of the container's control group.
    """
    names = [f"CAP_{name}" for name in container.capabilities]
    own = [f"{key}={value}" for key, value in container.environment.items()]
    mounts: list[Json] = [
        {"destination": target, "type": kind, "source": kind, "options": options.split(",")}
        for target, kind, options in _SYSTEM_MOUNTS
    ]
    for mount in container.mounts:
        options = ["rbind", "rprivate", "ro" if mount.read_only else "rw"]
        place = {"destination": mount.target, "source": str(mount.source)}
        mounts.append({**place, "type": "bind", "options": options})
    linux: Json = {
        "cgroupsPath": group,
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "namespaces": namespaces.listed(),
        "maskedPaths": list(_MASKED),
        "readonlyPaths": list(_READ_ONLY),
    }
    if container.seccomp:
        linux["seccomp"] = runtime_default()
    return {
        "ociVersion": "1.0.2",
        "root": {"path": str(root), "readonly": container.read_only_root},
        "process": {
            "user": {"uid": container.user, "gid": container.user},
            "args": list(container.command),
            "env": [*environment, *own],
            "cwd": "/",
            "noNewPrivileges": container.no_new_privileges,
            "capabilities": {kind: names for kind in ("bounding", "effective", "permitted")},
        },
        "mounts": mounts,
        "linux": linux,
    }
