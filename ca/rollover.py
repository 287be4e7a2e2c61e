"""The CA's roll-over to a new root. Pure: inventory, rules and clock in; next step out.

Three phases. *Published*: the new root is in the bundle, the old one signs; nodes acknowledge
the bundle. *Switched*: the new one signs; nodes renew, because the bundle's first root is not
their issuer. Then the old root is *retired*, and there is one root again.

A node that is told about a certificate it cannot check refuses its peers, so the switch waits
until every live node has acknowledged, and the retirement until no live node depends on the old
root; ``settle_s`` is the time that nodes and their IKE daemons need to make use of the news.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from ca.errors import RolloverError
from ca.inventory import Inventory, Root
from ca.settings import CaSettings

_NAMES_SHOWN = 10


class Phase(StrEnum):
    """Where a roll-over is."""

    STEADY = "steady"
    PUBLISHED = "published"
    SWITCHED = "switched"


class Step(StrEnum):
    """What comes next."""

    START = "start"
    SWITCH = "switch"
    RETIRE = "retire"


@dataclass(frozen=True, slots=True)
class Rollover:
    """The state of affairs."""

    phase: Phase
    signing: Root
    other: Root | None
    """Published: the new root. Switched: the old one."""
    laggards: tuple[str, ...] = ()
    """Published: live nodes that have not acknowledged. Switched: that need the old root."""
    deadline: datetime | None = None
    """Published: when laggards become an alarm."""
    ready_at: datetime | None = None
    """When the next step may be taken; None while laggards keep it from being known."""
    overdue: bool = False


def phase_of(inventory: Inventory) -> Phase:
    """The phase alone, which costs nothing."""
    if len(inventory.roots) == 1:
        return Phase.STEADY
    signs = inventory.newest_root.key_id == inventory.signing
    return Phase.SWITCHED if signs else Phase.PUBLISHED


def survey(inventory: Inventory, settings: CaSettings, now: datetime) -> Rollover:
    """Read the state of affairs from the inventory."""
    signing = inventory.roots[inventory.signing]
    phase = phase_of(inventory)
    if phase is Phase.STEADY:
        due = signing.not_after - settings.leaf_life
        return Rollover(phase, signing, None, ready_at=due)
    other = next(root for root in inventory.roots.values() if root.key_id != signing.key_id)
    if phase is Phase.PUBLISHED:
        return _published(inventory, settings, now, signing, other)
    return _switched(inventory, settings, now, signing, other)


def step_due(rollover: Rollover, now: datetime) -> Step | None:
    """What may be done now without anybody losing anything."""
    if rollover.ready_at is None or now < rollover.ready_at:
        return None
    return {
        Phase.STEADY: Step.START,
        Phase.PUBLISHED: Step.SWITCH,
        Phase.SWITCHED: Step.RETIRE,
    }[rollover.phase]


def require(step: Step, rollover: Rollover, now: datetime, *, force: bool = False) -> None:
    """Raise RolloverError unless an operator may take this step now.

    ``force`` leaves behind laggards, never the order of the phases.
    """
    expected = {
        Step.START: Phase.STEADY,
        Step.SWITCH: Phase.PUBLISHED,
        Step.RETIRE: Phase.SWITCHED,
    }[step]
    if rollover.phase is not expected:
        raise RolloverError(
            f"rotate-ca {step}: the roll-over's phase is {rollover.phase}, not {expected}; "
            "see rotate-ca status"
        )
    if force or step is Step.START or step_due(rollover, now) is step:
        return
    if rollover.laggards:
        what = "have not acknowledged the new root" if step is Step.SWITCH else "need the old root"
        raise RolloverError(
            f"rotate-ca {step}: {len(rollover.laggards)} live nodes {what}: "
            f"{_some(rollover.laggards)}; wait for them, revoke those that are gone, "
            "or leave them behind with --force"
        )
    raise RolloverError(
        f"rotate-ca {step}: nodes have until {rollover.ready_at} to make use of what they were "
        "given (settle_s); wait, or use --force"
    )


def _published(
    inventory: Inventory, settings: CaSettings, now: datetime, signing: Root, new: Root
) -> Rollover:
    live = inventory.live_ids(now)
    laggards = tuple(sorted(live - inventory.acknowledged.keys()))
    deadline = new.added_at + settings.deadline
    ready_at = None
    if not laggards:
        answers = [inventory.acknowledged[name] for name in live]
        ready_at = max(answers) + settings.settle if answers else new.added_at
    overdue = bool(laggards) and now >= deadline
    return Rollover(Phase.PUBLISHED, signing, new, laggards, deadline, ready_at, overdue)


def _switched(
    inventory: Inventory, settings: CaSettings, now: datetime, signing: Root, old: Root
) -> Rollover:
    laggards = []
    ready_at = inventory.switched_at or signing.added_at
    for name in inventory.live_ids(now):
        live = list(inventory.live(name, now))
        if all(item.issuer == signing.key_id for item in live):
            continue
        renewed = [item.at for item in live if item.issuer == signing.key_id]
        if renewed:
            # It has the new one in hand, and may still be using the old one.
            ready_at = max(ready_at, renewed[0] + settings.settle)
        else:
            laggards.append(name)
    return Rollover(
        Phase.SWITCHED,
        signing,
        old,
        tuple(sorted(laggards)),
        ready_at=None if laggards else ready_at,
    )


def next_look(rollover: Rollover, now: datetime, longest: timedelta) -> timedelta:
    """How long until ``survey`` may say something new by the clock alone."""
    moments = [rollover.ready_at, None if rollover.overdue else rollover.deadline]
    waits = [moment - now for moment in moments if moment is not None and moment > now]
    return min([*waits, longest])


def _some(names: tuple[str, ...]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
