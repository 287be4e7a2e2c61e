"""What an operator chooses when the authority is made: typed, with defaults, kept as JSON."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from typing import Any

from ca.csr import KeyKind
from ca.errors import UsageError

DAY_S = 86400
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}", re.ASCII)
_MOST_REQUESTS = 60


@dataclass(frozen=True, slots=True)
class CaSettings:
    """Every knob. All lives are in seconds."""

    name: str
    """Common name of every root; must differ from that of other authorities in a cluster."""
    organization: str = "ovn-ipsec"
    """In every subject."""
    key_kind: KeyKind = KeyKind.RSA_3072
    """RSA, because the connections of the original ovs-monitor-ipsec authenticate by RSA only."""
    ca_life_s: int = 10 * 365 * DAY_S
    leaf_life_s: int = 5 * 365 * DAY_S
    token_life_s: int = 3600
    crl_life_s: int = 7 * DAY_S
    """A new one is signed at half of it."""
    settle_s: int = 360
    """From the last acknowledgement to the switch, and from the last re-issue to retirement.

    pluto 4.10 looks at new roots only 5 minutes after it used the old ones.
    """
    deadline_s: int = 7 * DAY_S
    """How long nodes may take to acknowledge a new root before it is an alarm."""
    automatic_rollover: bool = True
    requests_per_minute: int = 10
    """Of one node; more must wait."""

    @property
    def ca_life(self) -> timedelta:
        """Of a root."""
        return timedelta(seconds=self.ca_life_s)

    @property
    def leaf_life(self) -> timedelta:
        """Of a node's certificate, unless its root ends sooner."""
        return timedelta(seconds=self.leaf_life_s)

    @property
    def settle(self) -> timedelta:
        """See ``settle_s``."""
        return timedelta(seconds=self.settle_s)

    @property
    def deadline(self) -> timedelta:
        """See ``deadline_s``."""
        return timedelta(seconds=self.deadline_s)


def check(settings: CaSettings) -> CaSettings:
    """Raises UsageError with every violation."""
    violations = []
    for field in fields(settings):
        value = getattr(settings, field.name)
        lowest = 0 if field.name in ("settle_s", "deadline_s") else 1
        if isinstance(value, int) and not isinstance(value, bool) and value < lowest:
            violations.append(f"{field.name}: {value} is less than {lowest}")
    if settings.requests_per_minute > _MOST_REQUESTS:
        violations.append(f"requests_per_minute: more than {_MOST_REQUESTS}")
    for what in ("name", "organization"):
        text = getattr(settings, what)
        if not _NAME.fullmatch(text):
            # Names are compared as text by programs that do not all quote alike.
            violations.append(
                f"{what}: {text!r} is not 1 to 64 letters, digits, blanks, dots, dashes and "
                "underscores"
            )
    if settings.leaf_life_s * 2 > settings.ca_life_s:
        # A roll-over starts when a root outlives no more leaves; it needs time to happen in.
        violations.append(
            f"leaf_life_s: {settings.leaf_life_s} is more than half of ca_life_s, "
            f"{settings.ca_life_s}"
        )
    if violations:
        raise UsageError("\n".join(violations))
    return settings


def to_json(settings: CaSettings) -> bytes:
    """For the state directory."""
    return json.dumps(asdict(settings), indent=2).encode() + b"\n"


def from_json(data: bytes) -> CaSettings:
    """Raises UsageError with every violation, also for unknown words and wrong types."""
    try:
        values: Any = json.loads(data)
    except ValueError as error:
        raise UsageError(f"not JSON: {error}") from error
    if not isinstance(values, dict):
        raise UsageError("not a JSON object")
    types = {field.name: type(getattr(_EXAMPLE, field.name)) for field in fields(CaSettings)}
    violations = [f"{name}: unknown setting" for name in values.keys() - types.keys()]
    if "name" not in values:
        violations.append("name: missing")
    for name in values.keys() & types.keys():
        try:
            values[name] = _typed(types[name], values[name])
        except (ValueError, TypeError):
            violations.append(f"{name}: {values[name]!r} is not of type {types[name].__name__}")
    if violations:
        raise UsageError("\n".join(violations))
    return check(CaSettings(**values))


_EXAMPLE = CaSettings(name="example")


def _typed(kind: type, value: Any) -> Any:
    if kind is KeyKind:
        return KeyKind(value)
    if type(value) is not kind:
        raise TypeError
    return value
