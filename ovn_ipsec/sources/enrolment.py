"""What ``ovn-ipsec enroll`` writes of itself, beside the identities that it keeps.

The file is found by the certificate that OVSDB names (``DIR/generation-N/certificate.pem``), or
where it is by default while there is none yet. It is for monitoring: nothing is decided on it.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from ovn_ipsec.model.enrolment import Enrolment, EnrolmentState

DEFAULT_DIRECTORY = Path("/var/lib/ovn-ipsec/identity")
_MOST_BYTES = 64 * 1024


def read_enrolment(certificate: str | None, default: Path = DEFAULT_DIRECTORY) -> Enrolment | None:
    """None: this node is not enrolled by ``ovn-ipsec enroll``."""
    path = _state_file(certificate, default)
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            return parse_enrolment(file.read(_MOST_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return Enrolment(EnrolmentState.UNKNOWN)


def parse_enrolment(data: bytes) -> Enrolment:
    """The file's content."""
    try:
        told = json.loads(data)
        state = EnrolmentState(told["state"])
        at = told.get("renew_at")
        moment = datetime.fromisoformat(at) if at is not None else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Enrolment(EnrolmentState.UNKNOWN)
    return Enrolment(state, moment if moment is not None and moment.tzinfo else None)


def _state_file(certificate: str | None, default: Path) -> Path | None:
    if not certificate:
        return default / "state.json"
    place = Path(certificate).parent
    return place.parent / "state.json" if place.name.startswith("generation-") else None
