"""What to do about one tunnel: load, replace, adopt, initiate, repair, tidy.

One end of each tunnel leads: it initiates at once. The other end waits, so that both do not
negotiate at the same time and leave duplicates, and steps in when the lead stays silent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ovn_ipsec.model.conns import (
    InstalledTunnel,
    TunnelConfig,
    connection_name,
    same_connection,
)
from ovn_ipsec.model.loaded import LoadedView
from ovn_ipsec.model.steps import (
    AddConnection,
    DeleteSa,
    InitiateConnection,
    RecordConnection,
    ReplaceConnection,
    Step,
)
from ovn_ipsec.plan.health import IkeView, TunnelHealth
from ovn_ipsec.plan.memory import Crowd, TunnelMemory, spread

LEAD_DELAY_S = 2.0
"""pluto was told to initiate at load; ask again when nothing is under way after this."""
LEAD_RECOVERY_S = 0.7
FALLBACK_DELAY_S = 15.0
"""How long the other end waits for the lead at first contact. The lead's pluto repeats its first
message after 0.5, 1, 2, 4 and 8 s and then starts again, so a lead that lives has tried by then.
Stepping in while it tries crosses it, and crossing exchanges can block pluto 4.10 for 15 s."""
FALLBACK_RECOVERY_S = 4.0
"""The same after the tunnel has been up: the lead is told when its SAs are deleted. When the
other end was away itself, the lead's next try may be 8 s off."""
IN_TOUCH_S = 20.0
"""While there is an IKE SA with the lead, or half of one, the other end leaves the child SAs to
it, but not for ever. Two ends that ask for child SAs at once can block pluto 4.10 for 15 s."""
CROWD = 5
"""From so many missing tunnels on, both plutos are at work on many: one that is still missing is
in a queue, and asking for it again only makes the two ends cross. Crossing requests for child SAs
over one IKE SA can end pluto 4.10."""
CROWD_EACH_S = 0.3
PROGRESS_S = 15.0
"""As long as tunnels of this node keep coming up, at most so far apart, the others wait."""
CROWD_LAST_S = 120.0
"""But none waits longer for the others, and one that is missing for longer is no part of it."""
JITTER_S = 1.5
PATIENCE_AFTER_S = 30.0
"""Of a crowd none of which comes up, one that has been missing for so long is in no hurry: most
likely their peers are gone, and pluto has come back to each of them by itself."""
HOPE_S = 60.0
"""So long after one of them came up, those who waited for it in the queue have had their time."""
LEAD_RETRY_LAST_S = 30.0
STUCK_ATTEMPTS = 3
"""Of so many tries in a row to get a missing child SA over an IKE SA that is up, the last one
replaces the connections."""
FALLBACK_RETRY_LAST_S = 300.0
"""A silent lead initiates by itself when it is back, so the fallback may become rare."""

BROKEN_CONFIRM_S = 0.3
"""pluto and the kernel are read one after the other: a difference must last this long."""
REPAIR_SETTLE_S = 3.0
SURPLUS_LEAD_S = 10.0
SURPLUS_OTHER_S = 40.0
SILENCE_S = 20.0
"""Traffic goes out and nothing comes in for so long: the peer may have lost a child SA."""
SILENCE_BYTES_OUT = 1000


@dataclass(frozen=True, slots=True)
class TunnelPlan:
    """The steps for one tunnel and what to remember of it."""

    steps: tuple[Step, ...]
    memory: TunnelMemory
    wake_at: float | None = None
    disruptive: bool = False
    """The steps replace connections that may carry traffic now: to be paced."""
    at_rest: bool = False
    """It is up, or pluto negotiates it, or its address is absent: no step that failed before is
    what it lacks."""
    patient: bool = False
    """Nobody need be woken for it: the next look at everything that comes anyhow will do."""


