"""``ovn-ipsec verify``: proof from the wire and the kernel."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ovn_ipsec.status.serve import PROGRAM, rundir
from ovn_ipsec.verify.command import run_verify


def run(argv: Sequence[str]) -> int:
    """0 every check passed, 3 one failed, 4 no agent answers."""
    return run_verify(argv, rundir(), PROGRAM, sys.stdout)
