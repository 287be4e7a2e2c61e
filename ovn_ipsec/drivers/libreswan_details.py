"""Reads from ``whack --status`` what people want to know of an SA and no tick needs. Pure.

Recorded from libreswan 4.10 and 5.2, as the rest of pluto's status.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ovn_ipsec.drivers.libreswan_status import Dialect
from ovn_ipsec.model.snapshot import SaDetail

_CIPHER = re.compile(r'^"(?P<name>[^"]+)": +ESP algorithm newest: (?P<cipher>[^;\s]+)')
_NEWEST = re.compile(
    r'^#\d+: "(?P<name>[^"]+)":\d+ (?:STATE_V2_)?ESTABLISHED_CHILD_SA '
    r"\(.*?\); (?:.*?; )?REKEY in (?P<rekey>\d+)s;.* newest;"
)


def parse_details(status: str, dialect: Dialect) -> Mapping[str, SaDetail]:
    """Connection -> cipher of its newest child SA, and when that is rekeyed by this end."""
    ciphers: dict[str, str] = {}
    rekeys: dict[str, int] = {}
    for line in dialect.lines(status):
        if "ESP algorithm newest: " in line:
            if match := _CIPHER.match(line):
                ciphers[match["name"]] = match["cipher"].removesuffix("-NONE")
        elif "ESTABLISHED_CHILD_SA" in line and (match := _NEWEST.match(line)):
            rekeys[match["name"]] = int(match["rekey"])
    return {
        name: SaDetail(ciphers.get(name), rekeys.get(name)) for name in ciphers.keys() | rekeys
    }