def plan_tunnel(
    name: str,
    config: TunnelConfig,
    record: InstalledTunnel | None,
    ike: IkeView,
    memory: TunnelMemory,
    now: float,
    crowd: Crowd,
) -> TunnelPlan:
    """Steps that bring one wanted tunnel nearer to being up, and only those."""
    changed = plan_content(name, config, record, ike, memory, now)
    if changed is not None:
        return changed
    assert record is not None  # noqa: S101  without a record plan_content has planned one
    names = tuple(connection_name(name, role, record.version) for role in config.selectors())
    if ike.unoriented(names):
        after = replace(memory, attempts=0, next_attempt=now + LEAD_RECOVERY_S)
        return TunnelPlan((), after, at_rest=True)
    health = ike.assess(name, record.version, config)
    if health.broken and now >= memory.settle_until:
        return _plan_repair(name, config, record.version, memory, now)
    if health.missing:
        if memory.broken_since is not None:
            memory = replace(memory, broken_since=None)
        planned = _plan_initiation(name, config, record.version, health, memory, now, crowd)
    else:
        planned = _plan_upkeep(name, config, names, health, memory, now)
    if health.broken:  # again, or still, after a repair that has yet to settle
        wakes = (
            [memory.settle_until]
            if planned.wake_at is None
            else [memory.settle_until, planned.wake_at]
        )
        planned = replace(planned, wake_at=min(wakes))
    return planned


def plan_content(
    name: str,
    config: TunnelConfig,
    record: InstalledTunnel | None,
    ike: LoadedView,
    memory: TunnelMemory,
    now: float,
) -> TunnelPlan | None:
    """Load, replace or adopt, whatever its SAs; None when what is loaded is what is wanted."""
    loaded = ike.of(name, record, config)
    old = tuple(sorted(loaded))
    if record is None:
        version = ike.next_version(name, None)
        step: Step = AddConnection(name, version, config)
        if old:  # of a file that is lost
            step = ReplaceConnection(name, old, version, config)
        after = _loaded_now(name, config, memory, now)
        return TunnelPlan((step,), after, disruptive=bool(old))
    expected = {connection_name(name, role, record.version) for role in config.selectors()}
    wanted = record.digest == config.digest
    if record.config is not None:
        wanted = same_connection(record.config, config)
        if wanted and loaded == expected:
            return TunnelPlan((RecordConnection(name, record.version, config),), memory)
    if wanted and record.keyless and loaded <= expected:
        # pluto still has the key, perhaps: nothing but the file needs to be put right.
        return TunnelPlan((RecordConnection(name, record.version, config),), memory)
    if not wanted:
        # the old content may have had other roles (gre to geneve): all of its names go
        version = ike.next_version(name, record)
        step = ReplaceConnection(name, old, version, config)
        steps: list[Step] = [step]
        if memory.down_since is not None and not config.lead:
            # It was down, and this change may be what mends it. The lead cannot know of it.
            names = [connection_name(name, role, version) for role in config.selectors()]
            steps.append(InitiateConnection(name, tuple(names), "it was changed while down"))
        after = _loaded_now(name, config, replace(memory, was_up=True), now)
        return TunnelPlan(tuple(steps), after, disruptive=bool(old))
    if strays := loaded - expected:
        # An old version shares its kernel policy with the new one: dropping it alone would
        # cut the new one, so both are renewed in one step.
        step = ReplaceConnection(name, tuple(sorted(strays)), record.version, config)
        return TunnelPlan((step,), _loaded_now(name, config, memory, now))
    if expected - loaded:
        step = AddConnection(name, record.version, config)
        return TunnelPlan((step,), _loaded_now(name, config, memory, now))
    return None


def _plan_repair(
    name: str,
    config: TunnelConfig,
    version: int,
    memory: TunnelMemory,
    now: float,
) -> TunnelPlan:
    """The kernel lost states or policies that pluto believes in: replace the connections.

    Fresh child SAs beside the lost ones heal as fast, but leave ones that pluto cannot be rid
    of: deleting a child SA whose kernel state is gone ended pluto 4.10.
    """
    since = now if memory.broken_since is None else memory.broken_since
    if now < since + BROKEN_CONFIRM_S:
        return TunnelPlan(
            (), replace(memory, broken_since=since), wake_at=since + BROKEN_CONFIRM_S
        )
    names = tuple(connection_name(name, role, version) for role in config.selectors())
    # The peer is told of the deletion, so a lead initiates at once, whichever end it is.
    steps = (ReplaceConnection(name, names, version, config),)
    settled = now + REPAIR_SETTLE_S * 2 ** min(memory.repairs, 4)
    after = replace(
        memory,
        broken_since=None,
        repairs=memory.repairs + 1,
        settle_until=settled,
        down_since=now,
        attempts=0,
        next_attempt=_loaded_now(name, config, replace(memory, was_up=True), now).next_attempt,
    )
    return TunnelPlan(steps, after, wake_at=settled)


