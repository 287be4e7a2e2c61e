"""``ovn-ipsec verify``: exit codes 0 every check passed, 3 one failed, 4 no agent answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from ovn_ipsec.drivers.nftables import Nftables
from ovn_ipsec.errors import SettingsError
from ovn_ipsec.model.conns import GuardTuple
from ovn_ipsec.settings import StrictParser
from ovn_ipsec.status.client import AgentUnreachableError, ask_status, find_socket
from ovn_ipsec.status.overview import build_overview
from ovn_ipsec.verify.capture import capture
from ovn_ipsec.verify.checks import Found, guarded_ports, judge, tunnel_ports
from ovn_ipsec.verify.kernel import read_addresses, read_policies, read_states
from ovn_ipsec.verify.probe import Prober
from ovn_ipsec.verify.ways import probe_ways

PASSED, FAILED, UNREACHABLE = 0, 3, 4
TUNNEL_PORTS = frozenset({6081, 4789})
MOST_SECONDS = 600.0


def verify_parser() -> StrictParser:
    """The command line of ``ovn-ipsec verify``."""
    parser = StrictParser(
        prog="ovn-ipsec verify",
        description="Proof that tunnel packets are encrypted: wire, guard, kernel.",
        epilog="Exit codes: 0 all passed, 3 a check failed, 4 no agent answers.",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--seconds", type=float, default=5.0, help="to capture (default: 5)")
    parser.add_argument(
        "--probe",
        action="store_true",
        help="also send probes through each tunnel, and answer those of peers that do the same",
    )
    parser.add_argument("--socket", metavar="FILE", help="the agent's control socket")
    return parser


def run_verify(argv: Sequence[str], rundir: Path, program: str, out: TextIO) -> int:
    """Look, capture, judge, print; the exit code. Raises DriverError, SettingsError."""
    flags = verify_parser().parse_args(argv)
    if not 0 <= flags.seconds <= MOST_SECONDS:
        raise SettingsError(f"--seconds: {flags.seconds:g} is not from 0 to {MOST_SECONDS:g}")
    try:
        path = Path(flags.socket) if flags.socket else find_socket(rundir, program)
        overview = build_overview(ask_status(path, refresh=True))
    except AgentUnreachableError as error:
        sys.stderr.write(f"ovn-ipsec: {error}\n")
        return UNREACHABLE
    guard = Nftables()
    before = guard.counters()
    live = guard.live_guard()
    exempt = live.exempt if live is not None else frozenset[GuardTuple]()
    policies = read_policies()
    ports = TUNNEL_PORTS | tunnel_ports(policies) | guarded_ports(live)
    peers = {row.address for row in overview.rows}
    known = peers | {entry.remote for entry in exempt}
    prober = Prober(probe_ways(policies, peers), flags.seconds) if flags.probe else None
    try:
        captured = capture(known, ports, flags.seconds, read_addresses())
    finally:
        if prober is not None:
            prober.close()
    found = Found(
        overview,
        guard.observe(),
        (before, guard.counters()),
        read_policies(),
        read_states(),
        flags.seconds,
        captured,
        exempt,
        prober.probed if prober is not None else None,
    )
    checks = judge(found)
    ok = all(check.ok for check in checks)
    if flags.json:
        told = [{"name": c.name, "ok": c.ok, "reason": c.reason} for c in checks]
        out.write(json.dumps({"ok": ok, "checks": told}) + "\n")
    else:
        for check in checks:
            out.write(f"{'PASS' if check.ok else 'FAIL'}  {check.name}: {check.reason}\n")
    return PASSED if ok else FAILED
