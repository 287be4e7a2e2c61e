"""A whole cluster of one node, on the machine that ``machine.sh`` makes of this one.

Real kubelet, containerd and runc; controller manager and scheduler beside the API server. There is
no pod network and no kube-proxy: pods are the node's own (``hostNetwork``), and the API server
listens on its service address itself. ``kubectl exec`` works, for kubelet takes anybody's word
where nobody else is.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tools.kubernetes.command_line import ensure_command_line
from tools.kubernetes.control_plane import ControlPlane, Identity, Options
from tools.kubernetes.programs import Program, ensure

STATE_VARIABLE = "OVN_IPSEC_MACHINE"
"""Set by ``machine.sh``: a directory for large things. Where it is not set, nothing may start."""
NODE = "node-1"
ADDRESS = "10.0.0.1"
PEER = "10.0.0.2"
"""Another node, which has lost its power."""
SERVICE_ADDRESS = "10.96.0.1"
_IDENTITY = Identity(f"system:node:{NODE}", ("system:nodes",))
_OPTIONS = Options(
    port=443,
    bind="0.0.0.0",  # noqa: S104 (every address of a machine that nobody reaches)
    addresses=(ADDRESS, SERVICE_ADDRESS),
    flags=(
        "--enable-admission-plugins=NodeRestriction",
        # For kubectl logs and exec; nobody resolves the node's name.
        "--kubelet-preferred-address-types=InternalIP",
    ),
)
_HERE = Path(__file__).parent
_PAUSE = "trap 'exit 0' TERM INT; while :; do sleep 1; done"
"""What holds a pod's namespaces. A shell that waits also buries orphans."""
_CONTAINERD = """
version = 2
root = "{state}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # Not every machine lets its root lower the OOM score.
  restrict_oom_score_adj = true
"""
_KUBELET: dict[str, Any] = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
    "authorization": {"mode": "AlwaysAllow"},
    "cgroupsPerQOS": False,
    "enforceNodeAllocatable": [],
    "makeIPTablesUtilChains": False,
    "failSwapOn": False,
    # The machine's disk is not the test's.
    "evictionHard": {"memory.available": "1Mi"},
    "imageGCHighThresholdPercent": 100,
    "resolvConf": "",
}


