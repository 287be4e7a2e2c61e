"""Programs that take part in building images."""

from __future__ import annotations

import os
import subprocess


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
