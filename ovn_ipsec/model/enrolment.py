"""How the enrolment of this node goes, as it says itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class EnrolmentState(StrEnum):
    """The words of ``state.json``."""

    OK = "ok"
    RENEWING = "renewing"
    WAITING = "waiting"
    ALARM = "alarm"
    UNKNOWN = "unknown"
    """The file cannot be read, or says something else."""


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What the file says."""

    state: EnrolmentState
    renew_at: datetime | None = None
