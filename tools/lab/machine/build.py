"""Programs that take part in building images."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_IN_ROOT = Path(__file__).with_name("in-root.sh")


class BuildError(Exception):
    """A tool that builds an image failed; the message ends with what it printed last."""


def run_program(argv: list[str]) -> None:
    """Run it to its end, silently. Raises BuildError when it fails."""
    search = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PATH": search},
        check=False,
    )
    if done.returncode != 0:
        raise BuildError(f"{argv[0]} failed with {done.returncode}:\n{done.stdout[-4000:]}")


def run_in_root(root: Path, binds: Mapping[Path, str], argv: Sequence[str]) -> None:
    """Run it in an unpacked Debian root, where each directory of ``binds`` has its place.

    Raises BuildError when it fails.
    """
    places = [f"{outside}:{inside}" for outside, inside in binds.items()]
    isolated = ["unshare", "--mount", "--pid", "--fork"]
    run_program([*isolated, str(_IN_ROOT), str(root), *places, "--", *argv])
