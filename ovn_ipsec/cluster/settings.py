"""The knobs of ``ovn-ipsec cluster``: typed, all violations in one message."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ovn_ipsec.errors import SettingsError
from ovn_ipsec.settings import StrictParser, loopback_address

DEFAULT_TIMEOUT_S = 600
_REMOTE = re.compile(r"(unix|tcp|ssl):\S+")


@dataclass(frozen=True, slots=True)
class Keys:
    """Of ``ssl:`` remotes."""

    private_key: Path
    certificate: Path
    ca_cert: Path


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """The settings of ``cluster enable``, ``disable`` and ``status``."""

    action: str
    nb: str
    sb: str
    ignored: tuple[str, ...]
    timeout_s: int
    keys: Keys | None


@dataclass(frozen=True, slots=True)
class FollowSettings:
    """The settings of ``cluster follow``."""

    database: str
    agent: tuple[str, int]
    sb: str | None
    keys: Keys | None


def parse_cluster_arguments(argv: Sequence[str]) -> ClusterSettings | FollowSettings:
    """Read the command line. Raises SettingsError with every violation."""
    flags = cluster_parser().parse_args(argv)
    violations: list[str] = []
    keys = _keys(flags, violations)
    sb = flags.sb
    if flags.action == "follow":
        _check("DATABASE", flags.database, violations)
        agent = loopback_address("--agent", flags.agent, violations)
        if sb is not None:
            _check("--sb", sb, violations)
        if violations or agent is None:
            raise SettingsError("\n".join(violations))
        return FollowSettings(flags.database, (agent.address, agent.port), sb, keys)
    _check("--nb", flags.nb, violations)
    sb = sb or southbound_of(flags.nb)
    if sb is None:
        violations.append(f"--sb: cannot be told from --nb {flags.nb}; give it")
    else:
        _check("--sb", sb, violations)
    timeout = flags.timeout
    if not (timeout.isascii() and timeout.isdigit() and 0 < int(timeout[:8]) <= 86400):
        violations.append(f"--timeout: {timeout!r} is not a number of seconds from 1 to 86400")
    if violations or sb is None:
        raise SettingsError("\n".join(violations))
    return ClusterSettings(flags.action, flags.nb, sb, tuple(flags.ignore), int(timeout), keys)


def southbound_of(nb: str) -> str | None:
    """Where OVN's southbound database usually is, when the northbound one is there."""
    members = nb.split(",")
    found = [
        re.sub(r":6641$", ":6642", one) if ":6641" in one else one.replace("ovnnb_db", "ovnsb_db")
        for one in members
    ]
    return ",".join(found) if all(a != b for a, b in zip(members, found, strict=True)) else None


def cluster_parser() -> StrictParser:
    """The command line of ``ovn-ipsec cluster``."""
    parser = StrictParser(
        prog="ovn-ipsec cluster", description="Switches IPsec on or off in a whole OVN cluster."
    )
    actions = parser.add_subparsers(dest="action", required=True, parser_class=StrictParser)
    for action, does in (
        ("enable", "guards to audit, IPsec on, and guards to enforce when all is encrypted"),
        ("disable", "guards to audit, IPsec off, and guards back to each node's own mode"),
        ("status", "what each node reports"),
    ):
        sub = actions.add_parser(action, help=does)
        sub.add_argument("--nb", metavar="REMOTE", required=True, help="northbound database")
        sub.add_argument(
            "--ignore", metavar="NODE", action="append", default=[], help="go on without it"
        )
        sub.add_argument(
            "--timeout",
            metavar="SECONDS",
            default=str(DEFAULT_TIMEOUT_S),
            help="of enable and disable: when to give up (default: %(default)s)",
        )
        _add_shared(sub)
    follow = actions.add_parser("follow", help="on each node: obey and report")
    follow.add_argument("database", metavar="DATABASE", help="Open vSwitch's, e.g. unix:FILE")
    follow.add_argument(
        "--agent", metavar="ADDRESS:PORT", required=True, help="the agent's --http"
    )
    _add_shared(follow)
    return parser


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sb", metavar="REMOTE", help="southbound database")
    for name in ("--private-key", "--certificate", "--ca-cert"):
        parser.add_argument(name, metavar="FILE", help="for ssl: remotes")


def _check(flag: str, remote: str, violations: list[str]) -> None:
    for one in remote.split(","):
        if not _REMOTE.fullmatch(one):
            violations.append(f"{flag}: {one!r}: give unix:FILE, tcp:IP:PORT or ssl:IP:PORT")


def _keys(flags: argparse.Namespace, violations: list[str]) -> Keys | None:
    files = (flags.private_key, flags.certificate, flags.ca_cert)
    if not any(files):
        return None
    if not all(files):
        violations.append("give --private-key, --certificate and --ca-cert, or none of them")
        return None
    return Keys(*map(Path, files))
