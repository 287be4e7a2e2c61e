"""The ``ipsec_*`` options of a tunnel row: a typed list, never text that is passed on.

``ovs-monitor-ipsec`` writes every ``options:ipsec_KEY=VALUE`` as ``KEY=VALUE`` into the
connection, so a row can run commands (``ipsec_leftupdown``) or add lines (a newline). Here a
key is looked up in TABLE and its value must parse as the type given there; what is written is
built again from the parsed value. Three outcomes for a key:

- in TABLE: a keyword. A value that does not parse is a warning and the default stays, unless
  falling back could be weaker than what was asked for (``strict``): then the tunnel is INVALID.
- in FORBIDDEN, or ``left*``/``right*``: INVALID, with the reason.
- anything else: a warning, and the tunnel stays up without it. (libreswan refuses a whole file
  because of one unknown keyword, so an unknown one is never written.)

Keywords and units: ipsec.conf(5) of libreswan 4.10 and 5.2; only what both accept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ovn_ipsec.desired.proposals import canonical_esp, canonical_ike

PREFIX = "ipsec_"

_SHOWN_CHARACTERS = 60
"""Of a value from a row that is repeated in a message."""


class _Malformed(ValueError):
    """A value that is not of its option's type; the text says what is accepted."""


@dataclass(frozen=True, slots=True)
class Option:
    """One ``ipsec_*`` option that is honoured. ``parse`` returns the text to write."""

    key: str
    meaning: str
    accepts: str
    parse: Callable[[str], str]
    strict: bool = False
    """A malformed value makes the tunnel INVALID instead of leaving the default."""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OptionsVerdict:
    """What the options of one row come to. With a ``problem`` the keywords are not to be used."""

    keywords: tuple[tuple[str, str], ...] = ()
    """Sorted by keyword."""
    warnings: tuple[str, ...] = ()
    problem: str | None = None


def shown(value: str) -> str:
    """A value from a row, shortened and escaped, for a message."""
    if len(value) > _SHOWN_CHARACTERS:
        value = value[:_SHOWN_CHARACTERS] + "..."
    return ascii(value)


