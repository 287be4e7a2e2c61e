"""Decides the next step of enrolment. Pure: facts, memory and clock in, one action out.

Each action leaves the world in a state from which planning goes on, also when the process died in
the middle of it: nothing that must be remembered is in memory alone.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256

from ovn_ipsec.identity.model import (
    Acknowledge,
    Action,
    Decision,
    DropPending,
    Facts,
    Generation,
    Level,
    Memory,
    Obtain,
    Point,
    Prepare,
    Prune,
    RefreshBundle,
    Retry,
    Timing,
    Way,
)

YEAR = timedelta(days=365)
_SHARE_OF_YEARS = 0.9
_SHARE_OF_LESS = 2 / 3
_JITTER_SHARE = 0.05
_REISSUE_MOST = timedelta(days=1)
_KEPT = 2
_FAILURES_OF_ALARM = 5
"""OVSDB may be restarting; after these, half a minute, it is not."""
_DEFAULT_TIMING = Timing()


def renewal_moment(generation: Generation) -> datetime:
    """When the next certificate is asked for: the rule that the authority counts on, too.

    At 90 % of a life of years and two thirds of a shorter one, less up to 5 % by which nodes that
    were installed together drift apart.
    """
    life = generation.not_after - generation.not_before
    share = _SHARE_OF_YEARS if life >= YEAR else _SHARE_OF_LESS
    return generation.not_before + life * (share - _JITTER_SHARE * generation.jitter)


def alarm_moment(generation: Generation) -> datetime:
    """When a renewal that has not come is worth waking somebody: half of its time has gone."""
    renew_at = renewal_moment(generation)
    return renew_at + (generation.not_after - renew_at) / 2


def current_generation(facts: Facts, now: datetime) -> Generation | None:
    """The newest identity that is this node's and valid."""
    for generation in reversed(facts.generations):
        if (
            facts.chassis_id is not None
            and generation.name.lower() == facts.chassis_id.lower()
            and generation.not_before <= now < generation.not_after
        ):
            return generation
    return None


def plan(
    facts: Facts, memory: Memory, now: datetime, timing: Timing = _DEFAULT_TIMING
) -> Decision:
    """The next action, or none until ``wake_at``."""
    return _Planner(facts, memory, now, timing).decide()


