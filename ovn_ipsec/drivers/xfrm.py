"""Reads the kernel's IPsec policies and states through ``ip xfrm`` (ip-xfrm(8)), keys left out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from ovn_ipsec.drivers.command import run
from ovn_ipsec.errors import CommandError, ObservationError
from ovn_ipsec.model.kernel import Kernel, KernelPolicy, KernelState

# An unindented line with indented ones below it.
_POLICY = re.compile(r"^(src .*)\n[\t ]+dir (\S+)", re.MULTILINE)
_STATE = re.compile(
    r"^src (\S+) dst (\S+).*\n[\t ]+proto esp spi 0x([0-9a-f]+)"
    r"(?:.*\n(?:[\t ]+(?![\t ]|sel ).*\n)*[\t ]+sel (src .*))?",
    re.MULTILINE,
)
_SELECTOR = re.compile(
    r"src (?P<src>\S+) dst (?P<dst>\S+)(?: proto (?P<proto>\S+))?"
    r"(?: sport (?P<sport>\d+))?(?: dport (?P<dport>\d+))?"
)
_SELECTORS_KEPT = 1 << 15
"""Four for each tunnel: what is read again is what was read before, and costs no memory twice."""

_ERRORS = Path("/proc/net/xfrm_stat")


def observe(timeout_s: float = 10.0) -> Kernel:
    """Every policy but those of sockets, and every ESP state, IPv4 and IPv6.

    Raises ObservationError.
    """
    policies = _ip_xfrm("policy", "list", timeout_s=timeout_s)
    states = _ip_xfrm("state", "list", "nokeys", timeout_s=timeout_s)
    return Kernel(frozenset(parse_policies(policies)), tuple(parse_states(states)))


def parse_policies(text: str) -> Iterator[KernelPolicy]:
    """``ip xfrm policy list``: a selector line, then indented lines, the first with ``dir``."""
    return (_selector(*match.groups()) for match in _POLICY.finditer(text))


def parse_states(text: str) -> Iterator[KernelState]:
    """``ip xfrm state list``: ends, then ``proto esp spi ...``; the selector is a ``sel`` line."""
    for match in _STATE.finditer(text):
        src, dst, spi, selector = match.groups()
        yield KernelState(src, dst, int(spi, 16), _selector(selector, "") if selector else None)


@lru_cache(maxsize=_SELECTORS_KEPT)
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
