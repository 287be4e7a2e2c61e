"""Every knob of the agent: typed, with its default, all violations in one message.

The flags of ``ovs-monitor-ipsec`` keep their names and meaning. Those of python-ovs (logging,
daemon) are not here: the command line's root adds them to the same parser and handles them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import NoReturn, TypeVar

from ovn_ipsec.errors import SettingsError
from ovn_ipsec.model.conns import GuardMode, GuardPort, Protocol

DEFAULT_COMMAND_TIMEOUT_S = 120
DEFAULT_GUARD_FILE = "/var/lib/openvswitch/ovn-ipsec-guard.json"
DATABASE_METHODS = ("unix:", "tcp:", "ssl:")
_FOLLOW = "follow"
_PORTS_FORM = "a comma-separated list such as udp/4789,gre"

_Kind = TypeVar("_Kind", bound=StrEnum)


class IkeDaemon(StrEnum):
    """Which IKE daemon the command line names. Only libreswan is driven.

    strongSwan is kept as a value because distributions' units pass it: the agent refuses to
    start with it, with the remedy, but not before the guard stands.
    """

    LIBRESWAN = "libreswan"
    STRONGSWAN = "strongswan"


class OnUnknown(StrEnum):
    """What the guard does on a first start, before anything is known about the cluster."""

    AUDIT = "audit"
    ENFORCE = "enforce"


class LogFormat(StrEnum):
    """How the agent writes its own log lines."""

    TEXT = "text"
    """As Open vSwitch does; ``--log-file``, ``--verbose`` and ``vlog/set`` rule it."""
    JSON = "json"
    """One object a line on standard error."""


class ReadyWhen(StrEnum):
    """Which peers have to be encrypted for this node to be ready."""

    ANSWERING = "answering"
    """Those that answer IKE, or were encrypted before the agent started."""
    ALL = "all"
    """All of them: for the time of an installation."""


@dataclass(frozen=True, slots=True)
class HttpAddress:
    """Where something listens; numeric."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Settings:
    """The agent's settings. Paths are as given: ``root_prefix`` is not yet applied."""

    database: str
    """OVSDB remote, e.g. ``unix:/run/openvswitch/db.sock``."""
    root_prefix: str = ""
    ike_daemon: IkeDaemon = IkeDaemon.LIBRESWAN
    restart_ike_daemon: bool = True
    """False: never start pluto, only use the one that runs."""
    ipsec_conf: str | None = None
    """None here and below: the default, which may depend on libreswan's version."""
    root_ipsec_conf: str | None = None
    ipsec_d: str | None = None
    ipsec_secrets: str | None = None
    ipsec_ctl: str | None = None
    use_default_crypto: bool = False
    command_timeout_s: int = DEFAULT_COMMAND_TIMEOUT_S
    guard_mode: GuardMode = GuardMode.ENFORCE
    guard_follow: bool = False
    """Obey ``other_config:ipsec_guard_mode``, while ``guard_mode`` is the default."""
    guard_on_unknown: OnUnknown = OnUnknown.AUDIT
    guard_ports: frozenset[GuardPort] = frozenset()
    """Closed to and from everybody, besides Geneve's own port."""
    guard_file: str = DEFAULT_GUARD_FILE
    """Where the guard in force is kept for the next start."""
    allow_plain: frozenset[GuardPort] = frozenset()
    """Ports whose rows with ``remote_ip=flow`` may stay in clear."""
    allow_hw_offload: bool = False
    http: HttpAddress | None = None
    """None: no health endpoints."""
    status_tls: HttpAddress | None = None
    """Where other nodes may ask for status and metrics; None: nowhere."""
    ready: ReadyWhen = ReadyWhen.ANSWERING
    report_status: bool = False
    """Write ``Interface:external_ids:ipsec_status``."""
    log_format: LogFormat = LogFormat.TEXT


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """Those of ``ovn-ipsec guard``; beside ``action`` as the agent's of the same name."""

    action: str
    guard_on_unknown: OnUnknown = OnUnknown.AUDIT
    guard_ports: frozenset[GuardPort] = frozenset()
    guard_file: str = DEFAULT_GUARD_FILE