def _plan_unblock(
    name: str, config: TunnelConfig, version: int, memory: TunnelMemory, now: float
) -> TunnelPlan:
    """There is an IKE SA and its child SAs do not come: start over.

    Child SAs that both ends ask for at once can leave pluto 4.10 with an exchange that never
    ends; every further request then queues behind it.
    """
    names = tuple(connection_name(name, role, version) for role in config.selectors())
    after = replace(memory, attempts=memory.attempts + 1, next_attempt=now + LEAD_RETRY_LAST_S / 2)
    step = ReplaceConnection(name, names, version, config)
    return TunnelPlan((step,), after, wake_at=after.next_attempt)


def _plan_initiation(
    name: str,
    config: TunnelConfig,
    version: int,
    health: TunnelHealth,
    memory: TunnelMemory,
    now: float,
    crowd: Crowd,
) -> TunnelPlan:
    """A child SA is missing: initiate when nothing is under way and it is our turn."""
    if memory.down_since is None:
        delay = LEAD_RECOVERY_S if config.lead else _fallback_delay(name, config, memory)
        if health.left:
            delay = 0.0  # the peer takes all to be well, until its probes are not answered
        memory = replace(memory, down_since=now, attempts=0, next_attempt=now + delay)
    if health.negotiating:
        return TunnelPlan((), memory, at_rest=not health.broken)
    in_touch_until = now if memory.down_since is None else memory.down_since + IN_TOUCH_S
    if health.in_touch and not config.lead and now < in_touch_until:
        return TunnelPlan((), memory, wake_at=in_touch_until)
    due = max(memory.next_attempt, _queued_until(config, memory, crowd))
    patient = _is_patient(memory, now, crowd)
    if now < due:
        return TunnelPlan((), memory, wake_at=due, patient=patient)
    attempts = memory.attempts + 1
    if config.lead and health.in_touch and attempts % STUCK_ATTEMPTS == 0:
        return _plan_unblock(name, config, version, memory, now)
    last = LEAD_RETRY_LAST_S if config.lead else FALLBACK_RETRY_LAST_S
    first = LEAD_DELAY_S if config.lead else FALLBACK_DELAY_S
    pause = min(last, first * 2 ** min(attempts - 1, 10))
    pause *= 1 + 0.25 * spread(f"{name}\0{config.local}", attempts)
    reason = "it is not up" if config.lead else "the designated initiator stays silent"
    if health.left:
        reason = "its SAs were left by a pluto that is gone"
    step = InitiateConnection(name, health.missing, reason)
    after = replace(memory, attempts=attempts, next_attempt=now + pause)
    return TunnelPlan((step,), after, wake_at=after.next_attempt, patient=patient)


def _is_patient(memory: TunnelMemory, now: float, crowd: Crowd) -> bool:
    if memory.down_since is None or crowd.missing + crowd.lasting < CROWD:
        return False
    if crowd.progress_at is not None and now < crowd.progress_at + HOPE_S:
        return False
    return now >= memory.down_since + PATIENCE_AFTER_S


def _queued_until(config: TunnelConfig, memory: TunnelMemory, crowd: Crowd) -> float:
    """Until when a missing tunnel is taken to wait its turn among many others."""
    if crowd.missing < CROWD or memory.down_since is None:
        return 0.0
    until = memory.down_since
    if not config.lead:
        until += FALLBACK_DELAY_S + CROWD_EACH_S * crowd.missing
    elif not memory.was_up:
        until += CROWD_EACH_S * crowd.missing  # pluto was told to initiate it, among the others
    if crowd.progress_at is not None:
        until = max(until, crowd.progress_at + PROGRESS_S)
    return min(until, memory.down_since + CROWD_LAST_S)


