"""Log records as JSON, one object a line, for machines that collect logs."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime


def event(name: str, **fields: object) -> Mapping[str, object]:
    """``extra=`` of a record that tells a change of state: what changed, and of what."""
    return {"event": {"event": name, **fields}}


class JsonFormatter(logging.Formatter):
    """``time`` (UTC), ``level``, ``logger``, ``message``, and the fields of an ``event``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line: JSON escapes what could break it."""
        told: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        more = getattr(record, "event", None)
        if isinstance(more, Mapping):
            told |= more
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)
