"""What enrolment does next: single decisions, and a whole life in a world that fails at will."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovn_ipsec.identity.model import (
    Acknowledge,
    Action,
    DropPending,
    Facts,
    Generation,
    HeardRoots,
    Level,
    Memory,
    Obtain,
    Pending,
    Point,
    Prepare,
    Prune,
    RefreshBundle,
    Way,
)
from ovn_ipsec.identity.plan import (
    after_bundle,
    after_failure,
    after_success,
    alarm_moment,
    current_generation,
    plan,
    renewal_moment,
)

T0 = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
EST = frozenset({Way.CERTIFICATE, Way.TOKEN})


def generation(number: int = 1, *, life: timedelta = 10 * DAY, **more: object) -> Generation:
    made = Generation(
        number=number,
        name="node",
        not_before=T0,
        not_after=T0 + life,
        public_key=f"key {number}",
        bundle_digest="roots",
        issuer="root",
        jitter=0.0,
    )
    return replace(made, **more)  # type: ignore[arg-type]  # fields by name


def in_place(*generations: Generation, **more: object) -> Facts:
    facts = Facts("node", pointed_at=generations[-1].number, generations=generations, ways=EST)
    return replace(facts, **more)  # type: ignore[arg-type]  # fields by name


CHECKED = Memory(bundle_checked_at=T0, signing_root="root", acknowledged="roots")


def test_nothing_is_done_before_the_chassis_id_is_known() -> None:
    decision = plan(Facts(None, "OVSDB: cannot connect", ways=EST), Memory(), T0)
    assert (decision.action, decision.level) == (None, Level.WAITING)
    assert decision.reason == "OVSDB: cannot connect"


def test_first_certificate_takes_a_key_a_request_and_the_token() -> None:
    facts = Facts("node", ways=EST)
    assert plan(facts, Memory(), T0).action == Prepare("node")
    facts = replace(facts, pending=Pending("node", "key"))
    assert plan(facts, Memory(), T0).action == Obtain(Way.TOKEN, None)


def test_node_without_token_and_certificate_is_an_alarm_that_says_what_to_do() -> None:
    decision = plan(Facts("node", ways=frozenset({Way.CERTIFICATE})), Memory(), T0)
    assert (decision.action, decision.level) == (None, Level.ALARM)
    assert "ovn-ipsec-ca token" in decision.reason


def test_valid_identity_in_place_needs_nothing() -> None:
    decision = plan(in_place(generation()), CHECKED, T0 + timedelta(seconds=1))
    assert (decision.action, decision.level, decision.in_place) == (None, Level.OK, True)
    assert T0 < decision.wake_at <= T0 + timedelta(seconds=31)


def test_newest_valid_identity_is_the_one_that_ovsdb_must_name() -> None:
    facts = in_place(generation(1), generation(2), pointed_at=1)
    assert plan(facts, CHECKED, T0).action == Point(2)
    later = generation(3, not_before=T0 + DAY)
    facts = in_place(generation(1), generation(2), later, pointed_at=2)
    assert plan(facts, CHECKED, T0).action == Prune((1,)), "one that is not valid yet must wait"


def test_switch_that_ovsdb_takes_back_again_and_again_is_an_alarm() -> None:
    facts, memory = in_place(generation(1), generation(2), pointed_at=1), CHECKED
    assert plan(facts, memory, T0).level is Level.WAITING
    for _ in range(5):
        memory = after_failure(memory, Point(2), "OVSDB: read only", T0)
    decision = plan(facts, memory, T0)
    assert (decision.level, decision.reason) == (Level.ALARM, "OVSDB: read only")


@pytest.mark.parametrize(
    ("life", "share"),
    [(timedelta(days=1825), 0.9), (30 * DAY, 2 / 3), (timedelta(minutes=1), 2 / 3)],
)
def test_renewal_is_at_nine_tenths_of_years_and_two_thirds_of_less(
    life: timedelta, share: float
) -> None:
    assert renewal_moment(generation(life=life)) == T0 + life * share
    drifted = generation(life=life, jitter=0.999)
    assert T0 + life * (share - 0.05) < renewal_moment(drifted) < T0 + life * share


def test_renewal_is_by_the_own_certificate_and_an_alarm_at_half_of_its_time() -> None:
    one = generation()
    facts = in_place(one, pending=Pending("node", "next"))
    due = renewal_moment(one)
    memory = replace(CHECKED, bundle_checked_at=due - timedelta(seconds=1))
    assert plan(facts, memory, due - timedelta(seconds=1)).action is None
    decision = plan(facts, memory, due)
    assert (decision.action, decision.level) == (Obtain(Way.CERTIFICATE, 1), Level.RENEWING)
    failed = after_failure(memory, Obtain(Way.CERTIFICATE, 1), "no route to host", due)
    assert plan(facts, failed, alarm_moment(one) - DAY / 2).level is Level.RENEWING
    alarm = plan(facts, failed, alarm_moment(one))
    assert alarm.level is Level.ALARM and "no route to host" in alarm.reason


def test_expired_certificate_authenticates_nobody() -> None:
    facts = in_place(generation(), pending=Pending("node", "next"))
    assert plan(facts, CHECKED, T0 + 10 * DAY).action == Obtain(Way.TOKEN, None)


def test_identity_of_another_chassis_id_is_not_used() -> None:
    facts = in_place(generation(), chassis_id="other")
    assert plan(facts, CHECKED, T0).action == Prepare("other")
    facts = replace(facts, pending=Pending("node", "key"))
    assert plan(facts, CHECKED, T0).action == DropPending("node")
    assert plan(replace(facts, chassis_id="NODE", pending=None), CHECKED, T0).action is None


def test_refused_certificate_gives_way_to_a_token_and_both_are_tried_again() -> None:
    one = generation()
    facts = in_place(one, pending=Pending("node", "next"))
    due = renewal_moment(one)
    memory = replace(CHECKED, bundle_checked_at=due)
    by_certificate = Obtain(Way.CERTIFICATE, 1)
    memory = after_failure(memory, by_certificate, "revoked", due, refused=True)
    later = due + timedelta(minutes=10)
    memory = replace(memory, bundle_checked_at=later)
    assert plan(facts, memory, later).action == Obtain(Way.TOKEN, 1)
    memory = after_failure(memory, Obtain(Way.TOKEN, 1), "used", later, refused=True)
    later += timedelta(minutes=20)
    memory = replace(memory, bundle_checked_at=later)
    assert plan(facts, memory, later).action == by_certificate


def test_new_token_is_an_operators_word_and_asked_by_at_once() -> None:
    facts = in_place(generation(), token="old")
    memory = replace(CHECKED, token_seen="old")
    assert plan(facts, memory, T0).action is None
    facts = replace(facts, token="new")
    decision = plan(facts, memory, T0)
    assert (decision.action, decision.level) == (Prepare("node"), Level.RENEWING)
    facts = replace(facts, pending=Pending("node", "next"))
    by_token = Obtain(Way.TOKEN, 1, "new")
    assert plan(facts, memory, T0).action == by_token
    used = after_success(memory, by_token, T0)
    assert plan(facts, used, T0).action is None


def test_new_token_that_is_refused_is_told_and_not_asked_by_again() -> None:
    facts = in_place(generation(), token="new", pending=Pending("node", "next"))
    by_token = Obtain(Way.TOKEN, 1, "new")
    memory = after_failure(CHECKED, by_token, "has a certificate", T0, refused=True)
    later = replace(memory, bundle_checked_at=T0 + DAY)
    decision = plan(facts, later, T0 + DAY)
    assert (decision.action, decision.level) == (None, Level.OK)
    assert "has a certificate" in decision.reason
    due = renewal_moment(generation())
    memory = replace(memory, bundle_checked_at=due)
    by_certificate = Obtain(Way.CERTIFICATE, 1)
    assert plan(facts, memory, due).action == by_certificate
    memory = after_failure(memory, by_certificate, "TLS", due, untrusted=True)
    assert plan(facts, memory, due + timedelta(minutes=10)).action == by_certificate


def test_new_token_that_gets_no_answer_waits_and_leaves_a_due_renewal_its_turns() -> None:
    one = generation()
    facts = in_place(one, token="new", pending=Pending("node", "next"))
    by_token, due = Obtain(Way.TOKEN, 1, "new"), renewal_moment(one)
    memory = after_failure(CHECKED, by_token, "no route to host", T0)
    assert plan(facts, memory, T0).action is None
    assert plan(facts, memory, T0 + timedelta(seconds=2)).action == by_token
    memory = replace(memory, bundle_checked_at=due)
    assert plan(facts, memory, due).action == Obtain(Way.CERTIFICATE, 1)
    # Yet another token is not kept waiting by what became of this one.
    assert plan(replace(facts, token="newer"), memory, T0).action == replace(
        by_token, token="newer"
    )


def test_certificate_that_fails_in_tls_gives_way_to_a_token_in_turns() -> None:
    one = generation()
    facts = in_place(one, pending=Pending("node", "next"), token="seen")
    at = renewal_moment(one)
    memory = replace(CHECKED, token_seen="seen")
    ways = []
    for _ in range(4):
        memory = replace(memory, bundle_checked_at=at)
        action = plan(facts, memory, at).action
        assert isinstance(action, Obtain)
        ways.append(action.way)
        untrusted = action.way is Way.CERTIFICATE
        memory = after_failure(memory, action, "TLS", at, untrusted=untrusted)
        at += timedelta(minutes=10)
    assert ways == [Way.CERTIFICATE, Way.TOKEN] * 2


def test_node_on_its_deny_list_is_an_alarm_with_the_remedy_of_its_way() -> None:
    facts = in_place(generation(), denied=True)
    decision = plan(facts, CHECKED, T0)
    assert (decision.action, decision.level) == (None, Level.ALARM)
    assert "deny-list" in decision.reason and "ovn-ipsec-ca token node" in decision.reason
    decision = plan(replace(facts, ways=frozenset({Way.DIRECTORY})), CHECKED, T0)
    assert decision.action is None and "sign its new request" in decision.reason


def test_node_on_its_deny_list_asks_in_kubernetes_whether_it_is_admitted_again() -> None:
    facts = in_place(generation(), denied=True, ways=KUBERNETES)
    decision = plan(facts, CHECKED, T0)
    assert decision.action == Prepare("node") and "admit node" in decision.reason
    # The list that is there now may be older than the certificate.
    renewed = replace(CHECKED, pointed_since=T0 - timedelta(minutes=4))
    assert plan(facts, renewed, T0).action is None
    assert plan(facts, renewed, T0 + timedelta(minutes=1)).action == Prepare("node")


def test_spent_request_is_forgotten_and_the_last_two_identities_are_kept() -> None:
    facts = in_place(*(generation(number) for number in (1, 2, 3, 4)))
    facts = replace(facts, pending=Pending("node", "key 4"), damaged=(0, 9))
    assert plan(facts, CHECKED, T0).action == DropPending("node")
    assert plan(replace(facts, pending=None), CHECKED, T0).action == Prune((0, 1, 2))


def test_damaged_identity_newer_than_the_one_in_use_is_told() -> None:
    decision = plan(in_place(generation(2), damaged=(1,)), CHECKED, T0)
    assert (decision.action, decision.reason) == (
        Prune((1,)),
        "the certificate is valid and in place",
    )
    decision = plan(in_place(generation(2), damaged=(3,)), CHECKED, T0)
    assert decision.action is None and decision.level is Level.OK
    assert "generation-3 is damaged" in decision.reason


def test_other_roots_are_acknowledged_once_the_agent_had_time_to_read_them() -> None:
    facts = in_place(generation(bundle_digest="both"))
    memory = after_success(replace(CHECKED, bundle_checked_at=T0), Point(1), T0)
    decision = plan(facts, memory, T0)
    assert (decision.action, decision.wake_at) == (None, T0 + timedelta(seconds=10))
    due = T0 + timedelta(seconds=10)
    assert plan(facts, memory, due).action == Acknowledge(1, "both")
    memory = after_success(memory, Acknowledge(1, "both"), due)
    assert plan(facts, memory, due).action is None


def test_new_signing_root_leads_to_an_early_renewal() -> None:
    facts = in_place(generation(jitter=0.5))
    memory = after_bundle(CHECKED, "new root", T0)
    decision = plan(facts, memory, T0)
    assert decision.action is None
    assert decision.renew_at == T0 + 10 * DAY / 20 * 0.5
    assert plan(facts, memory, decision.renew_at).action == Prepare("node")


def test_roots_are_asked_for_on_start_and_now_and_then() -> None:
    facts = in_place(generation())
    assert plan(facts, replace(CHECKED, bundle_checked_at=None), T0).action == RefreshBundle(1)
    hour = timedelta(hours=1)
    assert plan(facts, CHECKED, T0 + 0.7 * hour).action is None
    assert plan(facts, CHECKED, T0 + 0.8 * hour).action == RefreshBundle(1)


def test_clock_that_is_set_back_stops_nothing() -> None:
    one = generation(not_before=T0 - 400 * DAY, not_after=T0 + 400 * DAY)
    facts = in_place(one)
    failed = after_failure(CHECKED, RefreshBundle(1), "no answer", T0)
    assert plan(facts, failed, T0 - 300 * DAY).action == RefreshBundle(1)


def test_waits_double_spread_and_end_at_five_minutes_or_what_the_authority_says() -> None:
    action, memory, waits = Obtain(Way.TOKEN, None), Memory(), []
    for _ in range(12):
        memory = after_failure(memory, action, "no", T0, seed="node")
        waits.append((memory.retries["Obtain"].not_before - T0).total_seconds())
    assert all(0.5 * 2**n <= wait <= 1.5 * 2**n for n, wait in enumerate(waits[:8]))
    assert 150 <= waits[-1] <= 450
    other = after_failure(Memory(), action, "no", T0, seed="another").retries["Obtain"]
    assert (other.not_before - T0).total_seconds() != waits[0]
    busy = after_failure(memory, action, "busy", T0, retry_after_s=7).retries["Obtain"]
    assert 7 <= (busy.not_before - T0).total_seconds() <= 10.5 and busy.waiting
    short = after_failure(memory, action, "no", T0, window=timedelta(seconds=20))
    assert (short.retries["Obtain"].not_before - T0).total_seconds() <= 3


@dataclass
class World:
    """Disk, OVSDB and authority, as far as the planner can tell."""

    life: timedelta
    now: datetime = T0
    facts: Facts = field(default_factory=lambda: Facts("node", ways=EST))
    memory: Memory = field(default_factory=Memory)
    keys: int = 0
    root: str = "root"

    def step(self, fails: bool, dies: bool) -> None:
        decision = plan(self.facts, self.memory, self.now)
        action = decision.action
        if action is None:
            assert decision.wake_at > self.now, "a loop would spin"
            self.now = decision.wake_at
            return
        if fails:
            self.memory = after_failure(self.memory, action, "failed", self.now, seed="node")
            return
        self.take(action)
        self.memory = Memory() if dies else after_success(self.memory, action, self.now)
        self.now += timedelta(milliseconds=50)

    def take(self, action: Action) -> None:
        facts = self.facts
        current = current_generation(facts, self.now)
        match action:
            case Prepare(name):
                self.keys += 1
                self.facts = replace(facts, pending=Pending(name, f"key {self.keys}"))
            case DropPending(_):
                assert facts.pending is not None
                self.facts = replace(facts, pending=None)
            case Obtain(way, number):
                assert facts.pending is not None
                assert way is Way.TOKEN or (current is not None and current.number == number)
                self.install(facts.pending.public_key)
            case Point(number):
                assert current is not None and number == current.number
                self.facts = replace(facts, pointed_at=number)
            case Prune(numbers):
                assert current is not None and facts.pointed_at not in numbers
                kept = tuple(each for each in facts.generations if each.number not in numbers)
                assert len(kept) >= min(2, len(facts.generations))
                self.facts = replace(facts, generations=kept)
            case RefreshBundle(number):
                assert current is not None and current.number == number
                self.memory = after_bundle(self.memory, self.root, self.now)
            case Acknowledge(_, digest):
                assert current is not None and digest == current.bundle_digest

    def install(self, key: str) -> None:
        number = max((each.number for each in self.facts.generations), default=0) + 1
        made = generation(
            number,
            not_before=self.now,
            not_after=self.now + self.life,
            public_key=key,
            jitter=(number * 0.37) % 1,
            issuer=self.root,
        )
        self.memory = after_bundle(self.memory, self.root, self.now)
        self.facts = replace(self.facts, generations=(*self.facts.generations, made))


LIVES = st.sampled_from([timedelta(seconds=60), timedelta(hours=1), 30 * DAY, 1825 * DAY])


@settings(max_examples=60)
@given(life=LIVES, luck=st.lists(st.sampled_from(["well", "fails", "dies", "root"]), max_size=60))
def test_whatever_fails_or_dies_the_node_ends_with_an_identity_that_is_in_place(
    life: timedelta, luck: list[str]
) -> None:
    world = World(life)
    for each in luck:
        if each == "root":
            world.root += "+"
        world.step(each == "fails", each == "dies")
    for _ in range(60):
        world.step(fails=False, dies=False)
        decision = plan(world.facts, world.memory, world.now)
        if decision.action is None and decision.level is Level.OK:
            break
    assert decision.in_place and decision.level is Level.OK
    assert len(world.facts.generations) <= 3


@settings(max_examples=20)
@given(life=LIVES, fails_of_4=st.integers(0, 2))
def test_renewals_come_in_time_for_years_with_an_authority_that_often_fails(
    life: timedelta, fails_of_4: int
) -> None:
    world = World(life)
    for step in range(400):
        had = current_generation(world.facts, world.now)
        world.step(fails=step % 4 < fails_of_4, dies=False)
        if had is not None:
            assert current_generation(world.facts, world.now) is not None, "it ran out"
    assert world.facts.generations


KUBERNETES = frozenset({Way.KUBERNETES})


def test_roots_that_were_heard_of_are_taken_at_once_and_once() -> None:
    facts = in_place(generation(jitter=0.5), ways=KUBERNETES, heard=HeardRoots("roots", "root"))
    assert plan(facts, CHECKED, T0).action is None
    others = replace(facts, heard=HeardRoots("both", "root"))
    assert plan(others, CHECKED, T0).action == RefreshBundle(1)
    switched = replace(facts, heard=HeardRoots("roots", "new"))
    assert plan(switched, CHECKED, T0).action == RefreshBundle(1)
    assert plan(switched, after_bundle(CHECKED, "new", T0), T0).action is None
    failed = after_failure(CHECKED, RefreshBundle(1), "damaged", T0)
    assert plan(others, failed, T0).action is None, "a damaged bundle must not be read in a loop"


def due_of(facts: Facts, memory: Memory) -> datetime:
    renew_at = plan(facts, memory, T0).renew_at
    assert renew_at is not None
    return renew_at


def test_roll_overs_bundle_is_acknowledged_by_a_renewal_where_nothing_else_can_be_said() -> None:
    first = generation(1, public_key="key")
    both = generation(2, public_key="key", bundle_digest="both", roots=2, jitter=0.5)
    facts = in_place(first, both, ways=KUBERNETES)
    memory = replace(CHECKED, pointed_since=T0)
    due = T0 + 10 * DAY / 20 * 0.5
    assert due_of(facts, memory) == due
    assert plan(facts, memory, due).action == Prepare("node")
    renewed = generation(3, bundle_digest="both", roots=2)
    assert due_of(in_place(both, renewed, ways=KUBERNETES), memory) > due
    assert due_of(replace(facts, ways=frozenset({Way.DIRECTORY})), memory) == due
    # EST has another acknowledgement, and the end of a roll-over needs none.
    assert due_of(replace(facts, ways=EST), memory) > due
    retired = replace(both, roots=1)
    assert due_of(in_place(first, retired, ways=KUBERNETES), memory) > due


def test_request_in_kubernetes_needs_no_token() -> None:
    facts = Facts("node", ways=KUBERNETES, pending=Pending("node", "key"))
    assert plan(facts, Memory(), T0).action == Obtain(Way.KUBERNETES, None)
    refused = after_failure(Memory(), Obtain(Way.KUBERNETES, None), "denied", T0, refused=True)
    later = T0 + timedelta(minutes=5)
    assert plan(facts, refused, later).action == Obtain(Way.KUBERNETES, None)
