"""One use of the machine, or of several side by side: prepares, boots, reports."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from tools.lab.machine.cache import say
from tools.lab.machine.node_image import build_node_image
from tools.lab.machine.qemu import Boot, Size, boot
from tools.lab.machine.rootfs import build_images

PROJECT = Path(__file__).resolve().parents[3]
"""The work tree that this file belongs to."""

NO_STATUS = 70
"""Exit status when the guest left none: killed after its timeout, or it never came up."""


@dataclass(frozen=True, slots=True)
class Session:
    """What to run in the guest, and how long it may take."""

    suite: str
    argv: Sequence[str]
    timeout_s: float
    environment: Mapping[str, str]
    interactive: bool = False
    size: Size = Size()
    extras: Mapping[str, Path] = field(default_factory=dict)
    """Files that are no part of the project, by their place in the project's copy."""
    node_image: bool = False
    """Whether the machine has our container image, too."""


def new_results_directory(suite: str) -> Path:
    """A directory for what a run leaves behind; ``latest-SUITE`` beside it points there."""
    base = Path(os.environ.get("LAB_RESULTS") or PROJECT / "lab-results")
    path = base / f"{time.strftime('%Y%m%d-%H%M%S')}-{suite}-{os.getpid()}"
    path.mkdir(parents=True)
    latest = base / f"latest-{suite}"
    latest.unlink(missing_ok=True)
    latest.symlink_to(path.name)
    return path


def run(session: Session, results: Path, *, prefix: str = "") -> int:
    """Boot, run, and return the exit status of the command, or NO_STATUS.

    `prefix` goes before each line of output.
    """
    images = build_images(session.suite, PROJECT)
    node_image = build_node_image() if session.node_image else None
    results.mkdir(parents=True, exist_ok=True)
    (results / "command").write_text(_command(session))
    archive = results / "project.tar"
    _archive_project(archive, session.extras)
    started = time.monotonic()
    order = Boot(images, archive, results, session.timeout_s, session.size, prefix, node_image)
    try:
        status = boot(order, interactive=session.interactive)
    finally:
        archive.unlink()
    took = time.monotonic() - started
    if status is None:
        say(f"no exit status from the machine after {took:.0f} s: see {results}")
        return NO_STATUS
    say(f"exit status {status} after {took:.0f} s; results in {results}")
    return status


def run_sharded(session: Session, results: Path, shards: int) -> list[int]:
    """The same command in several machines at once, each told its share (LAB_SHARD=1/2)."""
    # Once, before anything runs side by side.
    build_images(session.suite, PROJECT)
    if session.node_image:
        build_node_image()

    def run_one(number: int) -> int:
        share = {**session.environment, "LAB_SHARD": f"{number}/{shards}"}
        mine = replace(session, environment=share)
        return run(mine, results / f"shard-{number}", prefix=f"[{number}] ")

    with ThreadPoolExecutor(shards) as pool:
        return list(pool.map(run_one, range(1, shards + 1)))


def run_native(suite: str, argv: Sequence[str], results: Path) -> int:
    """The command in the lab root, but on this machine's own kernel (native.sh)."""
    images = build_images(suite, PROJECT)
    results.mkdir(parents=True, exist_ok=True)
    archive = results / "project.tar"
    _archive_project(archive, {})
    script = Path(__file__).parent / "native.sh"
    words = [script, images.tree, images.python, archive, results, *argv]
    try:
        return subprocess.run([str(word) for word in words], check=False).returncode
    finally:
        archive.unlink()


def run_on_host(argv: Sequence[str], results: Path) -> int:
    """The same without a virtual machine, where this kernel can do it (``LAB=host``).

    Needs root and the programs of the lab root; `python` in `argv` is the one that runs this.
    """
    environment = {
        **os.environ,
        "LAB_DIRECTORY": f"/run/ovn-ipsec-lab-{os.getpid()}",
        "LAB_RESULTS_DIRECTORY": str(results),
        "PYTHONPATH": str(PROJECT),
    }
    python, *rest = argv
    words = [sys.executable if python == "python" else python, *rest]
    words = [word.replace("/results/", f"{results}/") for word in words]
    return subprocess.run(words, cwd=PROJECT, env=environment, check=False).returncode


def _command(session: Session) -> str:
    """The guest's shell script."""
    lines = [f"export {key}={shlex.quote(value)}" for key, value in session.environment.items()]
    lines.append(f"exec {shlex.join(session.argv)}")
    if not session.interactive:
        # The console is a terminal; the output must arrive as it was written.
        lines.insert(0, "stty -opost -echo")
    return "\n".join([*lines, ""])


def _archive_project(archive: Path, extras: Mapping[str, Path]) -> None:
    """The work tree as it is now, so that edits during a run do not change the run."""
    with tarfile.open(archive, "w") as tar:
        for name in _project_files():
            tar.add(PROJECT / name, arcname=name, recursive=False)
        for name, path in extras.items():
            tar.add(path, arcname=name)


def _project_files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        names = [name for name in listed.stdout.split("\0") if name]
    else:  # an unpacked archive of the sources, without git
        names = [
            str(path.relative_to(PROJECT))
            for path in PROJECT.rglob("*")
            if not set(path.relative_to(PROJECT).parts) & {".venv", "lab-results", ".git"}
        ]
    return sorted(name for name in names if (PROJECT / name).is_file())
