"""The wall clock. The only module of the package that reads it; the core takes ``now``."""

from __future__ import annotations

from datetime import UTC, datetime


def wall_clock() -> datetime:
    """UTC, for certificate validity and for people; never for pacing."""
    return datetime.now(UTC)
