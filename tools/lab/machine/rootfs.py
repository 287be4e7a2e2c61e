"""Builds the images that the machine boots from: Debian root, Python packages."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.lab.machine.build import run_in_root, run_program
from tools.lab.machine.cache import cache_dir, ensure
from tools.lab.machine.kernel import unpack_kernel
from tools.lab.machine.recipe import python_recipe, root_recipe

_HERE = Path(__file__).parent
_FINISH = _HERE / "finish-root.sh"
_INSTALL_PYTHON = _HERE / "install-python.sh"
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Images:
    """Everything that a boot reads; all of it is only ever opened read-only."""

    suite: str
    tree: Path
    """The unpacked root, for its kernel modules and static busybox."""
    kernel: Path
    root: Path
    python: Path


def build_images(suite: str, project: Path) -> Images:
    """The images for one Debian suite and the project's requirements, from the cache if it can.

    Raises BuildError (tools.lab.machine.build).
    """
    recipe = root_recipe(suite, (_FINISH,))
    root = ensure(
        cache_dir() / f"root-{suite}-{recipe.digest()}",
        f"the {suite} root (about two minutes)",
        lambda target: _build_root(suite, recipe.packages, target),
    )
    setup_cfg = project / "setup.cfg"
    text = setup_cfg.read_text() if setup_cfg.exists() else ""
    wanted = python_recipe(recipe.digest() + _INSTALL_PYTHON.read_text(), text)
    python = ensure(
        cache_dir() / f"python-{suite}-{wanted.digest()}",
        f"the Python packages for {suite} (about half a minute)",
        lambda target: _build_python(root / "tree", wanted.requirements, target),
    )
    return Images(suite, root / "tree", root / "vmlinux", root / "root.img", python / "python.img")


def _build_root(suite: str, packages: Sequence[str], target: Path) -> None:
    tree = target / "tree"
    excluded = ("man", "doc", "locale", "info", "lintian", "bug")
    run_program(
        [
            "mmdebstrap",
            "--mode=root",
            "--variant=apt",
            "--format=directory",
            "--components=main",
            '--aptopt=APT::Install-Recommends "false"',
            '--aptopt=Acquire::Languages "none"',
            *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in excluded),
            f"--include={','.join(packages)}",
            f'--customize-hook={_FINISH} "$1"',
            suite,
            str(tree),
        ],
    )
    bzimage = tree / "boot" / "vmlinuz"
    (target / "vmlinux").write_bytes(unpack_kernel(bzimage.read_bytes(), tree))
    bzimage.unlink()
    pack_ext4(tree, target / "root.img")


def _build_python(tree: Path, requirements: Sequence[str], target: Path) -> None:
    venv = target / "venv"
    venv.mkdir()
    inside = "/opt/scripts"
    binds = {venv: "/opt/venv", _HERE: inside}
    script = f"{inside}/{_INSTALL_PYTHON.name}"
    run_in_root(tree, binds, [script, "/opt/venv", *requirements])
    pack_ext4(venv, target / "python.img")
    shutil.rmtree(venv)


def pack_ext4(tree: Path, image: Path) -> None:
    """An uncompressed ext4 image: decompressing is what an emulated CPU is slowest at."""
    sizes = [path.lstat().st_size for path in tree.rglob("*")]
    blocks = sum(-(-size // 4096) * 4096 for size in sizes)
    size_mib = (blocks + len(sizes) * 512) * 11 // 10 // _MIB + 32
    run_program(
        [
            "mke2fs",
            "-q",
            "-t",
            "ext4",
            "-O",
            "^has_journal,^metadata_csum",
            "-m",
            "0",
            "-b",
            "4096",
        ]
        + ["-N", str(len(sizes) + 1000), "-d", str(tree), str(image), f"{size_mib}M"],
    )
