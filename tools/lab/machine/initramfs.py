"""Writes the initial RAM file system: static busybox, a handful of modules, one script."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_MODULES = (
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "crc32c_generic",
    "ext4",
    "overlay",
    "9pnet_virtio",
    "9p",
)
_INIT = Path(__file__).parent / "initramfs-init.sh"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, directory or device of a cpio archive."""

    name: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def build_initramfs(tree: Path) -> bytes:
    """The archive for the kernel whose modules are in `tree`."""
    [modules] = (tree / "lib" / "modules").iterdir()
    order = load_order((modules / "modules.dep").read_text(), _MODULES)
    executable = stat.S_IFREG | 0o755
    entries = [
        Entry(name, stat.S_IFDIR | 0o755)
        for name in ("bin", "dev", "proc", "sys", "mnt", "new", "modules")
    ]
    entries.append(Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)))
    entries.append(Entry("bin/busybox", executable, (tree / "bin" / "busybox").read_bytes()))
    for number, path in enumerate(order):
        content = (modules / path).read_bytes()
        entries.append(Entry(f"modules/{number:02}-{Path(path).name}", executable, content))
    entries.append(Entry("init", executable, _INIT.read_bytes()))
    return render_cpio(entries)


def load_order(modules_dep: str, wanted: Iterable[str]) -> list[str]:
    """Paths of the wanted modules and all that they need, each after its dependencies.

    A wanted module that the kernel has built in is not in `modules_dep` and is left out.
    """
    needs: dict[str, list[str]] = {}
    by_name: dict[str, str] = {}
    for line in modules_dep.splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
        by_name[Path(path).name.split(".")[0].replace("-", "_")] = path
    order: list[str] = []
    for name in wanted:
        found = by_name.get(name)
        if found is None:
            continue
        # depmod lists what must be loaded first at the end.
        order += [path for path in [*reversed(needs[found]), found] if path not in order]
    return order


def render_cpio(entries: Sequence[Entry]) -> bytes:
    """An archive in the `newc` format (the kernel's buffer-format.txt)."""
    archive = bytearray()
    for number, entry in enumerate([*entries, Entry("TRAILER!!!", 0)]):
        name = entry.name.encode() + b"\0"
        fields = [number + 1, entry.mode, 0, 0, 1, 0, len(entry.content), 0, 0]
        fields += [*entry.device, len(name), 0]
        archive += b"070701" + b"".join(b"%08X" % field for field in fields)
        archive += name
        archive += bytes(-len(archive) % 4)
        archive += entry.content
        archive += bytes(-len(archive) % 4)
    return bytes(archive)