class _Planner:
    def __init__(self, facts: Facts, memory: Memory, now: datetime, timing: Timing) -> None:
        self._facts = facts
        self._memory = memory
        self._now = now
        self._timing = timing
        self._current = current_generation(facts, now)
        self._wake_at = now + timing.check_interval

    def decide(self) -> Decision:
        action = None
        if self._facts.chassis_id is not None:
            action = (
                self._point()
                or self._drop_pending()
                or self._prune()
                or self._request(self._facts.chassis_id)
                or self._refresh_bundle()
                or self._acknowledge()
            )
        level, reason = self._judge()
        return Decision(
            action=action,
            wake_at=self._wake_at,
            level=level,
            reason=reason,
            current=self._current,
            renew_at=self._renew_at(),
            in_place=self._in_place(),
        )

    def _in_place(self) -> bool:
        current = self._current
        return current is not None and self._facts.pointed_at == current.number

    def _point(self) -> Action | None:
        current = self._current
        if current is None or self._in_place():
            return None
        return self._when_due(Point(current.number))

    def _drop_pending(self) -> Action | None:
        pending, current = self._facts.pending, self._current
        if pending is None:
            return None
        spent = current is not None and pending.public_key == current.public_key
        other = pending.name.lower() != (self._facts.chassis_id or "").lower()
        return self._when_due(DropPending(pending.name)) if spent or other else None

    def _prune(self) -> Action | None:
        """Only once OVSDB names the current one, so that nobody reads what is deleted."""
        current = self._current
        if current is None or not self._in_place():
            return None
        kept = [each.number for each in self._facts.generations][-_KEPT:]
        old = [each.number for each in self._facts.generations if each.number not in kept]
        # A damaged one newer than all others keeps its number, which must not be given again.
        old += [number for number in self._facts.damaged if number < current.number]
        gone = tuple(sorted(set(old) - {current.number}))
        return self._when_due(Prune(gone)) if gone else None

    def _request(self, name: str) -> Action | None:
        if not (self._is_due() or self._token_is_news()):
            return None
        way = self._way()
        if way is None:
            return None
        if self._facts.pending is None:
            return self._when_due(Prepare(name))
        token = self._facts.token if way is Way.TOKEN else None
        action = Obtain(way, self._current.number if self._current else None, token)
        # What failed by another token or way delays this one by nothing.
        untried = token is not None and token != self._memory.token_tried
        return action if untried else self._when_due(action)

    def _is_due(self) -> bool:
        due = self._renew_at()
        if due is not None and self._now < due:
            self._wake(due)
            return False
        return True

    def _token_is_news(self) -> bool:
        """Somebody put it there although the node has a certificate: that is to be replaced."""
        token = self._facts.token
        return token is not None and token != self._memory.token_seen

    def _way(self) -> Way | None:
        """The node's own certificate first, but for a new token; the other one after a failure."""
        ways, memory = self._facts.ways, self._memory
        for way in (Way.DIRECTORY, Way.KUBERNETES):
            if way in ways:
                return way
        usable = set(ways)
        if self._current is None or not self._is_due():
            usable.discard(Way.CERTIFICATE)
        elif memory.token_refused and self._facts.token == memory.token_tried:
            usable.discard(Way.TOKEN)
        order = (Way.CERTIFICATE, Way.TOKEN)
        open_ways = [way for way in order if way in usable and way is not memory.failed]
        open_ways = open_ways or [way for way in order if way in usable]
        if self._token_is_news():
            open_ways.reverse()
        return open_ways[0] if open_ways else None

    def _refresh_bundle(self) -> Action | None:
        current, checked = self._current, self._memory.bundle_checked_at
        if current is None:
            return None
        if checked is not None and not self._heard_of_others(current):
            due = checked + self._bundle_interval(current)
            # A clock that was set back must not put the check off for years.
            if checked <= self._now < due:
                self._wake(due)
                return None
        return self._when_due(RefreshBundle(current.number))

    def _heard_of_others(self, current: Generation) -> bool:
        heard = self._facts.heard
        return heard is not None and (heard.digest, heard.signing_root) != (
            current.bundle_digest,
            self._memory.signing_root,
        )

    def _bundle_interval(self, current: Generation) -> timedelta:
        life = current.not_after - current.not_before
        interval = min(self._timing.bundle_interval, life / 10)
        return interval * (0.75 + 0.5 * current.jitter)

    def _acknowledge(self) -> Action | None:
        current, since = self._current, self._memory.pointed_since
        if current is None or not self._in_place():
            return None
        if Way.CERTIFICATE not in self._facts.ways:
            return None
        if self._memory.acknowledged == current.bundle_digest:
            return None
        if since is not None:
            life = current.not_after - current.not_before
            due = since + min(self._timing.settle, life / 10)
            if since <= self._now < due:
                self._wake(due)
                return None
        return self._when_due(Acknowledge(current.number, current.bundle_digest))

    def _renew_at(self) -> datetime | None:
        """None: at once."""
        current = self._current
        if current is None:
            return None
        moment = renewal_moment(current)
        if Way.CERTIFICATE not in self._facts.ways and self._bundle_is_news(current):
            moment = min(moment, self._spread(current, self._memory.pointed_since or self._now))
        since = self._memory.signing_root_since
        if since is not None and self._memory.signing_root not in (None, current.issuer):
            # The old root is on its way out.
            moment = min(moment, self._spread(current, since))
        if self._facts.denied and Way.KUBERNETES in self._facts.ways:
            # It may have been admitted again. The list may be older than the certificate, too.
            since = self._memory.pointed_since
            moment = min(moment, since + self._timing.retry_most if since else self._now)
        return moment

    def _bundle_is_news(self, current: Generation) -> bool:
        """A roll-over's bundle came after the certificate.

        Who signs in Kubernetes or for a directory learns from a certificate issued since that this
        node has it.
        """
        return current.roots > 1 and any(
            each.public_key == current.public_key and each.bundle_digest != current.bundle_digest
            for each in self._facts.generations
            if each.number < current.number
        )

    def _spread(self, current: Generation, since: datetime) -> datetime:
        """Nodes spread the renewals that a roll-over asks for, but not for long."""
        most = min(_REISSUE_MOST, (current.not_after - current.not_before) / 20)
        return since + most * current.jitter

    def _when_due(self, action: Action) -> Action | None:
        retry = self._memory.retries.get(type(action).__name__)
        # The clock may have been set back: no wait is longer than the longest.
        if retry is None or not self._now < retry.not_before <= self._latest_retry():
            return action
        self._wake(retry.not_before)
        return None

    def _latest_retry(self) -> datetime:
        return self._now + 2 * self._timing.retry_most

    def _wake(self, moment: datetime) -> None:
        self._wake_at = max(self._now, min(self._wake_at, moment))

    def _judge(self) -> tuple[Level, str]:
        current = self._current
        problem = self._problem()
        if current is None:
            failed = self._no_way() or not all(retry.waiting for retry in self._retries())
            failed = failed and self._facts.chassis_id is not None
            return Level.ALARM if failed else Level.WAITING, problem or "no certificate yet"
        if self._facts.denied:
            return Level.ALARM, "; ".join(filter(None, [self._denial(), problem]))
        if self._now >= alarm_moment(current):
            until = current.not_after.isoformat(timespec="seconds")
            why = problem or "no answer yet"
            return Level.ALARM, f"the certificate ends {until} and is not renewed: {why}"
        if not self._in_place():
            retry = self._memory.retries.get(Point.__name__)
            often = retry is not None and retry.failures >= _FAILURES_OF_ALARM
            reason = problem or "OVSDB does not name the new identity yet"
            return Level.ALARM if often else Level.WAITING, reason
        due = self._renew_at()
        if (due is not None and self._now >= due) or self._token_is_news():
            return Level.RENEWING, problem or "a new certificate is asked for"
        return Level.OK, problem or "the certificate is valid and in place"

    def _denial(self) -> str:
        name = self._facts.chassis_id
        remedy = {
            Way.KUBERNETES: f"let it with `ovn-ipsec-ca admit {name}`; it asks again by itself",
            Way.DIRECTORY: "delete the generation-* in --directory and sign its new request",
        }
        way = next((each for each in remedy if each in self._facts.ways), None)
        by_token = f"put a new one of `ovn-ipsec-ca token {name}` into its --token-file"
        return (
            "the authority's deny-list names this node, and its peers refuse it; if it may come "
            f"back, {remedy[way] if way else by_token}"
        )

    def _problem(self) -> str:
        if self._facts.chassis_id is None:
            return self._facts.problem or ""
        said = [retry.problem for retry in self._retries()]
        newest = self._current.number if self._current else 0
        said += [
            f"generation-{number} is damaged: an older identity is used, if there is one"
            for number in self._facts.damaged
            if number > newest
        ]
        if self._no_way():
            said.append(
                "there is neither a valid certificate nor a join token for this node; make one "
                "with `ovn-ipsec-ca token` and name its file with --token-file"
            )
        return "; ".join(dict.fromkeys(said))

    def _no_way(self) -> bool:
        return self._current is None and self._way() is None

    def _retries(self) -> list[Retry]:
        return [self._memory.retries[key] for key in sorted(self._memory.retries)]


