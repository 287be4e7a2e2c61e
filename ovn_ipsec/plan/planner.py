"""The whole node's plan: guard, credentials, pluto, then tunnel by tunnel."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ovn_ipsec.model.conns import (
    CertificateAuth,
    Desired,
    Guard,
    GuardMode,
    InstalledCredential,
    InstalledTunnel,
    Observed,
    ObservedGuard,
    ObservedIke,
    Unobserved,
    WantedTunnel,
    connection_name,
)
from ovn_ipsec.model.loaded import LoadedView
from ovn_ipsec.model.steps import (
    AddConnection,
    DropConnection,
    InitiateConnection,
    InstallCredential,
    Listen,
    RecordConnection,
    RemoveCredential,
    ReplaceConnection,
    SetGuard,
    StartIke,
    Step,
)
from ovn_ipsec.plan.health import IkeView
from ovn_ipsec.plan.memory import (
    Crowd,
    Memory,
    TunnelMemory,
    forget_failures,
    retry_key,
)
from ovn_ipsec.plan.tunnel import CROWD, CROWD_LAST_S, TunnelPlan, plan_content, plan_tunnel

OBSERVE_AGAIN_S = 0.5
"""After an observation that failed, while pluto is down, and when a crowd is one no longer."""
RESTART_GRACE_S = 3.0
"""A pluto that has just gone may be on its way back by somebody else's hand, and two of them
would share port 500 and delete each other's kernel policies."""
REPLACE_WAVE = 10
"""Connections in use that one plan replaces; the next wave follows after REPLACE_PAUSE_S."""
REPLACE_PAUSE_S = 1.0
INITIATE_WAVE = 10
"""Tunnels in a hurry that one plan initiates. Each costs a program call, and a crowd of them
makes a pluto that is busy with its own attempts busier."""
INITIATE_PAUSE_S = 1.0
PATIENT_PAUSE_S = 10.0
"""The same where nobody hurries."""
PATIENT_WAVES = 20
"""At most so many of these waves are a round of all: looks come each 11 s, so each peer has been
tried within 300 s. For 400 s readiness believes in its silence."""
LISTEN_LAST_S = 10.0
OUR_CREDENTIALS = ("ovs_cert_", "ovs_certkey_")
"""Nickname prefixes that belong to this program in the NSS database (COMPAT)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, what to remember, and when to plan again."""

    steps: tuple[Step, ...]
    memory: Memory
    wake_at: float | None = None
    """Then at the latest."""
    stale_at: float | None = None
    """From then on a look has to plan, even if it sees what this plan was made from."""


@dataclass(slots=True)
class _Draft:
    """Steps by kind, so that they come out in the order that is safe."""

    first: list[Step] = field(default_factory=list)
    adds: list[Step] = field(default_factory=list)
    replacements: list[Step] = field(default_factory=list)
    drops: list[Step] = field(default_factory=list)
    others: list[Step] = field(default_factory=list)
    last: list[Step] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)
    later: list[float] = field(default_factory=list)
    """As wakes, but nobody is woken."""

    def add(self, step: Step) -> None:
        if isinstance(step, AddConnection | RecordConnection):
            self.adds.append(step)
        elif isinstance(step, ReplaceConnection):
            self.replacements.append(step)
        elif isinstance(step, DropConnection):
            self.drops.append(step)
        else:
            self.others.append(step)

    def take(self, planned: TunnelPlan) -> TunnelMemory:
        """Do what is planned for a tunnel; returns what to remember of it."""
        for step in planned.steps:
            self.add(step)
        if planned.wake_at is not None:
            (self.later if planned.patient else self.wakes).append(planned.wake_at)
        return planned.memory

    def plan(self, memory: Memory) -> Plan:
        """The whole of it."""
        wake_at = min(self.wakes, default=None)
        return Plan(self.steps(), memory, wake_at, min([*self.wakes, *self.later], default=None))

    def steps(self) -> tuple[Step, ...]:
        # Drops free selectors that an added tunnel may take over (a port renamed in OVSDB),
        # and connections of equal selectors share one kernel policy: so drops go first then.
        return tuple(
            self.first + self.drops + self.adds + self.replacements + self.others + self.last
        )


