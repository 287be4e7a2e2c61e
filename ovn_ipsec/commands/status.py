"""``ovn-ipsec status``: is every tunnel encrypted, and if not, why?"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ovn_ipsec.status.command import run_status
from ovn_ipsec.status.serve import PROGRAM, rundir


def run(argv: Sequence[str]) -> int:
    """0 all encrypted, 3 not all, 4 no agent answers, 130 interrupted."""
    return run_status(argv, rundir(), PROGRAM, sys.stdout)