class Worker:
    """API server, controllers and a node. ``close`` kills what can be killed; the rest ends with
    the machine."""

    def __init__(self, layout: Path, tag: str) -> None:
        """For the OCI image in ``layout``. Raises RuntimeError outside of ``machine.sh``."""
        if STATE_VARIABLE not in os.environ:
            raise RuntimeError("this changes the machine: use tools/kubernetes/machine.sh")
        self.state = Path(os.environ[STATE_VARIABLE])
        self._layout = layout
        self._tag = tag
        self._image = f"docker.io/library/ovn-ipsec:{tag}"
        self._processes: list[subprocess.Popen[bytes]] = []
        containerd = subprocess.run(
            [_HERE / "install-containerd.sh"], check=True, capture_output=True, text=True
        )
        self._path = f"{containerd.stdout.strip()}:{os.environ['PATH']}:/usr/sbin:/sbin"
        self._programs = ensure(
            Program.CONTROLLER_MANAGER, Program.SCHEDULER, Program.KUBELET, Program.API_SERVER
        )
        plane = self.state / "control-plane"
        plane.mkdir()
        self.plane = ControlPlane(plane, [_IDENTITY], _OPTIONS)
        self.root = self.state / "image" / "rootfs"
        """The image's root file system: its programs are those of the host, too."""

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill the control plane and the node's daemons."""
        for process in reversed(self._processes):
            process.kill()
            process.wait()
        self.plane.close()

    def log(self, program: str) -> str:
        """What a daemon has said."""
        return (self.state / f"{program}.log").read_text(errors="replace")

    def kubectl(self, *arguments: str, timeout_s: float = 120) -> str:
        """What kubectl prints. Raises RuntimeError."""
        return self._run([*self.kubectl_words(), *arguments], timeout_s)

    def kubectl_words(self) -> list[str]:
        """kubectl as the administrator, for a command line that goes on."""
        program = ensure_command_line() / "kubectl"
        return [str(program), "--kubeconfig", str(self.plane.kubeconfig())]

    def host(self, *command: str) -> str:
        """What a program of the host's prints. Raises RuntimeError."""
        return self._run(["chroot", str(self.root), *command])

    def process_of(self, container_id: str) -> int:
        """The process number of a container that runs, by its id in the pod's status."""
        wanted = container_id.removeprefix("containerd://")
        for line in self._ctr("tasks", "ls").splitlines():
            words = line.split()
            if words[0] == wanted:
                return int(words[1])
        raise LookupError(f"no task {wanted}")

    def start_daemon(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start it and go on; its output is in ``log``."""
        environment = {**os.environ, "PATH": self._path}
        with (self.state / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        self._processes.append(process)
        return process

    def _start(self) -> None:
        for words in (
            "link add node type veth peer name nobody",
            "link set node up",
            "link set nobody up",
            f"address add {ADDRESS}/24 dev node",
            # Nobody has this hardware address: what is sent to the peer is sent, and lost.
            f"neighbour add {PEER} lladdr 02:00:00:00:00:02 nud permanent dev node",
            f"address add {SERVICE_ADDRESS}/32 dev node",
        ):
            self._run(["ip", *words.split()])
        self.plane.start()
        self._start_controllers()
        self._start_containerd()
        self._start_kubelet()

    def _start_controllers(self) -> None:
        config = self.plane.kubeconfig()
        keys = self.plane.directory
        self.start_daemon(
            "controller-manager",
            [
                str(self._programs / Program.CONTROLLER_MANAGER),
                f"--kubeconfig={config}",
                "--leader-elect=false",
                f"--service-account-private-key-file={keys / 'accounts.key'}",
                f"--root-ca-file={self.plane.ca}",
            ],
        )
        self.start_daemon(
            "scheduler",
            [
                str(self._programs / Program.SCHEDULER),
                f"--kubeconfig={config}",
                "--leader-elect=false",
            ],
        )

    def _start_containerd(self) -> None:
        pause = "docker.io/library/ovn-ipsec:pause"
        config = self.state / "containerd.toml"
        config.write_text(_CONTAINERD.format(state=self.state, pause=pause))
        self.start_daemon("containerd", ["containerd", "--config", str(config)])
        # The pod's first container is the same image with another command.
        layout = self.state / "layout"
        shutil.copytree(self._layout, layout)
        words = ["--config.cmd=/bin/sh", "--config.cmd=-c", f"--config.cmd={_PAUSE}"]
        source = f"{layout}:{self._tag}"
        self._run(["umoci", "config", "--image", source, "--tag", "pause", *words])
        self._run(["umoci", "unpack", "--image", source, str(self.root.parent)])
        for name in ("dev", "proc", "run"):
            (self.root / name).mkdir(exist_ok=True)
            self._run(["mount", "--bind", f"/{name}", str(self.root / name)])
        archive = self.state / "image.tar"
        self._run(["tar", "--create", "--file", str(archive), "--directory", str(layout), "."])
        deadline = time.monotonic() + 60
        while not Path("/run/containerd/containerd.sock").exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"containerd does not start: {self.log('containerd')}")
            time.sleep(0.1)
        base = self._image.rpartition(":")[0]
        self._ctr("images", "import", "--base-name", base, str(archive))
        archive.unlink()

    def _start_kubelet(self) -> None:
        config = self.state / "kubelet.json"
        config.write_text(json.dumps(_KUBELET))
        self.start_daemon(
            "kubelet",
            [
                str(self._programs / Program.KUBELET),
                f"--config={config}",
                f"--kubeconfig={self.plane.kubeconfig(_IDENTITY)}",
                f"--hostname-override={NODE}",
                f"--node-ip={ADDRESS}",
                "--container-runtime=remote",
                "--container-runtime-endpoint=unix:///run/containerd/containerd.sock",
            ],
        )

    def _ctr(self, *arguments: str) -> str:
        address = "/run/containerd/containerd.sock"
        return self._run(["ctr", "--address", address, "--namespace", "k8s.io", *arguments], 300)

    def _run(self, command: Sequence[str], timeout_s: float = 300) -> str:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**os.environ, "PATH": self._path},
            check=False,
        )
        if done.returncode != 0:
            words = " ".join(command)
            raise RuntimeError(f"{words} failed with {done.returncode}: {done.stderr}")
        return done.stdout