ArgumentAdder = Callable[[argparse.ArgumentParser], None]


def parse_agent_arguments(
    argv: Sequence[str], *, prog: str, add_more: Sequence[ArgumentAdder] = ()
) -> tuple[Settings, argparse.Namespace]:
    """Read the agent's command line (without the program's name).

    ``add_more`` puts further flags on the same parser (``ovs.vlog.add_args``,
    ``ovs.daemon.add_args``); their values are in the namespace that is returned.

    Raises SettingsError with every violation. ``--help`` prints and exits, as argparse does.
    """
    parser = agent_parser(prog, add_more)
    namespace, unknown = parser.parse_known_args(argv)
    violations = [f"{word}: unknown argument; see --help" for word in unknown]
    settings = _read(namespace, violations)
    if violations:
        raise SettingsError("\n".join(violations))
    return settings, namespace


def agent_parser(prog: str, add_more: Sequence[ArgumentAdder] = ()) -> StrictParser:
    """The command line of the agent."""
    parser = StrictParser(
        prog=prog,
        description="Keeps every tunnel of this node that asks for IPsec encrypted, and closes "
        "the node to tunnel packets in clear.",
    )
    _add_arguments(parser)
    for add in add_more:
        add(parser)
    return parser


class StrictParser(argparse.ArgumentParser):
    """Raises SettingsError where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message}; see --help")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    # Values are read as text and judged in _read, to report all that is wrong at once.
    add("database", metavar="DATABASE", nargs="?", help="OVSDB remote, e.g. unix:FILE (required)")
    add("--root-prefix", metavar="DIR", default="", help="alternate root directory, for tests")
    add("--ike-daemon", metavar="IKE-DAEMON", default="libreswan", help="libreswan")
    add(
        "--no-restart-ike-daemon",
        action="store_true",
        help="use the IKE daemon that runs; never start it",
    )
    add("--ipsec-conf", metavar="IPSEC-CONF", help="file that gets our connections")
    add("--root-ipsec-conf", metavar="ROOT-IPSEC-CONF", help="file that includes --ipsec-conf")
    add("--ipsec-d", metavar="IPSEC-D", help="directory of pluto's NSS database")
    add("--ipsec-secrets", metavar="IPSEC-SECRETS", help="file that gets our secrets")
    add("--ipsec-ctl", metavar="IPSEC-CTL", help="pluto's control socket")
    add(
        "--command-timeout",
        metavar="TIMEOUT",
        default=str(DEFAULT_COMMAND_TIMEOUT_S),
        help="seconds that a child process may take (default: %(default)s)",
    )
    add("--use-default-crypto", action="store_true", help="leave ike= and esp= to libreswan")
    add(
        "--log-format",
        metavar="FORMAT",
        default=LogFormat.TEXT.value,
        help="text: as Open vSwitch logs; json: one object a line on standard error "
        "(default: %(default)s)",
    )
    _add_guard_arguments(parser)
    _add_health_arguments(parser)


def _add_health_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group(title="Health Options").add_argument
    add(
        "--http",
        metavar="ADDRESS:PORT",
        help="serve /livez, /readyz, ... on loopback, e.g. 127.0.0.1:9180",
    )
    add(
        "--status-tls",
        metavar="ADDRESS:PORT",
        help="serve /status and /metrics to other nodes, by mutual TLS with the certificates that "
        "OVSDB names, e.g. 192.0.2.7:9182",
    )
    add(
        "--report-status",
        action="store_true",
        help="write each tunnel's state into Interface:external_ids:ipsec_status",
    )
    add(
        "--ready",
        metavar="WHEN",
        default=ReadyWhen.ANSWERING.value,
        help=f"which peers /readyz wants encrypted: {_choices(ReadyWhen)} (default: %(default)s)",
    )


def _add_guard_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(title="Guard Options")
    add = group.add_argument
    add(
        "--guard-mode",
        metavar="MODE",
        default=GuardMode.ENFORCE.value,
        help=f"{_choices(GuardMode)}; {_FOLLOW}: as --guard-follow (default: %(default)s)",
    )
    add(
        "--guard-follow",
        action="store_true",
        help="obey other_config:ipsec_guard_mode (audit, enforce), as ovn-ipsec cluster sets it",
    )
    _add_first_guard_arguments(add)
    add(
        "--allow-plain",
        metavar="LIST",
        default="",
        help="tunnel ports whose flow-based rows may stay without IPsec, e.g. udp/4789",
    )
    add(
        "--allow-hw-offload",
        action="store_true",
        help="accept hw-offload=true, although offloaded packets may bypass IPsec and guard",
    )


def parse_guard_arguments(argv: Sequence[str]) -> GuardSettings:
    """Read the command line of ``ovn-ipsec guard``. Raises SettingsError with every violation."""
    flags = guard_parser().parse_args(argv)
    violations: list[str] = []
    settings = GuardSettings(
        flags.action,
        guard_on_unknown=_member(
            OnUnknown, "--guard-on-unknown", flags.guard_on_unknown, violations
        ),
        guard_ports=_ports("--guard-ports", flags.guard_ports, violations),
        guard_file=_file("--guard-file", flags.guard_file, violations),
    )
    if violations:
        raise SettingsError("\n".join(violations))
    return settings


def guard_file_of(argv: Sequence[str]) -> str:
    """``--guard-file`` of a command line that is wrong; the default where that is wrong, too."""
    parser = StrictParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--guard-file", default=DEFAULT_GUARD_FILE)
    violations: list[str] = []
    try:
        flags, _ = parser.parse_known_args(argv)
        found = _file("--guard-file", flags.guard_file, violations)
    except SettingsError:
        return DEFAULT_GUARD_FILE
    return DEFAULT_GUARD_FILE if violations else found


def guard_parser() -> StrictParser:
    """The command line of ``ovn-ipsec guard``."""
    parser = StrictParser(
        prog="ovn-ipsec guard", description="Does to the guard's table what an agent does."
    )
    parser.add_argument(
        "action",
        choices=("apply", "show", "remove"),
        help="apply: put this node's last guard in force, as before Open vSwitch starts; "
        "remove: let tunnel packets pass in clear",
    )
    _add_first_guard_arguments(parser.add_argument)
    return parser


def _add_first_guard_arguments(add: Callable[..., argparse.Action]) -> None:
    add(
        "--guard-on-unknown",
        metavar="MODE",
        default=OnUnknown.AUDIT.value,
        help=f"on a first start: {_choices(OnUnknown)} (default: %(default)s)",
    )
    add(
        "--guard-ports",
        metavar="LIST",
        default="",
        help="tunnel ports closed to everybody besides udp/6081, e.g. udp/4789,gre",
    )
    add(
        "--guard-file",
        metavar="FILE",
        default=DEFAULT_GUARD_FILE,
        help="keeps the guard that is in force for the next start (default: %(default)s)",
    )


def _read(namespace: argparse.Namespace, violations: list[str]) -> Settings:
    database = namespace.database or ""
    mode, follow = namespace.guard_mode, namespace.guard_follow
    if mode == _FOLLOW:
        mode, follow = GuardMode.ENFORCE, True
    if not database:
        violations.append("DATABASE: missing; e.g. unix:/run/openvswitch/db.sock")
    elif not database.startswith(DATABASE_METHODS):
        violations.append(f"DATABASE: {database!r} is not unix:FILE, tcp:IP:PORT or ssl:IP:PORT")
    return Settings(
        database=database,
        root_prefix=namespace.root_prefix,
        ike_daemon=_member(IkeDaemon, "--ike-daemon", namespace.ike_daemon, violations),
        restart_ike_daemon=not namespace.no_restart_ike_daemon,
        ipsec_conf=namespace.ipsec_conf or None,
        root_ipsec_conf=namespace.root_ipsec_conf or None,
        ipsec_d=namespace.ipsec_d or None,
        ipsec_secrets=namespace.ipsec_secrets or None,
        ipsec_ctl=namespace.ipsec_ctl or None,
        use_default_crypto=namespace.use_default_crypto,
        command_timeout_s=_seconds("--command-timeout", namespace.command_timeout, violations),
        guard_mode=_member(GuardMode, "--guard-mode", mode, violations),
        guard_follow=follow,
        guard_on_unknown=_member(
            OnUnknown, "--guard-on-unknown", namespace.guard_on_unknown, violations
        ),
        guard_ports=_ports("--guard-ports", namespace.guard_ports, violations),
        guard_file=_file("--guard-file", namespace.guard_file, violations),
        allow_plain=_ports("--allow-plain", namespace.allow_plain, violations),
        allow_hw_offload=namespace.allow_hw_offload,
        http=loopback_address("--http", namespace.http, violations) if namespace.http else None,
        status_tls=numeric_address("--status-tls", namespace.status_tls, violations)
        if namespace.status_tls
        else None,
        report_status=namespace.report_status,
        ready=_member(ReadyWhen, "--ready", namespace.ready, violations),
        log_format=_member(LogFormat, "--log-format", namespace.log_format, violations),
    )


def loopback_address(flag: str, text: str, violations: list[str]) -> HttpAddress | None:
    """``ADDRESS:PORT`` of this host; None with a violation more."""
    at = numeric_address(flag, text, violations)
    if at is not None and not ip_address(at.address).is_loopback:
        violations.append(
            f"{flag}: {at.address} is not a loopback address; the answers are for anybody who "
            "asks, so give 127.0.0.1 or [::1] (kubelet: httpGet with host: 127.0.0.1)"
        )
        return None
    return at


def numeric_address(flag: str, text: str, violations: list[str]) -> HttpAddress | None:
    """``ADDRESS:PORT``, of any host; None with a violation more."""
    host, _, port = text.rpartition(":")
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        address = None
    if address is None or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        violations.append(f"{flag}: {text!r}: give ADDRESS:PORT such as 127.0.0.1:9180")
        return None
    return HttpAddress(str(address), int(port))


def _choices(kind: type[StrEnum]) -> str:
    return ", ".join(member.value for member in kind)


def _member(kind: type[_Kind], flag: str, text: str, violations: list[str]) -> _Kind:
    try:
        return kind(text)
    except ValueError:
        violations.append(f"{flag}: {text!r} is not one of {_choices(kind)}")
        return next(iter(kind))


def _seconds(flag: str, text: str, violations: list[str]) -> int:
    if text.isascii() and text.isdigit() and 0 < int(text) <= 86400:
        return int(text)
    violations.append(f"{flag}: {text!r} is not a number of seconds from 1 to 86400")
    return DEFAULT_COMMAND_TIMEOUT_S


def _file(flag: str, text: str, violations: list[str]) -> str:
    """Absolute, for a daemon's working directory is another one."""
    if not text.startswith("/"):
        violations.append(f"{flag}: {text!r}: give an absolute path")
    return text


def _ports(flag: str, text: str, violations: list[str]) -> frozenset[GuardPort]:
    ports = set()
    for word in filter(None, (part.strip() for part in text.split(","))):
        port = _port(word)
        if port is None:
            violations.append(f"{flag}: {word!r} in {text!r}: give {_PORTS_FORM}")
        else:
            ports.add(port)
    return frozenset(ports)


def _port(word: str) -> GuardPort | None:
    """``gre``, ``udp/PORT`` or ``tcp/PORT`` (stt)."""
    name, slash, number = word.partition("/")
    if name == Protocol.GRE and not slash:
        return GuardPort(Protocol.GRE, None)
    if name not in (Protocol.UDP, Protocol.TCP):
        return None
    if not (number.isascii() and number.isdigit() and len(number) <= 5):
        return None
    return GuardPort(Protocol(name), int(number)) if 0 < int(number) < 65536 else None