def plan(
    desired: Desired,
    observed: Observed,
    memory: Memory,
    now: float,
    *,
    may_start_ike: bool = True,
) -> Plan:
    """Decide the steps from here to ``desired``."""
    draft = _Draft()
    memory = _plan_guard(desired, observed.guard, memory, now, draft)
    memory = _plan_credentials(desired, observed.credentials, memory, now, draft)
    ike, installed = observed.ike, observed.installed
    if isinstance(ike, Unobserved) or isinstance(installed, Unobserved):
        draft.wakes.append(now + OBSERVE_AGAIN_S)
        return draft.plan(memory)
    memory = _forget_unwanted(desired, installed, memory)
    if not ike.running:
        memory = forget_failures(memory, ["listen"])
        down_since = now if memory.ike_down_since is None else memory.ike_down_since
        memory = replace(memory, ike_down_since=down_since)
        due = not memory.generation or now >= down_since + RESTART_GRACE_S
        if may_start_ike and due and memory.may_try("ike", now):
            draft.first.append(StartIke())
        draft.wakes.append(now + OBSERVE_AGAIN_S)
        return draft.plan(memory)
    memory = forget_failures(memory, ["ike"])
    memory = _notice_generation(ike, replace(memory, ike_down_since=None))
    view = IkeView(ike, installed)
    memory = _plan_listen(desired, installed, view, memory, now, draft)
    nss_known = not isinstance(observed.credentials, Unobserved)
    memory = _plan_tunnels(desired, installed, view, memory, now, draft, nss_known=nss_known)
    if desired.complete:
        _plan_drops(desired, installed, view, memory, now, draft)
    draft.wakes += [
        retry.not_before for retry in memory.retries.values() if retry.not_before > now
    ]
    return draft.plan(memory)


def plan_changes(
    desired: Desired,
    before: Mapping[str, WantedTunnel],
    observed: Observed,
    memory: Memory,
    now: float,
) -> Plan:
    """Load, replace and drop what is wanted otherwise than ``before``; the cost is the change's.

    ``observed.ike`` may be of a while ago but for what is loaded, which our own steps change, and
    when somebody else changed it ``plan`` finds out. To that everything is left that depends on
    SAs, and every change for which credentials have to be installed first.
    """
    nothing = Plan((), memory)
    ike, installed = observed.ike, observed.installed
    if isinstance(ike, Unobserved) or isinstance(installed, Unobserved) or not desired.complete:
        return nothing
    draft = _Draft()
    _plan_credentials(desired, observed.credentials, memory, now, draft)
    if draft.steps() or isinstance(observed.credentials, Unobserved):
        return nothing
    view = LoadedView(ike.loaded, installed)
    remembered = {name: m for name, m in memory.tunnels.items() if name in desired.tunnels}
    room = REPLACE_WAVE if now >= memory.replace_after else 0
    after = memory.replace_after
    memory = _forget_unwanted(desired, installed, memory)
    for name, tunnel in desired.tunnels.items():
        config = tunnel.config
        if config is None or tunnel.withdrawn or before.get(name) == tunnel:
            continue
        known = remembered.get(name, TunnelMemory())
        planned = plan_content(name, config, installed.get(name), view, known, now)
        if planned is None or not memory.may_try(f"tunnel:{name}", now, config.digest):
            continue
        if planned.disruptive:
            if not room:
                continue
            room, after = room - 1, now + REPLACE_PAUSE_S
        remembered[name] = draft.take(planned)
    _plan_drops(desired, installed, view, memory, now, draft)
    crowd = replace(memory.crowd, missing=_missing(remembered, now))
    memory = replace(memory, tunnels=remembered, replace_after=after, crowd=crowd)
    return Plan(draft.steps(), memory)


def guard_is_due(wanted: Guard | None, observed: ObservedGuard | Unobserved) -> bool:
    """Whether the table in the kernel is known not to be the wanted guard."""
    if wanted is None or isinstance(observed, Unobserved):
        return False
    if wanted.mode is GuardMode.OFF:
        return observed.present
    return not observed.intact or observed.digest != wanted.digest


def _plan_guard(
    desired: Desired,
    observed: ObservedGuard | Unobserved,
    memory: Memory,
    now: float,
    draft: _Draft,
) -> Memory:
    if isinstance(observed, Unobserved):
        return memory
    if desired.guard is None or not guard_is_due(desired.guard, observed):
        return forget_failures(memory, ["guard"])
    if memory.may_try("guard", now):
        draft.first.append(SetGuard(desired.guard))
    draft.wakes.append(now + OBSERVE_AGAIN_S)
    return memory


