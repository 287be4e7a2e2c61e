"""Reads what pluto says of its SAs. Pure.

The lines have no specification; they were recorded from libreswan 4.10 and 5.2.
"""

from __future__ import annotations

import re

from ovn_ipsec.drivers.libreswan_status import NAME, Dialect
from ovn_ipsec.model.conns import ChildSa, IkeSa

_State = tuple[str, str, str]
"""Serial, connection, state."""
_Spis = tuple[str, int, int, str]
"""Serial, inbound and outbound SPI, the line as it is shown."""
_Traffic = tuple[str, int, int, int]
"""Serial, bytes in and out, when the SA was made."""
_Parts = tuple[_State, int | None, _Spis | None, _Traffic | None]
"""What a child SA is put together from; the number is its IKE SA's serial."""

_STATE = re.compile(
    rf"#(?P<serial>\d+): {NAME}:\d+ (?:STATE_(?:V2_)?)?(?P<state>[A-Z][A-Z0-9_]*) \("
)
_SPIS = re.compile(
    rf"#(?P<serial>\d+): {NAME}(?: \S+)*? esp\.(?P<out>[0-9a-f]+)@\S+"
    r" esp\.(?P<inn>[0-9a-f]+)@\S+ "
)
_TRAFFIC = re.compile(
    rf"#(?P<serial>\d+): {NAME}, type=[A-Z]+, +add_time=(?P<add>\d+),"
    r" +inBytes=(?P<inn>\d+), +outBytes=(?P<out>\d+)"
)
_PARENT = "; IKE SA #"
_ROLE = re.compile(r"_([IR])\d?$")
_REPLIED = frozenset({"PARENT_I2", "IKE_INTERMEDIATE_I", "IKE_AUTH_I"})
"""An initiator's states after the peer's first reply, in 4.x and 5.x."""


class _Lines:
    """What lines of one reply meant; a state's line is known by what precedes its timers."""

    def __init__(self) -> None:
        self.states: dict[str, _State] = {}
        self.spis: dict[str, _Spis] = {}
        self.traffic: dict[str, _Traffic] = {}


class StateReader:
    """Reads the replies of one pluto, most of each of which it has said before.

    What lines mean is kept until the next reply: at 1,000 child SAs to read them again would be
    half of what it costs to look at a node where nothing happens.
    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._known = _Lines()
        self._children: dict[str, tuple[_Parts, ChildSa]] = {}

    def read(self, reply: str) -> tuple[tuple[ChildSa, ...], tuple[IkeSa, ...]]:
        """``whack --showstates --trafficstatus`` -> established child SAs, all IKE SAs."""
        up: list[tuple[_State, int | None]] = []
        spis: dict[str, _Spis] = {}
        traffic: dict[str, _Traffic] = {}
        ikes: list[IkeSa] = []
        before, known = self._known, _Lines()
        for line in self._dialect.lines(reply):
            if ", type=" in line and (counted := before.traffic.get(line) or _traffic(line)):
                known.traffic[line] = traffic[counted[0]] = counted
            elif " (" in line and (
                state := before.states.get(head := line[: line.rindex(" (")]) or _state(line)
            ):
                known.states[head] = state
                if state[2] == "ESTABLISHED_CHILD_SA":
                    up.append((state, _parent(line)))
                elif "CHILD" not in state[2]:
                    ikes.append(_ike_sa(*state))
            elif " esp." in line and (pair := before.spis.get(line) or _spis(line)):
                known.spis[line] = spis[pair[0]] = pair
        self._known = known
        self._children = {
            state[0]: self._child(
                state[0], (state, parent, spis.get(state[0]), traffic.get(state[0]))
            )
            for state, parent in up
        }
        return (
            tuple(child for _, child in self._children.values()),
            tuple(sorted(ikes, key=lambda ike: (ike.connection, ike.serial or 0))),
        )

    def _child(self, serial: str, parts: _Parts) -> tuple[_Parts, ChildSa]:
        before = self._children.get(serial)
        if before is not None and before[0] == parts:
            return before
        return parts, _child_sa(parts, None if before is None else before[1].add_time)


def _traffic(line: str) -> _Traffic | None:
    if (match := _TRAFFIC.match(line)) is None:
        return None
    serial, _, added, received, sent = match.groups()
    return serial, int(received), int(sent), int(added)


def _state(line: str) -> _State | None:
    if (match := _STATE.match(line)) is None:
        return None
    serial, name, state = match.groups()
    return serial, name, state


def _spis(line: str) -> _Spis | None:
    if (match := _SPIS.match(line)) is None:
        return None
    serial, _, sent_by, received_by = match.groups()
    return serial, int(received_by, 16), int(sent_by, 16), "000 " + line.rstrip()


def _parent(line: str) -> int | None:
    number = line.rpartition(_PARENT)[2].partition(";")[0]
    return int(number) if number.isdecimal() else None


def _child_sa(parts: _Parts, known_add_time: int | None) -> ChildSa:
    (serial, connection, _), parent, spis, traffic = parts
    add_time = None if traffic is None else traffic[3]
    if add_time is not None and known_add_time is not None and abs(known_add_time - add_time) == 1:
        # pluto works this out from its monotonic clock each time anew, and wavers by a second.
        add_time = known_add_time
    spi_in, spi_out, line = (None, None, "") if spis is None else spis[1:]
    bytes_in, bytes_out = (0, 0) if traffic is None else traffic[1:3]
    return ChildSa(
        connection, int(serial), parent, spi_in, spi_out, bytes_in, bytes_out, add_time, line
    )


def _ike_sa(serial: str, connection: str, state: str) -> IkeSa:
    done = state == "ESTABLISHED_IKE_SA"
    # PARENT_I1, IKE_SA_INIT_I, IKE_AUTH_R ...: only a negotiation tells the role.
    role = _ROLE.search(state)
    return IkeSa(
        connection,
        serial=int(serial) if done else None,
        established=done,
        initiator=None if role is None else role[1] == "I",
        replied=state in _REPLIED,
    )
