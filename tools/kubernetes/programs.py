"""The control plane's programs, built once and kept below ``~/.cache/ovn-ipsec``."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from enum import StrEnum
from pathlib import Path

_SCRIPT = Path(__file__).with_name("build.sh")
VERSION = "1.20.2"
RECIPE = "r1"
"""Changes whenever ``build.sh`` makes something else of the same source."""


class Program(StrEnum):
    """What can be built."""

    API_SERVER = "kube-apiserver"
    CONTROLLER_MANAGER = "kube-controller-manager"
    SCHEDULER = "kube-scheduler"
    KUBELET = "kubelet"


def ensure(*wanted: Program) -> Path:
    """The directory that has these programs in it, built if they are missing.

    Whoever comes second waits, unless all is there. Raises CalledProcessError when the build
    fails.
    """
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    directory = Path(base) / "ovn-ipsec" / f"kubernetes-{VERSION}-{RECIPE}"
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run([_SCRIPT, "install"], check=True)
    if all((directory / name).exists() for name in wanted):
        return directory
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [name for name in wanted if not (directory / name).exists()]
        if missing:
            subprocess.run([_SCRIPT, directory, *missing], check=True)
    return directory


if __name__ == "__main__":
    sys.stdout.write(f"{ensure(*map(Program, sys.argv[1:] or [Program.API_SERVER]))}\n")
