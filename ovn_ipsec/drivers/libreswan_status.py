"""Reads what pluto says about itself: versions and connections. Pure.

The texts have no specification; they were recorded from libreswan 4.10 and 5.2. In 4.x every
line starts with a three-digit code, in 5.x whack prints none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from ovn_ipsec.errors import ObservationError


class Dialect(Enum):
    """How a major version of libreswan words its status."""

    V4 = 4
    V5 = 5

    def lines(self, text: str) -> Iterator[str]:
        """The lines of a reply without their codes; in 4.x a line without one is not pluto's."""
        # One by one: the status of a thousand tunnels is 2 MB, and its list of lines twice that.
        return (match[1] for match in self._line.finditer(text))

    @property
    def _line(self) -> re.Pattern[str]:
        return _CODED_LINE if self is Dialect.V4 else _LINE


_CODED_LINE = re.compile(r"^[0-9]{3} (.*)$", re.MULTILINE)
_LINE = re.compile(r"^(.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class LoadedConnections:
    """What ``whack --status`` tells of connections."""

    names: frozenset[str]
    unoriented: frozenset[str]


def parse_version(text: str) -> tuple[str, Dialect]:
    """``Libreswan 4.10`` (or ``Linux Libreswan ...``) -> version and dialect.

    Raises ObservationError: not libreswan, or older than 4.
    """
    match = re.search(r"Libreswan (?:v|U)?((\d+)\.\S+)", text)
    if match is None or int(match[2]) < 4:
        raise ObservationError(
            f"the IKE daemon says {text.strip()[:80]!r}: libreswan 4 or later is needed"
        )
    return match[1], Dialect.V4 if match[2] == "4" else Dialect.V5


# A name may hold quotes, so every pattern leans on what follows it. An instance of a template
# carries its number and the peer after the name: "name"[2] 10.1.1.2
NAME = r'"(?P<name>.*)"(?:\[\d+\](?: [0-9a-fA-F.:]+?(?=[:, ]))?)?'
_ENDS = re.compile(rf"^{NAME}: [^;]*===?[^;]*\.\.\.")
_UNORIENTED = re.compile(rf"^{NAME}: +(?:host: )?unoriented;")
_LOAD_ERROR = re.compile(
    r"(?:\"(?P<add>.*)\": failed to add connection|while loading '(?P<parse>.*?)'): (?P<why>.*)"
)


def parse_connections(text: str, dialect: Dialect) -> LoadedConnections:
    """Every loaded connection in a ``whack --status``, and which have no address of this node."""
    names: set[str] = set()
    unoriented: set[str] = set()
    told = False
    for line in dialect.lines(text):
        # What cannot match is told apart without the patterns, which are slow on a long list.
        if line.startswith('"'):
            if "..." in line and (match := _ENDS.match(line)):
                names.add(match["name"])
            elif "unoriented;" in line and (match := _UNORIENTED.match(line)):
                unoriented.add(match["name"])
        elif line.startswith("Total IPsec connections:"):
            told = True
    if not told:
        raise ObservationError("whack --status ended before its total of connections")
    return LoadedConnections(frozenset(names), frozenset(unoriented))


def parse_load_errors(output: str) -> dict[str, str]:
    """addconn's words -> connection that was not loaded, and why. 4.10 says it only in its log."""
    errors: dict[str, str] = {}
    for line in output.splitlines():
        if match := _LOAD_ERROR.match(line):
            errors[match["add"] or match["parse"]] = match["why"]
    return errors
