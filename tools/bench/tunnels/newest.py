"""The newest ovs-monitor-ipsec that Debian has, to be measured beside the lab's own."""

from __future__ import annotations

import lzma
import shutil
import subprocess
import urllib.request
from pathlib import Path

from tools.lab.machine.cache import cache_dir, ensure

_MIRROR = "http://deb.debian.org/debian"
_PACKAGES = f"{_MIRROR}/dists/sid/main/binary-amd64/Packages.xz"
_SCRIPT = "usr/share/openvswitch/scripts/ovs-monitor-ipsec"
_TIMEOUT_S = 120


def fetch_newest_original() -> tuple[str, Path]:
    """Its version, and the script, unpacked and kept. Raises OSError without network."""
    index = lzma.decompress(_read(_PACKAGES)).decode()
    paragraph = next(
        each for each in index.split("\n\n") if each.startswith("Package: openvswitch-ipsec\n")
    )
    fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line)
    version = fields["Version"]

    def unpack(target: Path) -> None:
        package = target / "package.deb"
        package.write_bytes(_read(f"{_MIRROR}/{fields['Filename']}"))
        subprocess.run(["dpkg-deb", "-x", package, target / "root"], check=True)
        shutil.copy(target / "root" / _SCRIPT, target / "ovs-monitor-ipsec")

    entry = ensure(cache_dir() / f"original-{version}", f"openvswitch-ipsec {version}", unpack)
    return version, entry / "ovs-monitor-ipsec"


def _read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310  Debian's mirror
        content: bytes = answer.read()
        return content
