"""``ovn-ipsec web``: who is encrypted to whom in the whole cluster, as a page."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ovn_ipsec.agent.clock import wall_clock
from ovn_ipsec.commands.log import log_to_standard_error
from ovn_ipsec.commands.signals import stop_when_told
from ovn_ipsec.web.command import run_once, run_web
from ovn_ipsec.web.settings import parse_web_arguments


def run(argv: Sequence[str]) -> int:
    """With ``--once`` 0 all encrypted, 3 not all, 4 no node answers."""
    settings = parse_web_arguments(argv)
    if settings.once:
        return run_once(settings, wall_clock, sys.stdout)
    log_to_standard_error()
    run_web(settings, wall_clock, stop_when_told())
    return 0
