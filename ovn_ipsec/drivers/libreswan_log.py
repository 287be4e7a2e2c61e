"""Reads pluto's log: why negotiations failed. Pure.

The texts have no specification; they were recorded from libreswan 4.10 and 5.2. Both wordings are
understood at any time: a log outlives the pluto that wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from ovn_ipsec.model.evidence import (
    IKE_SYMPTOMS,
    Evidence,
    Failure,
    Symptom,
    connection_stem,
)

MOST_FAILURES = 2048
"""Anybody can send packets from any address: what is remembered is bounded."""
_DETAIL_CHARS = 200


class Success(Enum):
    """A line that disproves earlier failures."""

    IKE = "ike"
    CHILD = "child"


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One telling line."""

    key: str
    """As in ``Evidence.failures``."""
    what: Symptom | Success
    detail: str = ""


# "Nov 22 09:31:18.360969: TEXT" in pluto's own file, "... pluto[123]: TEXT" in a syslog file, TEXT
# alone from the journal. Names of our connections never hold a quote or a space.
_LINE = re.compile(
    r"^(?:[A-Z][a-z]{2} [ \d]\d [\d:.]+: |.{,200}? pluto\[\d+\]: )?(?:ERROR: )?"
    r'(?:"(?P<name>[A-Za-z0-9_.-]+)"(?:\[\d+\](?: [\da-fA-F.:]+)?)?(?: #\d+)?'
    r"|packet from (?P<address>[\da-fA-F.:]+?):\d+): (?P<rest>.*)$"
)

_INIT = r"(?:STATE_V2_PARENT_I1|IKE_SA_INIT_I)"
_AUTH = r"(?:STATE_V2_PARENT_I2|IKE_AUTH_I)"
_Pattern = tuple[str, re.Pattern[str] | None, Symptom | Success]
_PATTERNS: tuple[_Pattern, ...] = (
    # A word that the line holds, then what the detail is taken from: the first group.
    # Waits are 0.5, 1, 2, 4, 8 s: only a silence of 3.5 s is one.
    ("retransmission; will wait", re.compile(rf"{_INIT}: .* wait [48] s"), Symptom.SILENT),
    ("retransmission; will wait", re.compile(rf"{_AUTH}: .* wait [48] s"), Symptom.AUTH_SILENT),
    ("timeout exceeded after", re.compile(rf"{_AUTH}: "), Symptom.AUTH_SILENT),
    ("timeout exceeded after", None, Symptom.SILENT),
    (
        "asynchronous network error report",
        re.compile(r"complainant ([\da-fA-F.:]+): Connection refused"),
        Symptom.REFUSED,
    ),
    (
        "asynchronous network error report",
        re.compile(r"complainant ([\da-fA-F.:]+: (?:No route to host|\w+ is unreachable))"),
        Symptom.UNREACHABLE,
    ),
    (
        "send on ",
        re.compile(r" failed in .*: (.*unreachable|No route to host)"),
        Symptom.UNREACHABLE,
    ),
    ("rejected by peer: AUTHENTICATION_FAILED", None, Symptom.REJECTED),
    (
        "computed hash does not match hash received from peer",
        re.compile(r"peer (.*)"),
        Symptom.PSK_DIFFERS,
    ),
    ("authentication failed: no PSK found for", re.compile(r"for '(.*)'"), Symptom.PSK_ABSENT),
    (
        "SEC_ERROR_UNKNOWN_ISSUER",
        re.compile(r"certificate (.*) invalid: "),
        Symptom.ISSUER_UNKNOWN,
    ),
    (
        "SEC_ERROR_UNTRUSTED_ISSUER",
        re.compile(r"certificate (.*) invalid: "),
        Symptom.ISSUER_UNKNOWN,
    ),
    (
        "SEC_ERROR_EXPIRED_CERTIFICATE",
        re.compile(r"certificate (.*) invalid: "),
        Symptom.PEER_EXPIRED,
    ),
    (
        "SEC_ERROR_REVOKED_CERTIFICATE",
        re.compile(r"certificate (.*) invalid: "),
        Symptom.PEER_REVOKED,
    ),
    (
        " invalid: SEC_ERROR_",
        re.compile(r"certificate (.* invalid: .*)"),
        Symptom.PEER_CERTIFICATE,
    ),
    (
        "subjectAltName extension does not match",
        re.compile(r"match ID_\w+ '(.*)'"),
        Symptom.PEER_NAME,
    ),
    (
        "authentication failed: no certificate matched",
        re.compile(r"'@?(.*)'"),
        Symptom.PEER_CERTIFICATE,
    ),
    ("peer authentication requires policy", re.compile(r"(policy \w+)"), Symptom.AUTH_METHOD),
    (
        "with encrypted notification AUTHENTICATION_FAILED",
        re.compile(r"^responding to IKE_AUTH "),
        Symptom.PEER_REFUSED,
    ),
    # The initiator fails before it has sent IKE_AUTH: it could not sign.
    (
        "encountered fatal error in state",
        re.compile(r"state (?:STATE_V2_PARENT_I1|IKE_SA_INIT_IR)$"),
        Symptom.OWN_KEY,
    ),
    ("is expired or not yet valid", re.compile(r"certificate '(.*)'"), Symptom.OWN_CERTIFICATE),
    ("containing NO_PROPOSAL_CHOSEN", None, Symptom.OFFER_REFUSED),
    ("rejected Child SA with NO_PROPOSAL_CHOSEN", re.compile("(Child SA)"), Symptom.OFFER_REFUSED),
    (
        "failed with error notification NO_PROPOSAL_CHOSEN",
        re.compile("(CREATE_CHILD_SA)"),
        Symptom.OFFER_REFUSED,
    ),
    (
        "no local proposal matches remote proposals",
        re.compile(r"proposals (.*)"),
        Symptom.OFFER_UNMATCHED,
    ),
    ("no suitable connection found", None, Symptom.NO_CONNECTION),
    ("rejected Child SA with TS_UNACCEPTABLE", None, Symptom.SELECTORS_REFUSED),
    ("failed with error notification TS_UNACCEPTABLE", None, Symptom.SELECTORS_REFUSED),
    ("connection found with compatible Traffic Selectors", None, Symptom.SELECTORS_UNMATCHED),
    ("netlink response for Add SA", re.compile(r"@\S+: (.*)"), Symptom.KERNEL),
    ("established IKE SA; authenticated", None, Success.IKE),
    ("established Child SA using", re.compile(r"^(?:initiator|responder) "), Success.CHILD),
)


