"""Which guard stands before anything is known of tunnels (GUARD: first start)."""

from __future__ import annotations

from ovn_ipsec.agent.observation import read
from ovn_ipsec.desired.guard import GENEVE
from ovn_ipsec.drivers.nftables import Nftables
from ovn_ipsec.drivers.nftables_rules import ENFORCING
from ovn_ipsec.model.conns import Guard, GuardMode, GuardPort


def first_guard(
    driver: Nftables, on_unknown: GuardMode, guard_ports: frozenset[GuardPort]
) -> Guard:
    """The guard to start with: that of an earlier run, else as asked for a first start."""
    found = earlier_guard(driver, guard_ports)
    return found or Guard(on_unknown, frozenset({GENEVE}) | guard_ports)


def earlier_guard(
    driver: Nftables, guard_ports: frozenset[GuardPort] = frozenset()
) -> Guard | None:
    """The guard in force, else the last one; None: this is a first start.

    A node that has had a guard which cannot be read any more is no first start: it is closed.
    Whatever is applied is kept, so a table that only counts beside a last guard that closes is the
    first start of somebody who does not know that one, such as another unit at boot.
    """
    live = read(driver.live_guard)
    if isinstance(live, Guard) and live.mode is not GuardMode.AUDIT:
        return live
    last = driver.load_last_known()
    if isinstance(live, Guard) and (last is None or last.mode not in ENFORCING):
        return live
    if last is not None:
        return last
    if read(driver.was_in_force) is True:
        return Guard(GuardMode.ENFORCE, frozenset({GENEVE}) | guard_ports)
    return None
