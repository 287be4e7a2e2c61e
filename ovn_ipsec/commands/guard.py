"""``ovn-ipsec guard apply|show|remove``: what an agent does to the table, without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ovn_ipsec.agent.first_guard import first_guard
from ovn_ipsec.drivers.nftables import Nftables
from ovn_ipsec.errors import DriverError
from ovn_ipsec.model.conns import GuardMode
from ovn_ipsec.model.steps import SetGuard
from ovn_ipsec.settings import parse_guard_arguments
from ovn_ipsec.status.report import render_guard


def run(argv: Sequence[str]) -> int:
    """0 the table stands as it should (after ``remove``: is gone), 1 it does not."""
    settings = parse_guard_arguments(argv)
    driver = Nftables(Path(settings.guard_file))
    if settings.action == "remove":
        driver.remove()
        return 0
    if settings.action == "apply":
        guard = first_guard(driver, GuardMode(settings.guard_on_unknown), settings.guard_ports)
        (outcome,) = driver.apply([SetGuard(guard)])
        # An agent that runs has put it in force already, and may not let anybody else do so.
        if outcome.error is not None and driver.live_guard() != guard:
            raise DriverError(outcome.error)
    counters = driver.counters()
    observed = driver.observe()
    print(render_guard(driver.live_guard(), replace(observed, counters=counters)), end="")
    return 0 if observed.present and observed.intact else 1