def parse_line(line: str) -> LogEvent | None:
    """What a line tells of a connection or a peer; None when nothing that matters."""
    return _parse(line, _PATTERNS)


def _parse(line: str, patterns: Iterable[_Pattern]) -> LogEvent | None:
    for word, pattern, what in patterns:
        if word not in line:
            continue
        match = _LINE.match(line)
        if match is None:
            return None
        found = pattern.search(match["rest"]) if pattern else None
        if pattern is not None and found is None:
            continue
        detail = found[1] if found and found.re.groups else ""
        name = match["name"]
        key = connection_stem(name) if name else f"@{match['address']}"
        return LogEvent(key, what, detail[:_DETAIL_CHARS])
    return None


def learn(evidence: Evidence, lines: Sequence[str], now_s: float) -> Evidence:
    """The evidence after these lines too, read at ``now_s``."""
    # Thousands of lines hold few of the words, as long as all goes well.
    text = "\n".join(lines)
    patterns = [pattern for pattern in _PATTERNS if pattern[0] in text]
    events = [event for line in lines if (event := _parse(line, patterns)) is not None]
    if not events:
        return evidence
    failures = dict(evidence.failures)
    for event in events:
        before = failures.get(event.key)
        if isinstance(event.what, Success):
            if before and (event.what is Success.CHILD or before.symptom in IKE_SYMPTOMS):
                del failures[event.key]
            continue
        after = Failure(event.what, event.detail, now_s)
        if before is None or after.outdoes(before):
            failures.pop(event.key, None)  # the one that was told last goes last
            failures[event.key] = after
    while len(failures) > MOST_FAILURES:
        del failures[next(iter(failures))]
    return replace(evidence, failures=failures)