def _plan_credentials(
    desired: Desired,
    observed: tuple[InstalledCredential, ...] | Unobserved,
    memory: Memory,
    now: float,
    draft: _Draft,
) -> Memory:
    if isinstance(observed, Unobserved):
        draft.wakes.append(now + OBSERVE_AGAIN_S)
        return memory
    wanted = Counter((c.nickname, c.fingerprint) for c in desired.credentials)
    there = Counter((c.nickname, c.fingerprint) for c in observed)
    keyless = {c.nickname for c in observed if not c.has_key}
    nicknames = {credential.nickname for credential in desired.credentials}
    wrong = {nickname for nickname, _ in (wanted - there) | (there - wanted)}
    due: set[str] = set()
    for credential in desired.credentials:
        key = retry_key(step := InstallCredential(credential))
        no_key = credential.key is not None and credential.nickname in keyless
        if credential.nickname in wrong or no_key:
            due.add(key)
            if memory.may_try(key, now):
                draft.first.append(step)
    for nickname in sorted({credential.nickname for credential in observed}):
        ours = nickname.startswith(OUR_CREDENTIALS)
        unwanted = nickname not in nicknames and nickname not in desired.keep_credentials
        # It may still be in use, and then for long: by a tunnel that is INVALID and stays up.
        if desired.complete and ours and unwanted:
            key = retry_key(removal := RemoveCredential(nickname))
            due.add(key)
            if memory.may_try(key, now):
                draft.last.append(removal)
    settled = (key for key in memory.retries if key.startswith("credential:") and key not in due)
    return forget_failures(memory, list(settled))


def _forget_unwanted(
    desired: Desired, installed: Mapping[str, InstalledTunnel], memory: Memory
) -> Memory:
    """Failures that are none of what is wanted now: of content that a row had before, of a row
    that has gone or cannot be had, of a drop when nothing is left to drop."""
    unwanted = []
    for key, retry in memory.retries.items():
        kind, _, name = key.partition(":")
        if kind not in ("tunnel", "sa"):
            continue
        tunnel = desired.tunnels.get(name)
        if tunnel is not None and tunnel.config is not None:
            wanted = kind == "sa" or retry.content == tunnel.config.digest
        else:
            to_drop = name in installed and (tunnel is None or tunnel.withdrawn)
            wanted = kind == "tunnel" and to_drop and not retry.content
        if not wanted:
            unwanted.append(key)
    return forget_failures(memory, unwanted)


def _notice_generation(ike: ObservedIke, memory: Memory) -> Memory:
    """Another pluto than before: its tunnels start afresh."""
    if ike.generation == memory.generation:
        return memory
    tunnels = {
        name: TunnelMemory(was_up=tunnel.was_up or tunnel.down_since is None)
        for name, tunnel in memory.tunnels.items()
    }
    return replace(
        memory,
        generation=ike.generation,
        listen_at=0.0,
        listens=0,
        tunnels=tunnels,
    )


def _plan_listen(
    desired: Desired,
    installed: Mapping[str, InstalledTunnel],
    view: IkeView,
    memory: Memory,
    now: float,
    draft: _Draft,
) -> Memory:
    """pluto binds addresses at its start only; one that came later must be announced."""
    names = [
        connection_name(name, role, installed[name].version)
        for name, tunnel in desired.tunnels.items()
        if tunnel.config is not None and name in installed
        for role in tunnel.config.selectors()
    ]
    if not view.unoriented(names):
        return replace(forget_failures(memory, ["listen"]), listens=0)
    if now < memory.listen_at:
        draft.wakes.append(memory.listen_at)
        return memory
    draft.others.append(Listen())
    next_at = now + min(LISTEN_LAST_S, 2.0**memory.listens)
    draft.wakes.append(next_at)
    return replace(memory, listen_at=next_at, listens=memory.listens + 1)


