"""The real ``ovs-appctl`` and ``ovs-lib``: installed here, or in a root directory.

``OVN_IPSEC_CONTRACT_ROOT`` names the root of a Debian system with openvswitch-common and
openvswitch-switch (the lab's); without it the machine's own programs are used. Nothing is
written into the root: the socket's directory is mounted over its /mnt in a mount namespace.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT_VARIABLE = "OVN_IPSEC_CONTRACT_ROOT"
_IN_ROOT = 'mount --bind "$1" "$2/mnt" && root=$2 && shift 2 && exec chroot "$root" "$@"'


@dataclass(frozen=True)
class OpenVswitchPrograms:
    """Runs Open vSwitch's programs; files of ``shared`` are theirs under ``seen_as``."""

    root: Path | None
    shared: Path

    @property
    def seen_as(self) -> Path:
        return self.shared if self.root is None else Path("/mnt")

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        command = list(argv)
        if self.root is not None:
            mount = ["unshare", "--mount", "sh", "-c", _IN_ROOT, "sh"]
            command = [*mount, str(self.shared), str(self.root), *argv]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def appctl(
        self, socket: str, *words: str, options: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        target = str(self.seen_as / socket)
        return self.run("ovs-appctl", *options, "-t", target, *words)


def find_programs(shared: Path) -> OpenVswitchPrograms:
    """Raises LookupError where there is no ``ovs-appctl``: a tier that cannot run must fail."""
    root = os.environ.get(ROOT_VARIABLE)
    if root:
        return OpenVswitchPrograms(Path(root), shared)
    if shutil.which("ovs-appctl"):
        return OpenVswitchPrograms(None, shared)
    raise LookupError(f"no ovs-appctl here: install openvswitch-common or set {ROOT_VARIABLE}")
