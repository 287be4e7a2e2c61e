"""When the loop looks at everything, when it follows changed rows, and when it rests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovn_ipsec.agent.pace import (
    CALM_REST_MOST_S,
    PUT_OFF_S,
    PUT_OFF_SHARE,
    REST_MOST_S,
    REST_SHARE,
    REST_UNFOLLOWED_S,
    SETTLE_ROWS_S,
    SETTLE_S,
    Pace,
    Pass,
)

PERIOD_S = 13.0


def looked(pace: Pace, began: float, ended: float, *, acted: bool = False) -> None:
    pace.looks(began)
    pace.looked(began, ended, ended + PERIOD_S, acted=acted)


def followed(pace: Pace, began: float, ended: float, *, acted: bool = True) -> None:
    pace.follows()
    pace.followed(began, ended, acted=acted)


def at_rest(took: float = 0.1) -> Pace:
    """Has looked for so long, up to 100.0; nothing has happened for long by 110.0."""
    pace = Pace(100.0 - took)
    looked(pace, 100.0 - took, 100.0)
    return pace


def test_first_of_all_is_a_look() -> None:
    assert Pace(5.0).due(5.0 + SETTLE_S) is Pass.LOOK


def test_nothing_heard_is_slept_through_until_the_period_ends() -> None:
    pace = at_rest()
    assert pace.wake_at() == 100.0 + PERIOD_S
    assert pace.due(112.9) is Pass.SLEEP
    assert pace.due(113.0) is Pass.LOOK


def test_a_changed_row_is_followed_first_and_looked_at_after_a_rest() -> None:
    pace = at_rest()
    pace.heard_rows(110.0)
    assert pace.due(110.0 + SETTLE_ROWS_S / 2) is Pass.SLEEP
    assert pace.due(110.0 + SETTLE_ROWS_S) is Pass.FOLLOW
    followed(pace, 110.05, 110.15)
    rest_until = 110.15 + REST_SHARE * 0.1
    assert pace.due(rest_until - 0.01) is Pass.SLEEP
    assert pace.wake_at() == pytest.approx(rest_until)
    assert pace.due(rest_until + 0.001) is Pass.LOOK


def test_after_hundreds_of_tunnels_were_loaded_the_look_waits_for_its_whole_rest() -> None:
    pace = at_rest()
    pace.heard_rows(105.0)
    followed(pace, 105.0, 107.2)
    assert pace.wake_at() == pytest.approx(107.2 + REST_MOST_S)


def test_a_row_that_asks_for_nothing_is_looked_at_at_once() -> None:
    pace = at_rest()
    pace.heard_rows(110.0)
    followed(pace, 110.05, 110.06, acted=False)
    assert pace.due(110.06) is Pass.LOOK


def test_a_change_during_the_rest_after_a_long_look_does_not_wait_for_its_end() -> None:
    pace = at_rest(took=1.0)
    pace.heard_rows(100.1)
    assert pace.due(100.15) is Pass.FOLLOW
    pace.follows()
    pace.unfollowed()  # as it turns out, it needs a look
    assert pace.due(100.1 + REST_UNFOLLOWED_S - 0.11) is Pass.SLEEP
    assert pace.due(100.0 + REST_UNFOLLOWED_S) is Pass.LOOK


def test_events_that_are_no_rows_wait_for_the_rest() -> None:
    pace = at_rest(took=1.0)
    pace.heard(100.1)
    assert pace.due(100.0 + REST_MOST_S - 0.01) is Pass.SLEEP
    assert pace.due(100.0 + REST_MOST_S) is Pass.LOOK


def test_sas_that_come_up_wait_longer_than_any_other_event() -> None:
    pace = at_rest(took=1.0)
    pace.heard_calmly(100.1)
    assert pace.due(100.0 + CALM_REST_MOST_S - 0.01) is Pass.SLEEP
    assert pace.wake_at() == 100.0 + CALM_REST_MOST_S
    pace.heard(101.0)
    assert pace.due(100.0 + REST_MOST_S) is Pass.LOOK
    looked(pace, 102.0, 103.0)
    assert pace.wake_at() == 103.0 + PERIOD_S, "it has seen both"


def test_a_row_that_changes_during_a_look_goes_first_and_the_look_is_due_again() -> None:
    pace = at_rest()
    pace.heard_calmly(110.0)
    pace.looks(110.1)
    assert not pace.breaks_off(110.2)
    pace.heard_rows(110.3)
    assert pace.breaks_off(110.3)
    assert pace.due(110.3) is Pass.SLEEP, "the rest of the rows may be on its way"
    assert pace.wake_at() == pytest.approx(110.3 + SETTLE_ROWS_S)
    assert pace.due(110.3 + SETTLE_ROWS_S) is Pass.FOLLOW
    followed(pace, 110.33, 110.4, acted=False)
    assert pace.due(110.4) is Pass.LOOK


def test_a_look_that_may_find_a_loss_is_not_left() -> None:
    pace = at_rest()
    pace.heard(110.0)
    pace.looks(110.1)
    pace.heard_rows(110.3)
    assert not pace.breaks_off(110.3)


def test_a_look_is_not_left_for_rows_that_have_to_wait_anyhow() -> None:
    pace = at_rest()
    pace.heard_rows(110.0)
    followed(pace, 110.1, 110.6)
    pace.look_by(110.7)
    pace.looks(110.7)
    pace.heard_rows(110.8)
    assert not pace.breaks_off(111.0), "rests after the long pass before"


def test_what_a_look_has_done_is_looked_at_again_soon() -> None:
    pace = Pace(0.0)
    looked(pace, 0.0, 0.1, acted=True)
    assert pace.wake_at() == pytest.approx(0.1 + REST_SHARE * 0.1)


def test_after_a_fault_there_is_a_pause_even_if_rows_change() -> None:
    pace = at_rest()
    pace.looks(110.0)
    pace.stumbled(110.0)
    assert pace.due(110.9) is Pass.SLEEP
    assert pace.due(111.0) is Pass.LOOK


@given(
    st.lists(
        st.tuples(
            st.floats(0.001, 0.5),
            st.floats(0.001, 5.0),
            st.booleans(),
            st.booleans(),
            st.booleans(),
        ),
        min_size=1,
        max_size=60,
    )
)
def test_rows_that_change_all_the_time_put_no_look_off_for_long(
    turns: list[tuple[float, float, bool, bool, bool]],
) -> None:
    pace, now, last_look, put_off_s = at_rest(), 110.0, 100.0, PUT_OFF_S
    pace.heard_rows(now)
    unseen_since: float | None = now
    for gap, took, acted, rows, rows_meanwhile in turns:
        if rows:
            pace.heard_rows(now)
            unseen_since = now if unseen_since is None else unseen_since
        now = max(now, min(pace.wake_at(), now + gap))
        began, due = now, pace.due(now)
        if due is Pass.SLEEP:
            continue
        now += took
        if due is Pass.FOLLOW:
            followed(pace, began, now, acted=acted)
            if acted:
                put_off_s = max(PUT_OFF_S, PUT_OFF_SHARE * (now - began))
            unseen_since = now if acted and unseen_since is None else unseen_since
        else:
            pace.looks(began)
            if rows_meanwhile:
                pace.heard_rows(now)
            if pace.breaks_off(now):
                unseen_since = began if unseen_since is None else unseen_since
                assert now < unseen_since + put_off_s, "no look is left for ever"
            else:
                pace.looked(began, now, now + PERIOD_S, acted=acted)
                last_look, put_off_s = now, max(PUT_OFF_S, PUT_OFF_SHARE * (now - began))
                unseen_since = now if acted or rows_meanwhile else None
        if unseen_since is not None:
            soon = max(now + SETTLE_ROWS_S, unseen_since + put_off_s)
            assert pace.due(soon) is not Pass.SLEEP
            late = max(unseen_since + put_off_s, last_look + REST_MOST_S, now + SETTLE_ROWS_S)
            assert pace.due(late) is Pass.LOOK