def after_success(memory: Memory, action: Action, now: datetime) -> Memory:
    """What is remembered when an action has been done."""
    name = type(action).__name__
    retries = {key: retry for key, retry in memory.retries.items() if key != name}
    memory = replace(memory, retries=retries)
    if isinstance(action, Obtain):
        seen = action.token or memory.token_seen
        return replace(memory, failed=None, token_seen=seen, token_refused=False)
    if isinstance(action, Point):
        return replace(memory, pointed_since=now, acknowledged=None)
    if isinstance(action, Acknowledge):
        return replace(memory, acknowledged=action.digest)
    return memory


def after_bundle(memory: Memory, signing_root: str | None, now: datetime) -> Memory:
    """What is remembered when the authority has named its roots."""
    since = memory.signing_root_since if signing_root == memory.signing_root else now
    return replace(
        memory, bundle_checked_at=now, signing_root=signing_root, signing_root_since=since
    )


def after_failure(
    memory: Memory,
    action: Action,
    problem: str,
    now: datetime,
    *,
    timing: Timing = _DEFAULT_TIMING,
    window: timedelta | None = None,
    retry_after_s: float = 0.0,
    refused: bool = False,
    untrusted: bool = False,
    seed: str = "",
) -> Memory:
    """What is remembered when an action failed: when to try again, doubling, with jitter.

    ``window``: the time left for a renewal, of which a wait takes a tenth at most. ``seed`` makes
    nodes that failed together come back apart. ``refused``, ``untrusted``: by the authority's
    word, or in TLS.
    """
    name = type(action).__name__
    before = memory.retries.get(name)
    failures = (before.failures if before else 0) + 1
    most = timing.retry_most if window is None else min(timing.retry_most, window / 10)
    waiting = retry_after_s > 0
    wait = min(timing.retry_least * 2 ** min(failures - 1, 20), max(most, timing.retry_least))
    if waiting:
        wait = min(timedelta(seconds=retry_after_s), timing.retry_most)
    digest = sha256(f"{seed}\0{name}\0{failures}".encode()).digest()
    spread = int.from_bytes(digest[:4], "big") / 2**32
    # Not earlier than the authority asked for.
    wait *= 1 + spread / 2 if waiting else 0.5 + spread
    retries = {**memory.retries, name: Retry(failures, now + wait, problem, waiting)}
    memory = replace(memory, retries=retries)
    if not isinstance(action, Obtain) or waiting:
        return memory
    if refused or untrusted or action.way is Way.TOKEN:
        memory = replace(memory, failed=action.way)
    if action.token is not None:
        seen = action.token if refused else memory.token_seen
        memory = replace(memory, token_seen=seen, token_tried=action.token, token_refused=refused)
    return memory
