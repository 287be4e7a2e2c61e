"""The guard's table as nft's JSON (libnftables-json(5)): written, read back, compared. Pure.

One description serves both ways: what is handed to ``nft -j -f -`` is, but for order, handles and
counter values, what ``nft -j -n list table`` answers. A table is ours and intact exactly when the
Guard read from its sets, rendered again, gives that same table.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ovn_ipsec.drivers.nftables_rules import (
    FAMILY,
    GRE_OF_ANYBODY,
    OWNED,
    PROTOCOLS,
    SENT_BY_A_SOCKET,
    SHAPES,
    TABLE,
    Json,
    packet_address,
    table_objects,
)
from ovn_ipsec.model.conns import Guard, GuardCounters, GuardMode, GuardPort, Protocol

_ZERO = GuardCounters(0, 0)
# nft lists the index of a device that is none as a name. Written as one it would be looked up.
_SENT_BY_A_SOCKET_AS_LISTED = {"match": SENT_BY_A_SOCKET["match"] | {"right": "0"}}


@dataclass(frozen=True, slots=True)
class Listing:
    """A table as nft lists it, in a form in which equal tables are equal."""

    objects: frozenset[str]
    """Table, chains, sets with their elements, counters without their values; each as JSON."""
    rules: Mapping[str, tuple[str, ...]]
    """Chain name -> its rules in order, each as JSON."""
    counters: GuardCounters


def render_guard(
    guard: Guard, counters: GuardCounters, table: str = TABLE, *, owned: bool = False
) -> str:
    """One transaction for ``nft -j -f -`` that replaces the table, whatever was in it.

    ``counters`` are the values that the new table's counters start from. ``owned`` is for nft 1.1
    and Linux 6.9, or newer. Raises ValueError as ``table_objects`` does.
    """
    name = {"family": FAMILY, "name": table}
    commands: list[Json]
    if owned:
        # One that is owned cannot be added anew without its flags, nor another one with them.
        commands = [{"destroy": {"table": name}}]
    else:
        # A table must exist to be deleted; adding one that exists is no error.
        commands = [{"add": {"table": name}}, {"delete": {"table": name}}]
    start = {"uncovered_out": counters.out_packets, "uncovered_in": counters.in_packets}
    for kind, body in table_objects(guard, table):
        if kind == "counter":
            body = body | {"packets": start[body["name"]], "bytes": 0}
        elif kind == "table" and owned:
            body = body | OWNED
        commands.append({"add": {kind: body}})
    return json.dumps({"nftables": commands})


def of_what_was_left(rendered: str) -> str:
    """A transaction that adds the table and deletes it, for one that says ``flags persist``.

    As an agent left it that owned it: such a table cannot be added anew without the flag, only
    deleted as it is.
    """
    _, *others = json.loads(rendered)["nftables"]
    return json.dumps({"nftables": others})


def parse_listing(text: str) -> Listing:
    """What ``nft -j -n list table inet NAME`` printed, or ``list counters``. Raises ValueError."""
    try:
        entries = json.loads(text)["nftables"]
        pairs = [pair for entry in entries for pair in entry.items()]
        return _listing(pairs)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not a listing of nft: {error!r}") from error


def parse_rendering(text: str) -> Guard:
    """The Guard of a text that ``render_guard`` wrote. Raises ValueError: it is none such.

    The sets and comments decide: another version may have written other rules for the same guard,
    and an upgrade must not forget what was closed.
    """
    try:
        commands = json.loads(text)["nftables"]
        added = [pair for command in commands for pair in command.get("add", {}).items()]
        guard = _guard_of(_listing(added))
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"not a guard: {error!r}") from error
    for _ in table_objects(guard, TABLE):
        pass  # raises ValueError when no table can say it
    return guard


def read_guard(listing: Listing, table: str = TABLE) -> Guard | None:
    """The Guard that this table was made from; None when it is not exactly what we render."""
    try:
        guard = _guard_of(listing)
        if _listing(table_objects(guard, table)) != replace(listing, counters=_ZERO):
            return None
    except (KeyError, TypeError, ValueError):
        return None
    return guard


def _listing(pairs: Iterable[tuple[str, Json]]) -> Listing:
    objects: set[str] = set()
    rules: dict[str, tuple[str, ...]] = {}
    values = {"uncovered_out": 0, "uncovered_in": 0}
    for kind, listed in pairs:
        body = {key: value for key, value in listed.items() if key != "handle"}
        if kind == "metainfo":
            continue
        if kind == "rule":
            chain = body["chain"]
            rules[chain] = (*rules.get(chain, ()), json.dumps(_ordered(body), sort_keys=True))
            continue
        if kind == "counter":
            values[body["name"]] = int(body.pop("packets", 0))
            body.pop("bytes", None)
        if kind == "table":
            flags = body.pop("flags", [])
            given = {flags} if isinstance(flags, str) else set(flags)
            # Whose it is changes nothing in what it does; "dormant" does.
            if more := given.difference(OWNED["flags"]):
                body["flags"] = sorted(more)
        if kind == "set" and "elem" in body:
            body["elem"] = sorted(map(_element_text, body["elem"]))
        objects.add(json.dumps([kind, body], sort_keys=True))
    counters = GuardCounters(values["uncovered_out"], values["uncovered_in"])
    return Listing(frozenset(objects), rules, counters)


def _ordered(value: Any) -> Any:
    """The same expression as we write it, the members of its anonymous sets in one fixed order."""
    if value == _SENT_BY_A_SOCKET_AS_LISTED:
        return SENT_BY_A_SOCKET
    if isinstance(value, dict):
        match value:
            # nft 1.0 takes a mask of leading ones for a prefix.
            case {"left": {"meta": what}, "right": {"prefix": {"addr": number, "len": ones}}}:
                mask = ~((1 << (32 - ones)) - 1) & 0xFFFFFFFF
                value = value | {"left": {"&": [{"meta": what}, mask]}, "right": number}
        return {
            key: sorted(item, key=str) if key == "set" else _ordered(item)
            for key, item in value.items()
        }
    return [_ordered(item) for item in value] if isinstance(value, list) else value


def _element_text(element: Any) -> str:
    """A set element as JSON, its addresses in one fixed spelling."""
    if isinstance(element, dict) and set(element) == {"concat"}:
        return json.dumps({"concat": [_spelled(part) for part in element["concat"]]})
    return json.dumps(_spelled(element), sort_keys=True)


def _spelled(part: Any) -> Any:
    if not isinstance(part, str):
        return part
    try:
        return packet_address(part)
    except ValueError:
        return part  # a set of somebody else's


def _guard_of(listing: Listing) -> Guard:
    """What the comments and sets say; whether all the rest fits is for the caller to compare."""
    verdict = json.loads(listing.rules["uncovered_out"][0])
    words = dict(word.split("=", 1) for word in verdict["comment"].split())
    mark = words.get("mark")
    sets: dict[str, list[Any]] = {}
    for text in listing.objects:
        kind, body = json.loads(text)
        if kind == "set":
            sets[body["name"]] = [json.loads(element) for element in body.get("elem", ())]
    ports = {
        GuardPort(PROTOCOLS[number], port)
        for number, port in (element["concat"] for element in sets.get("closed_ports", ()))
    }
    for rule in listing.rules.get("judge_out", ())[-1:]:
        match, *verdict_of_gre = json.loads(rule)["expr"]
        if match == GRE_OF_ANYBODY and len(verdict_of_gre) == 1:
            ports.add(GuardPort(Protocol.GRE, None))
    named = {
        kind: frozenset(
            shape.read(element)
            for shape in SHAPES
            for element in sets.get(shape.set_name(kind), ())
        )
        for kind in ("closed", "exempt")
    }
    return Guard(
        mode=GuardMode(words["mode"]),
        closed_ports=frozenset(ports),
        closed_peers=named["closed"],
        exempt=named["exempt"],
        skb_mark=_mark(mark) if mark else None,
    )


def _mark(text: str) -> tuple[int, int]:
    value, mask = text.split("/")
    return int(value, 16), int(mask, 16)
