"""The knobs of ``ovn-ipsec web``: typed, all violations in one message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from ovn_ipsec.errors import SettingsError
from ovn_ipsec.settings import (
    DATABASE_METHODS,
    HttpAddress,
    StrictParser,
    loopback_address,
    numeric_address,
)

DEFAULT_LISTEN = "127.0.0.1:9181"
DEFAULT_AGENT = "127.0.0.1:9180"
DEFAULT_PERIOD_S = 30


@dataclass(frozen=True, slots=True)
class Target:
    """One node to ask."""

    name: str
    """What its certificate must say; empty for a loopback address, which is asked without TLS."""
    at: HttpAddress


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """With which other nodes are asked."""

    private_key: Path
    certificate: Path
    ca_cert: Path


@dataclass(frozen=True, slots=True)
class WebSettings:
    """The settings of the cluster view."""

    listen: HttpAddress
    targets: tuple[Target, ...]
    peers_port: int | None
    """Where the peers of the nodes on loopback are asked, too; None: they are not."""
    keys: NodeKeys | str | None
    """Or the database that names them. Read at each round: they are renewed."""
    period_s: int
    once: bool
    json: bool


def web_parser() -> StrictParser:
    """The command line of ``ovn-ipsec web``."""
    parser = StrictParser(
        prog="ovn-ipsec web",
        description="Serves a page that shows who is encrypted to whom in the whole cluster, from "
        "the status of its nodes; or, with --once, prints that.",
        epilog="Exit codes of --once: 0 all encrypted, 3 not all, 4 no node answers.",
    )
    add = parser.add_argument
    add(
        "--listen",
        metavar="ADDRESS:PORT",
        default=DEFAULT_LISTEN,
        help="where the page is, on loopback (default: %(default)s)",
    )
    add(
        "--agent",
        metavar="ADDRESS:PORT",
        action="append",
        default=[],
        help=f"an agent's --http on this host; may be repeated (default: {DEFAULT_AGENT})",
    )
    add(
        "--node",
        metavar="NAME=ADDRESS:PORT",
        action="append",
        default=[],
        help="an agent's --status-tls, and the name in its certificate; may be repeated",
    )
    add(
        "--peers",
        metavar="PORT",
        help="ask all peers of --agent, too, at their tunnel addresses, where --status-tls "
        "listens on this port",
    )
    add(
        "--database",
        metavar="REMOTE",
        help="Open vSwitch's, which names key, certificate and bundle, e.g. "
        "unix:/run/openvswitch/db.sock; for --node and --peers",
    )
    for name, what in (
        ("--private-key", "in the place of --database: this node's key"),
        ("--certificate", "this node's certificate"),
        ("--ca-cert", "bundle that the nodes' certificates are of"),
    ):
        add(name, metavar="FILE", help=what)
    add(
        "--period",
        metavar="SECONDS",
        default=str(DEFAULT_PERIOD_S),
        help="from round to round (default: %(default)s)",
    )
    add("--once", action="store_true", help="ask, print, and end")
    add("--json", action="store_true", help="with --once: everything, for programs")
    return parser


def parse_web_arguments(argv: Sequence[str]) -> WebSettings:
    """Read the command line. Raises SettingsError with every violation."""
    flags = web_parser().parse_args(argv)
    violations: list[str] = []
    listen = loopback_address("--listen", flags.listen, violations)
    agents = [
        loopback_address("--agent", text, violations) for text in flags.agent or [DEFAULT_AGENT]
    ]
    targets = [Target("", at) for at in agents if at is not None]
    targets += filter(None, (_node(text, violations) for text in flags.node))
    peers = _number("--peers", flags.peers, 65535, violations) if flags.peers else None
    period = _number("--period", flags.period, 3600, violations)
    files = (flags.private_key, flags.certificate, flags.ca_cert)
    if (flags.node or flags.peers or any(files)) and not (flags.database or all(files)):
        violations.append(
            "--node and --peers need --database, or --private-key, --certificate and --ca-cert"
        )
    if flags.database and not flags.database.startswith(DATABASE_METHODS):
        violations.append(f"--database: {flags.database!r}: give unix:FILE or tcp:IP:PORT")
    if flags.json and not flags.once:
        violations.append("--json goes with --once; the page has the same at /cluster.json")
    if violations or listen is None or period is None:
        raise SettingsError("\n".join(violations))
    keys = NodeKeys(*map(Path, files)) if all(files) else flags.database
    return WebSettings(listen, tuple(targets), peers, keys, period, flags.once, flags.json)


def peer_target(name: str, address: str, port: int) -> Target | None:
    """A peer as a tunnel names it; None when it has no name or no numeric address."""
    try:
        where = ip_address(address)
    except ValueError:
        return None
    # A loopback address would be this host's own agent, under a name that a row makes up.
    return Target(name, HttpAddress(str(where), port)) if name and not where.is_loopback else None


def _node(text: str, violations: list[str]) -> Target | None:
    name, _, where = text.rpartition("=")
    at = numeric_address("--node", where, violations)
    if not name:
        violations.append(f"--node: {text!r}: give NAME=ADDRESS:PORT")
    return Target(name, at) if name and at else None


def _number(flag: str, text: str, most: int, violations: list[str]) -> int | None:
    if text.isascii() and text.isdigit() and 0 < int(text[:9]) <= most:
        return int(text)
    violations.append(f"{flag}: {text!r} is not a number from 1 to {most}")
    return None
