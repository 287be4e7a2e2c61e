"""Runs containers of an image with runc, as a node's pod does: no registry, daemon or kubelet.

Network and process namespaces are the pod's own, with no interface but loopback.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_WAIT_S = 30


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory of the machine in a container."""

    source: Path
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Container:
    """What is run, and with which rights. The root file system is read-only."""

    name: str
    command: Sequence[str]
    user: int = 0
    capabilities: Sequence[str] = ()
    """Without ``CAP_``; all others are dropped."""
    mounts: Sequence[Mount] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


class Pod:
    """Containers of one image that share network and process numbers. ``close`` kills them."""

    def __init__(self, layout: Path, tag: str, directory: Path) -> None:
        """Unpack the image into ``directory``, which gets everything else, too."""
        self._directory = directory
        bundle = directory / "image"
        subprocess.run(
            ["umoci", "unpack", "--image", f"{layout}:{tag}", str(bundle)],
            check=True,
            capture_output=True,
        )
        self.root = bundle / "rootfs"
        self.image_config: dict[str, Any] = json.loads((bundle / "config.json").read_text())
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._pause: int | None = None

    def start(self, container: Container) -> None:
        """Start it and go on; its output is in ``log``."""
        if self._pause is None:
            self._start_pause()
        self._launch(container)

    def run(self, container: Container, timeout_s: float = 60) -> tuple[int, str]:
        """Run it to its end: exit code and output."""
        self.start(container)
        code = self._running.pop(container.name).wait(timeout_s)
        return code, self.log(container.name)

    def execute(self, name: str, *command: str, timeout_s: float = 60) -> tuple[int, str]:
        """Run a command inside a running container, with that one's rights."""
        done = subprocess.run(
            [*self._runc(), "exec", name, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return done.returncode, done.stdout

    def wait(self, name: str, timeout_s: float = 60) -> int:
        """The exit code of a container that ends by itself."""
        return self._running.pop(name).wait(timeout_s)

    def log(self, name: str) -> str:
        return (self._directory / name / "log").read_text(errors="replace")

    def close(self) -> None:
        for name in [*self._running, *(["pause"] if self._pause is not None else [])]:
            subprocess.run(
                [*self._runc(), "delete", "--force", name], capture_output=True, check=False
            )
        for process in self._running.values():
            process.wait(_WAIT_S)

    def _start_pause(self) -> None:
        """Holds the namespaces, and brings the loopback interface up."""
        script = "ip link set lo up && echo up && exec sleep infinity"
        self._launch(Container("pause", ["/bin/sh", "-c", script], capabilities=["NET_ADMIN"]))
        deadline = time.monotonic() + _WAIT_S
        while "up\n" not in self.log("pause"):
            if self._running["pause"].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the pod does not start: {self.log('pause')}")
            time.sleep(0.05)
        said = subprocess.run([*self._runc(), "state", "pause"], capture_output=True, check=True)
        self._pause = int(json.loads(said.stdout)["pid"])

    def _launch(self, container: Container) -> None:
        bundle = self._directory / container.name
        bundle.mkdir(exist_ok=True)
        (bundle / "config.json").write_text(json.dumps(self._specification(container)))
        with (bundle / "log").open("wb") as log:
            self._running[container.name] = subprocess.Popen(
                [*self._runc(), "run", "--bundle", str(bundle), container.name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=bundle,
            )

    def _runc(self) -> list[str]:
        return ["runc", "--root", str(self._directory / "runc")]

    def _specification(self, container: Container) -> dict[str, Any]:
        """The runtime's configuration (OCI runtime specification, config.md)."""
        names = [f"CAP_{name}" for name in container.capabilities]
        environment = [*self.image_config["process"]["env"]]
        environment += [f"{key}={value}" for key, value in container.environment.items()]
        own = [{"type": name} for name in ("ipc", "uts", "mount")]
        shared = [{"type": name} for name in ("network", "pid")]
        if self._pause is not None:
            for item, file in zip(shared, ("net", "pid"), strict=True):
                item["path"] = f"/proc/{self._pause}/ns/{file}"
        kept = ("/proc", "/dev", "/dev/pts", "/dev/shm", "/sys")
        mounts = [item for item in self.image_config["mounts"] if item["destination"] in kept]
        for mount in container.mounts:
            options = ["rbind", "ro" if mount.read_only else "rw"]
            place = {"destination": mount.target, "source": str(mount.source)}
            mounts.append({**place, "type": "bind", "options": options})
        return {
            "ociVersion": "1.0.2",
            "root": {"path": str(self.root), "readonly": True},
            "process": {
                "user": {"uid": container.user, "gid": container.user},
                "args": list(container.command),
                "env": environment,
                "cwd": "/",
                "noNewPrivileges": True,
                "capabilities": {kind: names for kind in ("bounding", "effective", "permitted")},
            },
            "mounts": mounts,
            "linux": {
                "namespaces": own + shared,
                "maskedPaths": self.image_config["linux"]["maskedPaths"],
                "readonlyPaths": self.image_config["linux"]["readonlyPaths"],
            },
        }
