"""Reads the kernel's IPsec policies and states through ``ip xfrm`` (ip-xfrm(8)), keys left out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ovn_ipsec.drivers.command import run
from ovn_ipsec.errors import CommandError, ObservationError
from ovn_ipsec.model.conns import KernelPolicy, KernelState

_SELECTOR = re.compile(
    r"src (?P<src>\S+) dst (?P<dst>\S+)(?: proto (?P<proto>\S+))?"
    r"(?: sport (?P<sport>\d+))?(?: dport (?P<dport>\d+))?"
)

_ERRORS = Path("/proc/net/xfrm_stat")


def observe_policies(timeout_s: float = 10.0) -> frozenset[KernelPolicy]:
    """Every policy but those of sockets, IPv4 and IPv6. Raises ObservationError."""
    return frozenset(parse_policies(_ip_xfrm("policy", "list", timeout_s=timeout_s)))


def observe_states(timeout_s: float = 10.0) -> tuple[KernelState, ...]:
    """Every ESP state. Raises ObservationError."""
    return tuple(parse_states(_ip_xfrm("state", "list", "nokeys", timeout_s=timeout_s)))


def parse_policies(text: str) -> Iterator[KernelPolicy]:
    """``ip xfrm policy list``: a selector line, then indented lines, the first with ``dir``."""
    for head, body in _blocks(text):
        direction = re.match(r"\s+dir (\S+)", body)
        if direction is not None:
            yield _selector(head, direction[1])


def parse_states(text: str) -> Iterator[KernelState]:
    """``ip xfrm state list``: ends, then ``proto esp spi ...``; the selector is a ``sel`` line."""
    for head, body in _blocks(text):
        ends = re.match(r"src (\S+) dst (\S+)", head)
        spi = re.match(r"\s+proto esp spi 0x([0-9a-f]+)", body)
        if ends is None or spi is None:
            continue
        selector = re.search(r"^\s+sel (src .*)$", body, re.MULTILINE)
        yield KernelState(
            src=ends[1],
            dst=ends[2],
            spi=int(spi[1], 16),
            selector=_selector(selector[1], "") if selector else None,
        )


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """An unindented line with the indented lines below it."""
    for block in re.split(r"\n(?=\S)", text):
        head, _, body = block.partition("\n")
        if head.strip():
            yield head, body


def _selector(line: str, direction: str) -> KernelPolicy:
    match = _SELECTOR.match(line)
    if match is None:
        raise ObservationError(f"ip xfrm: cannot read the selector {line.strip()!r}")
    sport, dport = match["sport"], match["dport"]
    return KernelPolicy(
        src=match["src"],
        dst=match["dst"],
        protocol=match["proto"] or "any",
        sport=int(sport) if sport else None,
        dport=int(dport) if dport else None,
        direction=direction,
    )


def _ip_xfrm(*words: str, timeout_s: float) -> str:
    try:
        return run(["ip", "xfrm", *words], timeout_s=timeout_s).stdout
    except CommandError as error:
        raise ObservationError(f"the kernel's IPsec table cannot be read: {error}") from error


def read_errors(path: Path = _ERRORS) -> Mapping[str, int]:
    """Why the kernel's IPsec dropped packets of this network namespace, since its start.

    Documentation/networking/xfrm_proc.rst. Empty where the kernel does not count.
    """
    try:
        lines = path.read_text("ascii").splitlines()
    except (OSError, ValueError):
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