def _plan_upkeep(
    name: str,
    config: TunnelConfig,
    names: tuple[str, ...],
    health: TunnelHealth,
    memory: TunnelMemory,
    now: float,
) -> TunnelPlan:
    """The tunnel is up: delete duplicates, notice silence."""
    up = memory
    fresh = not memory.was_up or memory.down_since is not None or memory.broken_since is not None
    if fresh or memory.repairs or memory.attempts:
        up = replace(
            memory,
            was_up=True,
            down_since=None,
            attempts=0,
            broken_since=None,
            repairs=memory.repairs if now < memory.settle_until else 0,
        )
    up, steps, wake_at = _tidy(name, config, health, up, now)
    if steps:
        return TunnelPlan(steps, up)
    up, steps = _listen_for_silence(name, config, names, health, up, now)
    at_rest = not (steps or health.broken or health.surplus)
    return TunnelPlan(steps, up, wake_at=wake_at, at_rest=at_rest)


def _tidy(
    name: str, config: TunnelConfig, health: TunnelHealth, memory: TunnelMemory, now: float
) -> tuple[TunnelMemory, tuple[Step, ...], float | None]:
    """Crossing initiations leave pairs; the lead deletes the older ones after a while."""
    if not health.surplus:
        if memory.surplus_since is not None:
            memory = replace(memory, surplus_since=None, tidied=0)
        return memory, (), None
    since = now if memory.surplus_since is None else memory.surplus_since
    # An IKE SA that got stuck keeps its child SAs, however often they are deleted.
    due = since + (SURPLUS_LEAD_S if config.lead else SURPLUS_OTHER_S) * 2**memory.tidied
    if now < due:
        return replace(memory, surplus_since=since), (), due
    # One at a time: each deletion may take others with it, and pluto 4.10 does not survive
    # being told to delete a child SA whose IKE SA has just gone.
    tidied = memory.tidied + 1 if memory.tidied_serial == health.surplus[0] else 0
    after = replace(
        memory, surplus_since=now, tidied=min(tidied, 8), tidied_serial=health.surplus[0]
    )
    return after, (DeleteSa(name, health.surplus[0]),), None


def _listen_for_silence(
    name: str,
    config: TunnelConfig,
    names: tuple[str, ...],
    health: TunnelHealth,
    memory: TunnelMemory,
    now: float,
) -> tuple[TunnelMemory, tuple[Step, ...]]:
    """Out but never in: ask for fresh child SAs beside the old ones, which costs no packet.

    It may be a stream that is never answered, so each renewal waits twice as long as the last.
    """
    seen = memory.inbound_seen
    if seen is None or health.bytes_in != seen[0] or health.bytes_out < seen[1]:
        renewals = memory.renewals if seen and health.bytes_in < seen[0] else 0
        mark = (health.bytes_in, health.bytes_out, now)
        return replace(memory, inbound_seen=mark, renewals=renewals), ()
    silent_s = now - seen[2]
    due_s = SILENCE_S * 2 ** min(memory.renewals, 8)
    if silent_s < due_s or health.bytes_out < seen[1] + SILENCE_BYTES_OUT:
        return memory, ()
    mark = (health.bytes_in, health.bytes_out, now)
    after = replace(memory, inbound_seen=mark, renewals=memory.renewals + 1)
    reason = f"traffic goes out and none has come in for {silent_s:.0f} s"
    return after, (InitiateConnection(name, names, reason, renew=True),)


def _loaded_now(name: str, config: TunnelConfig, memory: TunnelMemory, now: float) -> TunnelMemory:
    """The memory of a tunnel whose connections are being loaded by this plan."""
    delay = LEAD_DELAY_S if config.lead else _fallback_delay(name, config, memory)
    return TunnelMemory(was_up=memory.was_up, down_since=now, next_attempt=now + delay)


def _fallback_delay(name: str, config: TunnelConfig, memory: TunnelMemory) -> float:
    delay = FALLBACK_RECOVERY_S if memory.was_up else FALLBACK_DELAY_S
    return delay + JITTER_S * spread(f"{name}\0{config.local}", 0)