def _plan_tunnels(
    desired: Desired,
    installed: Mapping[str, InstalledTunnel],
    view: IkeView,
    memory: Memory,
    now: float,
    draft: _Draft,
    *,
    nss_known: bool,
) -> Memory:
    remembered: dict[str, TunnelMemory] = {}
    wave = REPLACE_WAVE if now >= memory.replace_after else 0
    replaced = 0
    came_up = some_wait = False
    initiations: dict[str, TunnelPlan] = {}
    lasting = 0
    failed = {key.partition(":")[2] for key in memory.retries}
    recovered: list[str] = []
    for name, tunnel in desired.tunnels.items():
        if tunnel.withdrawn:
            continue  # to be dropped; should it come back, as at first contact
        before = memory.tunnels.get(name, TunnelMemory())
        remembered[name] = before
        config, record = tunnel.config, installed.get(name)
        if config is None:
            continue
        planned = plan_tunnel(name, config, record, view, before, now, memory.crowd)
        if planned.steps and not memory.may_try(f"tunnel:{name}", now, config.digest):
            continue
        some_wait |= planned.patient
        lasting += name not in failed and _is_lasting(planned.memory, now)
        if planned.disruptive:
            if isinstance(config.auth, CertificateAuth) and not nss_known:
                # What NSS holds decides rightca: the change may be none at all.
                continue
            if replaced >= wave:
                draft.wakes.append(max(now + REPLACE_PAUSE_S, memory.replace_after))
                continue
            replaced += 1
        elif any(isinstance(step, InitiateConnection) for step in planned.steps):
            initiations[name] = planned
            continue
        if planned.at_rest and name in failed:
            recovered += (f"tunnel:{name}", f"sa:{name}")
        came_up |= before.down_since is not None and planned.memory.down_since is None
        remembered[name] = draft.take(planned)
    memory = forget_failures(memory, recovered)
    if replaced:
        memory = replace(memory, replace_after=now + REPLACE_PAUSE_S)
    memory = _plan_initiations(initiations, replace(memory, tunnels=remembered), now, draft)
    progress_at = now if came_up else memory.crowd.progress_at
    crowd = Crowd(_missing(memory.tunnels, now), progress_at, lasting)
    if crowd.missing < CROWD <= memory.crowd.missing or (came_up and some_wait):
        draft.wakes.append(now + OBSERVE_AGAIN_S)  # who is left waits for nobody any longer
    return replace(memory, crowd=crowd)


def _plan_initiations(
    due: Mapping[str, TunnelPlan], memory: Memory, now: float, draft: _Draft
) -> Memory:
    """Those whose turn it is, in waves."""
    # Who was tried longest ago comes first: otherwise some of many might never have their turn.
    order = sorted(due, key=lambda name: memory.tunnels[name].next_attempt)
    urgent = [name for name in order if not due[name].patient]
    patient = [name for name in order if due[name].patient]
    turn = urgent[:INITIATE_WAVE] if now >= memory.initiate_after else []
    if len(turn) == INITIATE_WAVE:
        memory = replace(memory, initiate_after=now + INITIATE_PAUSE_S)
    if len(turn) < len(urgent):
        draft.wakes.append(memory.initiate_after)
    if patient and now >= memory.patient_after:
        all_missing = memory.crowd.missing + memory.crowd.lasting
        turn += patient[: max(INITIATE_WAVE, math.ceil(all_missing / PATIENT_WAVES))]
        memory = replace(memory, patient_after=now + PATIENT_PAUSE_S)
    if patient:
        draft.later.append(memory.patient_after)
    done = {name: draft.take(due[name]) for name in turn}
    return replace(memory, tunnels={**memory.tunnels, **done})


def _missing(tunnels: Mapping[str, TunnelMemory], now: float) -> int:
    """How many are, and not for long."""
    down_since = (tunnel.down_since for tunnel in tunnels.values())
    return sum(since is not None and now < since + CROWD_LAST_S for since in down_since)


def _is_lasting(tunnel: TunnelMemory, now: float) -> bool:
    return tunnel.down_since is not None and now >= tunnel.down_since + CROWD_LAST_S


def _plan_drops(
    desired: Desired,
    installed: Mapping[str, InstalledTunnel],
    view: LoadedView,
    memory: Memory,
    now: float,
    draft: _Draft,
) -> None:
    kept = {name for name, tunnel in desired.tunnels.items() if not tunnel.withdrawn}
    for name in sorted(set(installed) - kept):
        if memory.may_try(f"tunnel:{name}", now):
            draft.add(DropConnection(name, tuple(sorted(view.of(name, installed[name])))))
