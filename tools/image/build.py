"""The image of ``Containerfile``, as an OCI layout, without a registry or a daemon.

mmdebstrap makes the root file system, pip in a root of its own the virtual environment, and umoci
puts both into an image, one layer each. What changes seldom is kept in the cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tools.image.containerfile import packages, read_config
from tools.lab.machine.build import run_in_root, run_program
from tools.lab.machine.cache import ensure, say

PROJECT = Path(__file__).parents[2]
SUITE = "bookworm"
"""libreswan 4.10, which keeps the kernel's SAs when it starts; that of trixie flushes them."""
_HERE = Path(__file__).parent
_BUILDER = ("ca-certificates", "python3-pip", "python3-venv")
_SOURCES = ("pyproject.toml", "setup.cfg", "README.md", "LICENSE", "ca", "ovn_ipsec", "manifests")
_EXCLUDED = ("man", "doc", "locale", "info", "lintian", "bug")


def build_image(layout: Path, tag: str) -> None:
    """Make ``layout`` (replaced if it is there) with one image, tagged. Raises BuildError."""
    run_program([str(_HERE / "install-host-packages.sh")])
    root = _root()
    builder = _builder()
    layout.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=layout.parent) as name:
        work = Path(name)
        say("image: installing the project")
        _make_venv(builder, work)
        fresh = work / "layout"
        image = f"{fresh}:{tag}"
        run_program(["umoci", "init", "--layout", str(fresh)])
        run_program(["umoci", "new", "--image", image])
        for layer in (root / "root.tar", work / "venv.tar"):
            run_program(["umoci", "raw", "add-layer", "--image", image, str(layer)])
        run_program(["umoci", "config", "--image", image, *_config_words()])
        run_program(["umoci", "gc", "--layout", str(fresh)])
        shutil.rmtree(layout, ignore_errors=True)
        fresh.rename(layout)
    say(f"image: {layout}:{tag}")


def image_key() -> str:
    """Changes with everything that an image is made of, but what pip and apt would fetch anew."""
    scripts = (_HERE / name for name in ("finish.sh", "packages.txt", "make-venv.sh"))
    files = [PROJECT / "Containerfile", *scripts]
    for name in _SOURCES:
        origin = PROJECT / name
        found = sorted(origin.rglob("*")) if origin.is_dir() else [origin]
        files += [path for path in found if path.is_file() and "__pycache__" not in path.parts]
    words = [f"{path.relative_to(PROJECT)}\n{path.read_text('utf-8')}" for path in files]
    return _digest(*_bootstrap_words(_BUILDER), *words)


def _root() -> Path:
    wanted = packages((_HERE / "packages.txt").read_text("ascii"))
    finish = _HERE / "finish.sh"
    words = _bootstrap_words(wanted)
    key = _digest(*words, finish.read_text("ascii"))

    def build(target: Path) -> None:
        hook = f'--customize-hook={finish} "$1"'
        run_program(["mmdebstrap", *words, hook, SUITE, str(target / "root.tar")])

    return ensure(_cache() / f"root-{SUITE}-{key}", "the image's root (about a minute)", build)


def _builder() -> Path:
    words = _bootstrap_words(_BUILDER)

    def build(target: Path) -> None:
        run_program(["mmdebstrap", *words, SUITE, str(target / "tree")])

    entry = _cache() / f"builder-{SUITE}-{_digest(*words)}"
    return ensure(entry, "the image's builder (about a minute)", build) / "tree"


def _bootstrap_words(include: Sequence[str]) -> list[str]:
    return [
        "--mode=root",
        "--variant=minbase",
        "--components=main",
        '--aptopt=APT::Install-Recommends "false"',
        '--aptopt=Acquire::Languages "none"',
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _EXCLUDED),
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        # Runtimes make their own, and not everybody may unpack device files.
        "--skip=output/dev",
        f"--include={','.join(include)}",
    ]


def _make_venv(builder: Path, work: Path) -> None:
    source, output = work / "source", work / "opt"
    source.mkdir()
    output.mkdir()
    junk = shutil.ignore_patterns("__pycache__")
    for name in _SOURCES:
        origin = PROJECT / name
        if origin.is_dir():
            # The chart's links would make copies of what they lead to.
            shutil.copytree(origin, source / name, ignore=junk, symlinks=True)
        else:
            shutil.copy(origin, source / name)
    shutil.copy(_HERE / "make-venv.sh", source / "make-venv.sh")
    binds = {source: "/src", output: "/opt"}
    run_in_root(builder, binds, ["/src/make-venv.sh", "/src", "/opt/ovn-ipsec"])
    run_program(
        ["tar", "--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"]
        + ["--directory", str(output), "--transform=s,^\\./,opt/,", "--file"]
        + [str(work / "venv.tar"), "./ovn-ipsec"]
    )


def _config_words() -> list[str]:
    config = read_config((PROJECT / "Containerfile").read_text("utf-8"))
    words = [f"--config.user={config.user}", "--os=linux", "--author=ovn-ipsec"]
    words += [f"--config.env={key}={value}" for key, value in config.environment.items()]
    words += [f"--config.label={key}={value}" for key, value in config.labels.items()]
    return words + [f"--config.cmd={word}" for word in config.command]


def _cache() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = base / "ovn-ipsec" / "image"
    path.mkdir(parents=True, exist_ok=True)
    return path


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
