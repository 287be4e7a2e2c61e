"""Tells the log what changed: one line per change of state, never one per tick.

Several of the lines are waited for by scripts around ovs-monitor-ipsec (COMPAT, "Log lines");
their wording is a contract.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from ovn_ipsec.agent.json_log import event
from ovn_ipsec.model.causes import Cause, CauseCode
from ovn_ipsec.model.snapshot import Snapshot, TunnelState, TunnelStatus
from ovn_ipsec.model.steps import (
    DropConnection,
    InitiateConnection,
    Outcome,
    ReplaceConnection,
    SetGuard,
    StartIke,
)

_log = logging.getLogger(__name__)

LINES_AT_ONCE = 20
"""More changes of one kind than this in one tick become one line with a count, or, where every
name has to be in the log, lines of so many."""
BRINGING_UP_AFTER_S = 15.0
_PASSING = frozenset({CauseCode.INSTALLING, CauseCode.NEGOTIATING, CauseCode.UNKNOWN})
"""Nothing to tell anybody, or not yet."""


class Journal:
    """Compares each snapshot with the one before."""

    def __init__(self) -> None:
        self._tunnels: dict[str, TunnelStatus] = {}
        self._down_since_s: dict[str, float] = {}
        self._problems: frozenset[str] = frozenset()
        self._stale: frozenset[tuple[str, str]] = frozenset()
        self._failed: dict[str, str] = {}
        self._all_up = False
        self._told: Mapping[str, frozenset[CauseCode]] = {}
        """Causes that the log has told of tunnels that are down."""
        self._causes: frozenset[Cause] = frozenset()

    def note_steps(self, outcomes: Sequence[Outcome], now_s: float) -> None:
        """Log what was done, and each new failure once."""
        for outcome in outcomes:
            step = outcome.step
            key = f"{type(step).__name__} {getattr(step, 'tunnel', '')}"
            if outcome.error is not None:
                if self._failed.get(key) != outcome.error:
                    _log.error("%s", outcome.error)
                self._failed[key] = outcome.error
                continue
            self._failed.pop(key, None)
            if isinstance(step, InitiateConnection):
                self._note_initiation(step, now_s)
            elif isinstance(step, StartIke):
                _log.info("Started the IKE daemon")
            elif isinstance(step, SetGuard):
                _log.info("Guard is set: mode %s", step.guard.mode)
        replaced = [o.step for o in outcomes if isinstance(o.step, ReplaceConnection)]
        _lines(
            (step.tunnel for step in replaced),
            lambda name: _log.info("Tunnel %s: connections replaced", name),
            lambda count, some: _log.info("%d tunnels: connections replaced (%s)", count, some),
        )
        dropped = [o.step for o in outcomes if isinstance(o.step, DropConnection)]
        _lines(
            (step.tunnel for step in dropped),
            lambda name: _log.info("Tunnel %s: connections removed", name),
            lambda count, some: _log.info("%d tunnels: connections removed (%s)", count, some),
        )

    def note_snapshot(self, snapshot: Snapshot) -> None:
        """Log what is different from the snapshot before."""
        tunnels = {
            tunnel.name: tunnel
            for tunnel in snapshot.tunnels
            if tunnel.state is not TunnelState.REMOVED
        }
        self._note_rows(tunnels)
        self._note_states(tunnels, snapshot.taken_at_s)
        self.note_causes(snapshot)
        self._note_problems(snapshot)
        configured = [t for t in tunnels.values() if t.state is TunnelState.CONFIGURED]
        all_up = bool(configured) and all(t.up for t in configured)
        if all_up and not self._all_up:
            _log.info("Connections for all(%d) configured tunnels are Up.", len(configured))
        self._all_up = all_up
        self._tunnels = tunnels

    def _note_rows(self, tunnels: dict[str, TunnelStatus]) -> None:
        # Never summed up: scripts wait for these words with each name. But hundreds share lines:
        # to put one together takes python-ovs as long as we take to look at a tunnel.
        for names, what in (
            (tunnels.keys() - self._tunnels.keys(), "appeared in OVSDB"),
            (self._tunnels.keys() - tunnels.keys(), "disappeared from OVSDB"),
        ):
            said = [f"Tunnel {name} {what}" for name in sorted(names)]
            together = LINES_AT_ONCE if len(said) > LINES_AT_ONCE else 1
            for start in range(0, len(said), together):
                _log.info("%s", ", ".join(said[start : start + together]))

    def _note_states(self, tunnels: dict[str, TunnelStatus], now_s: float) -> None:
        went_up: list[str] = []
        went_down: list[str] = []
        invalid: list[str] = []
        for name, tunnel in tunnels.items():
            before = self._tunnels.get(name)
            was_up, is_up = before is not None and before.encrypted, tunnel.encrypted
            if is_up and not was_up:
                went_up.append(name)
            elif was_up and not is_up and not tunnel.withdrawn:
                went_down.append(name)
            if is_up:
                self._down_since_s.pop(name, None)
            else:
                self._down_since_s.setdefault(name, now_s)
            if tunnel.reason is not None and (before is None or before.reason != tunnel.reason):
                invalid.append(name)
            for warning in set(tunnel.warnings) - set(before.warnings if before else ()):
                _log.warning("Tunnel %s: %s", name, warning)
        for name in self._down_since_s.keys() - tunnels.keys():
            del self._down_since_s[name]
        # A certificate that is missing makes all of them invalid at once.
        _lines(
            invalid,
            lambda name: _log.warning(
                "Tunnel %s is invalid: %s",
                name,
                tunnels[name].reason,
                extra=event("tunnel-invalid", tunnel=name),
            ),
            lambda count, some: _log.warning(
                "%d tunnels are invalid (%s), as tunnels/show tells; the first: %s",
                count,
                some,
                tunnels[min(invalid)].reason,
                extra=event("tunnel-invalid", tunnels=invalid),
            ),
        )
        _lines(
            went_up,
            lambda name: _log.info(
                "Tunnel %s is encrypted", name, extra=event("tunnel-encrypted", tunnel=name)
            ),
            lambda count, some: _log.info(
                "%d tunnels are encrypted (%s)",
                count,
                some,
                extra=event("tunnel-encrypted", tunnels=went_up),
            ),
        )
        _lines(
            went_down,
            lambda name: _log.warning(
                "Connection for port %s is not active, need to reconcile",
                name,
                extra=event("tunnel-down", tunnel=name),
            ),
            lambda count, some: _log.warning(
                "Connections for %d ports are not active, need to reconcile (%s)",
                count,
                some,
                extra=event("tunnel-down", tunnels=went_down),
            ),
        )

    def note_causes(self, snapshot: Snapshot) -> None:
        """Log the causes that are new; pluto's log tells them between two changes, too."""
        # Each cause once while a tunnel is down: causes may take turns as the two ends try.
        down: dict[str, frozenset[CauseCode]] = {}
        groups: dict[CauseCode, list[TunnelStatus]] = {}
        for tunnel in snapshot.tunnels:
            if tunnel.cause is None or tunnel.cause.code in _PASSING:
                if tunnel.cause is not None and tunnel.name in self._told:
                    down[tunnel.name] = self._told[tunnel.name]
                continue
            told = self._told.get(tunnel.name, frozenset())
            down[tunnel.name] = told | {tunnel.cause.code}
            if tunnel.cause.code not in told and tunnel.state is not TunnelState.INVALID:
                groups.setdefault(tunnel.cause.code, []).append(tunnel)
        self._told = down
        for code, tunnels in groups.items():
            self._tell_cause(code, tunnels)
        causes = frozenset(snapshot.causes)
        for cause in causes - self._causes:
            more = event("node-problem", cause=str(cause.code))
            _log.error("%s; %s", cause.text, cause.remedy, extra=more)
        for code in {cause.code for cause in self._causes - causes} - {c.code for c in causes}:
            _log.info("No longer: %s", code, extra=event("node-problem-over", cause=str(code)))
        self._causes = causes

    def _tell_cause(self, code: CauseCode, tunnels: list[TunnelStatus]) -> None:
        if len(tunnels) > LINES_AT_ONCE:
            names = [tunnel.name for tunnel in tunnels]
            _log.warning(
                "%d tunnels are not up: %s (%s, ...)",
                len(tunnels),
                code,
                ", ".join(names[:3]),
                extra=event("tunnel-cause", tunnels=names, cause=str(code)),
            )
            return
        for tunnel in tunnels:
            if tunnel.cause is not None:
                _log.warning(
                    "Tunnel %s is not up: %s; %s",
                    tunnel.name,
                    tunnel.cause.text,
                    tunnel.cause.remedy,
                    extra=event("tunnel-cause", tunnel=tunnel.name, cause=str(code)),
                )

    def _note_problems(self, snapshot: Snapshot) -> None:
        problems = frozenset(snapshot.problems)
        for problem in problems - self._problems:
            _log.warning("%s", problem)
        self._problems = problems
        stale = frozenset((str(item.subject), item.reason) for item in snapshot.stale)
        for subject, reason in stale - self._stale:
            _log.error("Cannot read the %s: %s", subject, reason)
        for subject in {subject for subject, _ in self._stale - stale}:
            if subject not in {still for still, _ in stale}:
                _log.info("The %s can be read again", subject)
        self._stale = stale

    def _note_initiation(self, step: InitiateConnection, now_s: float) -> None:
        down_s = now_s - self._down_since_s.get(step.tunnel, now_s)
        if down_s >= BRINGING_UP_AFTER_S and not step.renew:
            for name in step.names:
                _log.info("Bringing up ipsec connection %s", name)
        elif step.reason:
            _log.info("Tunnel %s: initiating, %s", step.tunnel, step.reason)


def _lines(
    names: Iterable[str],
    one: Callable[[str], None],
    many: Callable[[int, str], None],
) -> None:
    ordered = sorted(names)
    if len(ordered) > LINES_AT_ONCE:
        many(len(ordered), ", ".join(ordered[:3]) + ", ...")
        return
    for name in ordered:
        one(name)
