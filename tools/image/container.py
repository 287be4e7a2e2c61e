"""Runs containers of an image with runc, as a node's pod does: no registry, daemon or kubelet."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.image.oci import Container, Namespaces, specification

_WAIT_S = 30
_FIRST = "pause"
_PAUSE = "ip link set lo up && echo up && exec sleep infinity"
"""Holds the namespaces, and brings the loopback interface up."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image's root file system."""

    root: Path
    environment: Sequence[str]
    """``NAME=VALUE``"""

    @staticmethod
    def unpacked(bundle: Path) -> Image:
        """What ``umoci unpack`` has made of an image."""
        config = json.loads((bundle / "config.json").read_text("utf-8"))
        return Image(bundle / "rootfs", config["process"]["env"])


def unpack(layout: Path, tag: str, bundle: Path) -> Image:
    """Unpack the image of an OCI layout into a new directory."""
    words = ["umoci", "unpack", "--image", f"{layout}:{tag}", str(bundle)]
    subprocess.run(words, check=True, capture_output=True)
    return Image.unpacked(bundle)


class Pod:
    """Containers of one image that share network, process numbers and System V objects.

    ``close`` kills them.
    """

    def __init__(
        self,
        name: str,
        image: Image,
        directory: Path,
        *,
        enter: Sequence[str] = (),
        host_network: bool = False,
    ) -> None:
        """`name` is unique on the machine; `directory` is the pod's, and is made if need be.

        `enter` is put before each command: it enters what is the machine for this pod. A pod has
        a network of its own, with no interface but loopback, or that machine's.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.image = image
        self._name = name
        self._directory = directory
        self._enter = list(enter)
        self._shared = ("ipc", "pid") if host_network else ("ipc", "pid", "network", "uts")
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
            [*self._runc("exec", name), *command],
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

    def process(self, name: str) -> int:
        """The number of the container's first process, as the machine has it."""
        said = subprocess.run(self._runc("state", name), capture_output=True, check=True)
        return int(json.loads(said.stdout)["pid"])

    def signal(self, name: str, signal_name: str) -> None:
        """To the container's first process; nothing if it has ended."""
        subprocess.run(self._runc("kill", name, signal_name), capture_output=True, check=False)

    def close(self) -> None:
        names = [*self._running, *([_FIRST] if self._pause is not None else [])]
        for name in names:
            subprocess.run(
                self._runc("delete", name, force=True), capture_output=True, check=False
            )
        for process in self._running.values():
            process.wait(_WAIT_S)
        self._running.clear()
        self._pause = None

    def _start_pause(self) -> None:
        self._launch(Container(_FIRST, ["/bin/sh", "-c", _PAUSE], capabilities=["NET_ADMIN"]))
        deadline = time.monotonic() + _WAIT_S
        while "up\n" not in self.log(_FIRST):
            if self._running[_FIRST].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the pod does not start: {self.log('pause')}")
            time.sleep(0.05)
        self._pause = self.process(_FIRST)

    def _launch(self, container: Container) -> None:
        bundle = self._directory / container.name
        bundle.mkdir(exist_ok=True)
        made = specification(
            container,
            self.image.root,
            self.image.environment,
            self._namespaces(),
            f"/{self._name}-{container.name}",
        )
        (bundle / "config.json").write_text(json.dumps(made))
        with (bundle / "log").open("wb") as log:
            self._running[container.name] = subprocess.Popen(
                self._runc("run", container.name, bundle=bundle),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _runc(
        self,
        action: str,
        name: str,
        *arguments: str,
        bundle: Path | None = None,
        force: bool = False,
    ) -> list[str]:
        """The command line; containers of all pods share a list, so names have the pod's."""
        flags = ["--bundle", str(bundle)] if bundle else []
        flags += ["--force"] if force else []
        words = ["runc", "--root", str(self._directory / "runc"), action, *flags]
        return [*self._enter, *words, f"{self._name}-{name}", *arguments]

    def _namespaces(self) -> Namespaces:
        """New ones for the pod's first container, which the others join."""
        files = {"ipc": "ipc", "network": "net", "pid": "pid", "uts": "uts"}
        return Namespaces(
            {
                "mount": "",
                **{
                    kind: f"/proc/{self._pause}/ns/{files[kind]}" if self._pause else ""
                    for kind in self._shared
                },
            }
        )
