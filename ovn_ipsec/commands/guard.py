"""``ovn-ipsec guard apply|show|remove``: what an agent does to the table, without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ovn_ipsec.agent.first_guard import earlier_guard, first_guard
from ovn_ipsec.drivers.nftables import Nftables
from ovn_ipsec.errors import DriverError, SettingsError
from ovn_ipsec.model.conns import Guard, GuardMode
from ovn_ipsec.model.steps import SetGuard
from ovn_ipsec.settings import guard_file_of, parse_guard_arguments
from ovn_ipsec.status.report import render_guard


def run(argv: Sequence[str]) -> int:
    """0 the table stands as it should (after ``remove``: is gone), 1 it does not."""
    try:
        settings = parse_guard_arguments(argv)
    except SettingsError as error:
        if "apply" not in argv:
            raise
        # At boot nobody is there to correct it, and a node that had a guard is not left open.
        raise SettingsError(f"{error}\n{_fall_back(Path(guard_file_of(argv)))}") from error
    driver = Nftables(Path(settings.guard_file))
    if settings.action == "remove":
        driver.remove()
        return 0
    if settings.action == "apply":
        guard = first_guard(driver, GuardMode(settings.guard_on_unknown), settings.guard_ports)
        _put_in_force(driver, guard)
    counters = driver.counters()
    observed = driver.observe()
    print(render_guard(driver.live_guard(), replace(observed, counters=counters)), end="")
    return 0 if observed.present and observed.intact else 1


def _fall_back(guard_file: Path) -> str:
    """Put the guard of the last run in force, where there was one; what has come of it."""
    driver = Nftables(guard_file)
    guard = earlier_guard(driver)
    if guard is None:
        return "No guard was in force before, and none is now."
    try:
        _put_in_force(driver, guard)
    except DriverError as error:
        return f"The guard of the last run is not in force: {error}"
    return f"The guard of the last run is in force: {guard.mode}."


def _put_in_force(driver: Nftables, guard: Guard) -> None:
    (outcome,) = driver.apply([SetGuard(guard)])
    # An agent that runs has put it in force already, and may not let anybody else do so.
    if outcome.error is not None and driver.live_guard() != guard:
        raise DriverError(outcome.error)
