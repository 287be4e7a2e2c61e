"""``ovn-ipsec support-bundle``: one archive of what a helper needs to see, without secrets."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ovn_ipsec.agent.clock import wall_clock
from ovn_ipsec.status.serve import PROGRAM, rundir
from ovn_ipsec.support.bundle import Surroundings, bundle_parser, write_bundle


def run(argv: Sequence[str]) -> int:
    """Prints the archive's path; what could not be had goes to standard error."""
    flags = bundle_parser().parse_args(argv)
    default = f"ovn-ipsec-support-{wall_clock():%Y%m%dT%H%M%SZ}.tar.gz"
    target = Path(flags.output or default)
    for line in write_bundle(target, Surroundings(rundir=rundir(), program=PROGRAM)):
        print(f"not in the bundle: {line}", file=sys.stderr)
    print(target)
    return 0