def _choice(*words: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        word = value.lower()
        word = {"true": "yes", "on": "yes", "false": "no", "off": "no"}.get(word, word)
        if word not in words:
            raise _Malformed
        return word

    return parse


_UNIT_MS = {"ms": 1, "": 1000, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d|)", re.ASCII)


def _duration(least_ms: int, most_ms: int) -> Callable[[str], str]:
    """A number with ms, s, m, h or d; seconds without a unit (ipsec.conf(5), "time")."""

    def parse(value: str) -> str:
        match = _DURATION.fullmatch(value)
        if match is None:
            raise _Malformed
        milliseconds = int(match[1]) * _UNIT_MS[match[2]]
        if not least_ms <= milliseconds <= most_ms:
            raise _Malformed
        if milliseconds % 1000:
            return f"{milliseconds}ms"
        return f"{milliseconds // 1000}s"

    return parse


def _integer(least: int, most: int, suffix: str = "") -> Callable[[str], str]:
    def parse(value: str) -> str:
        digits = value.removesuffix(suffix) if suffix else value
        if re.fullmatch(r"[0-9]{1,9}", digits, re.ASCII) is None:
            raise _Malformed
        if not least <= int(digits) <= most:
            raise _Malformed
        return f"{int(digits)}{suffix}"

    return parse


def _proposal(canonical: Callable[[str], str]) -> Callable[[str], str]:
    def parse(value: str) -> str:
        try:
            return canonical(value)
        except ValueError as error:
            raise _Malformed(str(error)) from error

    return parse


_SECOND_MS = 1000
_HOUR_MS = 3600 * _SECOND_MS

TABLE: tuple[Option, ...] = (
    Option(
        "encapsulation",
        "ESP in UDP port 4500 (NAT traversal) always, never, or when NAT is found",
        "yes, no or auto",
        _choice("yes", "no", "auto"),
    ),
    Option(
        "ike",
        "proposals for the IKE SA",
        "proposals such as aes_gcm256-sha2_256-dh31",
        _proposal(canonical_ike),
        strict=True,
    ),
    Option(
        "esp",
        "proposals for the ESP SAs",
        "proposals such as aes_gcm256 or aes256-sha2_512",
        _proposal(canonical_esp),
        strict=True,
        aliases=("phase2alg",),
    ),
    Option(
        "ppk",
        "post-quantum pre-shared key (RFC 8784): no, offered, or demanded",
        "no, yes, propose or insist",
        _choice("no", "yes", "propose", "insist"),
        strict=True,
    ),
    Option(
        "ikelifetime",
        "life of an IKE SA before it is replaced",
        "2m to 24h",
        _duration(120 * _SECOND_MS, 24 * _HOUR_MS),
    ),
    Option(
        "salifetime",
        "life of an ESP SA before it is replaced",
        "2m to 24h",
        _duration(120 * _SECOND_MS, 24 * _HOUR_MS),
        aliases=("ipsec-lifetime", "keylife", "lifetime"),
    ),
    Option("rekey", "replace SAs before they expire", "yes or no", _choice("yes", "no")),
    Option(
        "rekeymargin",
        "how long before expiry an SA is replaced",
        "1s to 1h",
        _duration(_SECOND_MS, _HOUR_MS),
        aliases=("rekeywindow",),
    ),
    Option("rekeyfuzz", "random part of rekeymargin", "0% to 100%", _integer(0, 100, "%")),
    Option("pfs", "a new key exchange at each rekeying", "yes or no", _choice("yes", "no")),
    Option(
        "dpddelay",
        "idle time after which the peer is probed",
        "1s to 1h",
        _duration(_SECOND_MS, _HOUR_MS),
    ),
    Option(
        "retransmit-timeout",
        "how long an IKE request is repeated before the peer counts as dead",
        "1s to 5m",
        _duration(_SECOND_MS, 300 * _SECOND_MS),
    ),
    Option(
        "retransmit-interval",
        "time before the first repetition, doubled each time",
        "100ms to 10s",
        _duration(100, 10 * _SECOND_MS),
    ),
    Option(
        "replay-window",
        "packets by which ESP may arrive out of order",
        "32 to 4096",
        _integer(32, 4096),
    ),
    Option(
        "esn",
        "64 bit ESP sequence numbers (RFC 4304)",
        "yes, no or either",
        _choice("yes", "no", "either"),
    ),
    Option(
        "fragmentation",
        "IKE fragmentation (RFC 7383)",
        "yes, no or force",
        _choice("yes", "no", "force"),
    ),
    Option(
        "nat-keepalive",
        "keep-alive packets through a NAT",
        "yes or no",
        _choice("yes", "no"),
    ),
    Option(
        "intermediate",
        "the IKE_INTERMEDIATE exchange (RFC 9242)",
        "yes or no",
        _choice("yes", "no"),
    ),
)
"""Every option that is honoured; the manual's table is made from this."""

_SELECTORS = "it changes which packets are protected"
_IDENTITY = "it changes who is authenticated, and how"
_WEAKER = "it weakens or removes the encryption"
_TYPE = "it changes what kind of connection this is"

FORBIDDEN: Mapping[str, str] = {
    "aggressive": _TYPE,
    "ah": _WEAKER,
    "also": "it pulls in text from elsewhere",
    "alsoflip": "it pulls in text from elsewhere",
    "auth": _WEAKER,
    "authby": _IDENTITY,
    "auto": "the agent alone decides when a connection starts",
    "clientaddrfamily": _SELECTORS,
    "compress": _WEAKER,
    "connaddrfamily": "it changes the ends",
    "connalias": "the agent names the connections",
    "failureshunt": "it can let packets pass in clear",
    "hostaddrfamily": "it changes the ends",
    "ikev1-policy": _TYPE,
    "ikev2": _TYPE,
    "ipsec-interface": _SELECTORS,
    "keyexchange": _TYPE,
    "mark": _SELECTORS,
    "mark-in": _SELECTORS,
    "mark-out": _SELECTORS,
    "mobike": "it changes the ends",
    "ms-dh-downgrade": _WEAKER,
    "narrowing": _SELECTORS,
    "negotiationshunt": "it can let packets pass in clear",
    "phase2": _WEAKER,
    "policy-label": _SELECTORS,
    "reqid": _SELECTORS,
    "require-id-on-certificate": _IDENTITY,
    "sec-label": _SELECTORS,
    "sendca": _IDENTITY,
    "sha2-truncbug": _WEAKER,
    "subnets": _SELECTORS,
    "type": _TYPE,
    "vti-interface": _SELECTORS,
    "vti-routing": _SELECTORS,
    "vti-shared": _SELECTORS,
}
"""Words that make a tunnel INVALID, with the reason that is shown."""

_FORBIDDEN_PREFIXES: Mapping[str, str] = {
    "left": "it changes an end or its identity, or runs a command",
    "right": "it changes an end or its identity, or runs a command",
    "modecfg": "it changes the ends",
    "xauth": _IDENTITY,
}

_FORCEENCAPS = "forceencaps"
_KEYWORD = re.compile(r"[a-z][a-z0-9-]*", re.ASCII)
_BY_KEY = {name: option for option in TABLE for name in (option.key, *option.aliases)}


def _forbidden_reason(key: str) -> str | None:
    if _KEYWORD.fullmatch(key) is None:
        return "it is not a libreswan keyword"
    if key in FORBIDDEN:
        return FORBIDDEN[key]
    return next((why for start, why in _FORBIDDEN_PREFIXES.items() if key.startswith(start)), None)


def _rename_forceencaps(options: Mapping[str, str], warnings: list[str]) -> dict[str, str]:
    """``forceencaps`` is strongSwan's word (OVN writes it, libreswan 5 refuses it)."""
    renamed = dict(options)
    value = renamed.pop(_FORCEENCAPS, None)
    if value is None:
        return renamed
    if "encapsulation" in renamed:
        warnings.append(f"{PREFIX}forceencaps is ignored: {PREFIX}encapsulation is set, too")
    elif value.lower() in {"yes", "true", "on"}:
        renamed["encapsulation"] = "yes"
    elif value.lower() not in {"no", "false", "off"}:
        # "no" is its default and says nothing about what encapsulation= should be.
        warnings.append(f"{PREFIX}forceencaps={shown(value)} is ignored: it takes yes or no")
    return renamed


def judge_options(options: Mapping[str, str]) -> OptionsVerdict:
    """Judge the ``ipsec_*`` entries of a row's options column; other entries are not looked at."""
    warnings: list[str] = []
    keywords: dict[str, str] = {}
    given = {
        key.removeprefix(PREFIX).lower(): value
        for key, value in sorted(options.items())
        if key.startswith(PREFIX)
    }
    for key, value in _rename_forceencaps(given, warnings).items():
        reason = _forbidden_reason(key)
        if reason is not None:
            return OptionsVerdict(
                warnings=tuple(warnings),
                problem=f"option {shown(PREFIX + key)} is not allowed: {reason}; remove it",
            )
        option = _BY_KEY.get(key)
        if option is None:
            warnings.append(f"option {PREFIX}{key} is not supported and is ignored")
            continue
        try:
            text = option.parse(value)
        except _Malformed as error:
            detail = f" ({error})" if str(error) else ""
            message = f"{PREFIX}{key}={shown(value)}: it takes {option.accepts}{detail}"
            if option.strict:
                return OptionsVerdict(warnings=tuple(warnings), problem=f"{message}; correct it")
            warnings.append(f"{message}; the default is used")
            continue
        if option.key in keywords:
            warnings.append(f"{PREFIX}{key} is ignored: {PREFIX}{option.key} is set twice")
            continue
        keywords[option.key] = text
    return OptionsVerdict(tuple(sorted(keywords.items())), tuple(warnings))
