"""When the agent's loop looks at everything, and when it only follows rows that changed. Pure.

Times are seconds of one monotonic clock, given by the caller.
"""

from __future__ import annotations

import math
from enum import Enum, auto

SETTLE_S = 0.05
"""Events come in bursts (a rekey, states of several SAs): wait this long for the rest."""
SETTLE_ROWS_S = 0.005
"""Rows come a transaction at a time, and whoever makes them one by one waits for no more than the
second: the next pass comes after as long a time as the last took."""
REST_SHARE = 4
REST_MOST_S = 2.0
"""A pass is followed by a rest so many times as long as itself, up to this."""
CALM_REST_SHARE = 10
CALM_REST_MOST_S = 5.0
"""The same when nothing has been lost: SAs have been added, or somebody asks for the status. When
many tunnels come up at once the core belongs to pluto, not to whoever watches it."""
REST_UNFOLLOWED_S = 0.5
"""At most this when rows changed that only a look can follow."""
PUT_OFF_S = 3.0
PUT_OFF_SHARE = 2
"""Rows that change all the time keep the loop from looking at everything, or from the end of a
look, for so long at most, or so many times as long as the last pass, if that is more: right after
hundreds of tunnels were loaded the core is theirs."""
STUMBLE_REST_S = 1.0


class Pass(Enum):
    """What the loop does next."""

    FOLLOW = auto()
    """Do what rows that changed ask for; costs what they cost."""
    LOOK = auto()
    """Look at everything there is."""
    SLEEP = auto()


class Pace:
    """Hears of events and of passes; tells which is due."""

    def __init__(self, now: float) -> None:
        self._news_at: float | None = now
        """Of the first event since the last look began."""
        self._calm_at: float | None = None
        """The same of those that can wait."""
        self._urgent = False
        """Something else than rows and our own steps is among the news."""
        self._look_for = now
        """Since when the look that is going on was due."""
        self._breakable = False
        self._rows_at: float | None = None
        """Of the first change of rows since the last pass began."""
        self._due_at = now
        self._ended_at = 0.0
        self._took_s = 0.0
        self._rest_s = 0.0
        self._follow_not_before = 0.0

    @property
    def urgent(self) -> bool:
        """Whether the next look may find a loss."""
        return self._urgent

    def due(self, now: float) -> Pass:
        """What to do now."""
        if now >= self._follow_at() and not self._put_off(self._news_at, now):
            return Pass.FOLLOW
        return Pass.LOOK if now >= self._look_at() else Pass.SLEEP

    def wake_at(self) -> float:
        """Until when there is nothing to do if nothing is heard."""
        return min(self._follow_at(), self._look_at())

    def heard(self, now: float) -> None:
        """Something happened that a look may find."""
        self._urgent = True
        self._note(now)

    def heard_calmly(self, now: float) -> None:
        """The same, and nothing is lost by a look that comes later."""
        if self._calm_at is None:
            self._calm_at = now

    def heard_rows(self, now: float) -> None:
        """OVSDB or certificate files changed."""
        self._note(now)
        if self._rows_at is None:
            self._rows_at = now

    def look_by(self, at: float) -> None:
        """Look then, whatever is heard."""
        self._due_at = min(self._due_at, at)

    def follows(self) -> None:
        """A pass begins that follows the rows heard of so far."""
        self._rows_at = None

    def followed(self, began: float, now: float, *, acted: bool) -> None:
        """It has ended; when it acted, what came of it is to be looked at.

        The next one comes after as long a time: what is asked of pluto takes it time, too.
        """
        self._follow_not_before = now + (now - began)
        if acted:
            self._note(now)
            self._rests(began, now)

    def unfollowed(self) -> None:
        """It could not do what the rows ask for: a look has to."""
        self._rest_s = min(self._rest_s, REST_UNFOLLOWED_S)

    def looks(self, now: float) -> None:
        """A look begins, which sees all that was heard of so far."""
        self._look_for = now if self._news_at is None else self._news_at
        self._breakable = not self._urgent
        self._urgent = False
        self._news_at = self._calm_at = self._rows_at = None

    def breaks_off(self, now: float) -> bool:
        """Whether to leave the look that is going on for rows that changed since it began.

        It is then due again. One that may find a loss is not left, none for rows that have to
        wait anyhow, and none for ever.
        """
        if self._rows_at is None or not self._breakable or now < self._follow_not_before:
            return False
        if self._put_off(self._look_for, now):
            return False
        self._news_at = self._look_for
        return True

    def looked(self, began: float, now: float, again_at: float, *, acted: bool) -> None:
        """It has ended; the next is due at ``again_at``, or soon when this one acted."""
        self._due_at = max(again_at, now + SETTLE_S)
        self._rests(began, now)
        if acted:
            self._note(now)

    def stumbled(self, now: float) -> None:
        """A pass ended by a fault."""
        self._ended_at = now
        self._took_s = self._rest_s = STUMBLE_REST_S
        self._due_at = now + STUMBLE_REST_S

    def _follow_at(self) -> float:
        if self._rows_at is None:
            return math.inf
        return max(self._rows_at + SETTLE_ROWS_S, self._follow_not_before)

    def _look_at(self) -> float:
        at = self._due_at
        if self._news_at is not None:
            soon = max(self._news_at + SETTLE_S, self._ended_at + self._rest_s)
            at = min(at, soon, self._news_at + self._put_off_s())
        if self._calm_at is not None:
            rest_s = min(CALM_REST_SHARE * self._took_s, CALM_REST_MOST_S)
            at = min(at, max(self._calm_at + SETTLE_S, self._ended_at + rest_s))
        # Rows that are just coming are followed first.
        return at if self._rows_at is None else max(at, self._rows_at + SETTLE_ROWS_S)

    def _rests(self, began: float, now: float) -> None:
        self._ended_at, self._took_s = now, now - began
        self._rest_s = min(REST_SHARE * self._took_s, REST_MOST_S)

    def _note(self, now: float) -> None:
        if self._news_at is None:
            self._news_at = now

    def _put_off(self, since: float | None, now: float) -> bool:
        return since is not None and now >= since + self._put_off_s()

    def _put_off_s(self) -> float:
        return max(PUT_OFF_S, PUT_OFF_SHARE * self._took_s)
