"""Refusals that do not go on record, lest they fill it: the server's own log tells of them."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from ca.entries import How
from ca.policy import Refusal

_TELL_EVERY = timedelta(hours=1)

_log = logging.getLogger(__name__)


class Unrecorded:
    """Counts those of requesters who proved nothing, and tells of nodes with too many once."""

    def __init__(self) -> None:
        self._nodes: set[str] = set()
        """In lower case."""
        self._count = 0
        self._told_at: datetime | None = None

    def note(self, refusal: Refusal) -> None:
        """Take in one that is neither recorded now nor was before."""
        name = refusal.chassis_id.lower()
        if not refusal.proven:
            self._count += 1
        elif refusal.how is not How.OPERATOR and name not in self._nodes:
            self._nodes.add(name)
            _log.warning("refused, and not on record: %s", "; ".join(refusal.reasons))

    def tell(self, now: datetime) -> None:
        """Of the count, once an hour."""
        recently = self._told_at is not None and timedelta() <= now - self._told_at < _TELL_EVERY
        if self._count and not recently:
            _log.warning(
                "%d requests of requesters who proved nothing were refused and are not on "
                "record: list --denied shows as many as a minute and a day may have",
                self._count,
            )
            self._count, self._told_at = 0, now
