"""The DaemonSet's pod on a node of the lab: what a kubelet would do with it, without one.

Its containers run from our image's own root file system, by runc, with the command lines, rights,
volumes and hooks of the manifest. Enrolment is left out: it needs an API server.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import yaml

import tools.image.manifest as manifest
from tools.image.container import Image, Pod
from tools.lab.container import PROJECT, LabError, wait_until
from tools.lab.node import Node

IMAGE = Path(os.environ.get("LAB_IMAGE", "/opt/image"))
"""The unpacked image: a disk of the machine that ``python3 -m tools.lab --image`` starts."""
_DAEMONSET = PROJECT / "manifests" / "base" / "node" / "daemonset.yaml"
_INIT = "guard"
_CONTAINERS = ("agent", "pluto")
"""In the manifest's order, which is the order in which a kubelet starts them."""
_PIDFILES = {
    "agent": "/run/ovn-ipsec/ovs-monitor-ipsec.pid",
    "pluto": "/run/pluto/pluto.pid",
}
_STATE = "/var/lib/ovn-ipsec"
_READY = "http://127.0.0.1:9311/readyz"
_numbers = count(1)


def daemonset_pod(settings: Mapping[str, str]) -> manifest.Pod:
    """The DaemonSet's pod with these settings in its ConfigMap."""
    found = yaml.safe_load(_DAEMONSET.read_text("utf-8"))
    return manifest.Pod(found["spec"]["template"]["spec"], settings)


class NodePod:
    """One node's: whichever pod runs there now. Open vSwitch is the node's own."""

    def __init__(self, node: Node, template: manifest.Pod) -> None:
        """Nothing runs yet. LabError if the machine has no image."""
        if not (IMAGE / "rootfs").is_dir():
            raise LabError("no container image here: start the machine with --image")
        self._node = node
        self._template = template
        self._image = Image.unpacked(IMAGE)
        self._pod: Pod | None = None
        self._mounted: list[str] = []
        private = node.directory / "state"
        private.mkdir()
        Path(_STATE).mkdir(exist_ok=True)
        node.run(["mount", "--bind", str(private), _STATE])
        # runc asks for one, and containers of a node without a kubelet have nothing else there.
        node.run(["mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup"])

    def start(self) -> None:
        """Run the guard's container to its end and start the others; LabError if it fails."""
        number = next(_numbers)
        directory = self._node.path(f"/var/log/pods/{number}")
        self._mounted = []
        self._pod = Pod(
            f"lab-{self._node.name}-{number}",
            Image(self._layer(directory), self._image.environment),
            directory,
            enter=self._node.enter,
            host_network=True,
        )
        self._volumes = {
            volume.name: self._place(volume, directory / "volumes" / volume.name)
            for volume in self._template.volumes(_INIT, *_CONTAINERS)
        }
        code, said = self._pod.run(self._template.container(_INIT, self._volumes))
        if code != 0:
            raise LabError(f"{self._node.name}: {_INIT} ended with {code}: {said}")
        for name in _CONTAINERS:
            self._pod.start(self._template.container(name, self._volumes))

    def stop(self) -> dict[str, int]:
        """As a pod is deleted: each container's hook, SIGTERM, and SIGKILL after the grace period;
        all at once. Their exit codes."""
        pod = self._running()
        with ThreadPoolExecutor(len(_CONTAINERS)) as pool:
            codes = list(pool.map(self._end, _CONTAINERS))
        pod.close()
        self._pod = None
        self._node.run(["umount", *self._mounted])
        return dict(zip(_CONTAINERS, codes, strict=True))

    def execute(self, container: str, *command: str) -> str:
        """What a command prints in a running container; LabError if it fails."""
        code, said = self._running().execute(container, *command)
        if code != 0:
            raise LabError(f"{self._node.name}: {container}: {command} ended with {code}: {said}")
        return said

    def appctl(self, *arguments: str) -> str:
        """``kubectl exec ... -- ovs-appctl -t ovs-monitor-ipsec ...``"""
        return self.execute("agent", "ovs-appctl", "-t", "ovs-monitor-ipsec", *arguments)

    def process_status(self, container: str) -> dict[str, str]:
        """The kernel's word on a container's daemon (proc(5), /proc/PID/status)."""
        command = f"cat /proc/$(cat {_PIDFILES[container]})/status"
        lines = self.execute(container, "sh", "-c", command).splitlines()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}

    def log(self, container: str) -> str:
        return self._running().log(container)

    def ready(self) -> bool:
        """What the readiness probe would hear."""
        asked = ["curl", "--silent", "--fail", "--max-time", "5", _READY]
        return self._node.attempt(asked).returncode == 0

    def wait_until_ready(self, timeout_s: float = 120) -> float:
        """Seconds that it took; TimeoutError."""
        what = f"{self._node.name}: the pod is ready"
        return wait_until(self.ready, timeout_s, what, interval_s=0.5)

    def _end(self, name: str) -> int:
        pod, grace_s = self._running(), self._template.grace_s
        began = time.monotonic()
        hook = self._template.pre_stop(name)
        if hook:
            pod.execute(name, *hook, timeout_s=grace_s)
        pod.signal(name, "TERM")
        try:
            return pod.wait(name, max(2.0, grace_s - (time.monotonic() - began)))
        except subprocess.TimeoutExpired:
            pod.signal(name, "KILL")
            return pod.wait(name)

    def _place(self, volume: manifest.Volume, memory: Path) -> Path:
        """Make a volume's directory; where it is, as the node sees it."""
        if volume.host_path is not None:
            self._node.run(["mkdir", "-p", str(volume.host_path)])
            return volume.host_path
        memory.mkdir(parents=True)
        size = f"size={volume.memory_bytes},mode=0777"
        self._node.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(memory)])
        self._mounted.append(str(memory))
        return memory

    def _layer(self, directory: Path) -> Path:
        """The image under a layer for the runtime's own mount points, as containerd has it."""
        upper, work, root = (directory / name for name in ("upper", "work", "root"))
        for place in (upper, work, root):
            place.mkdir(parents=True)
        options = f"lowerdir={self._image.root},upperdir={upper},workdir={work}"
        self._node.run(["mount", "-t", "overlay", "-o", options, "image", str(root)])
        self._mounted.append(str(root))
        return root

    def _running(self) -> Pod:
        if self._pod is None:
            raise LabError(f"{self._node.name} has no pod")
        return self._pod
