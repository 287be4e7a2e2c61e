"""The knobs of ``ovn-ipsec enroll``: typed, with defaults, all violations in one message."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ovn_ipsec.errors import EnrolmentError, SettingsError
from ovn_ipsec.identity.est import EstServer
from ovn_ipsec.identity.kubernetes import Place
from ovn_ipsec.identity.model import KeyKind
from ovn_ipsec.settings import StrictParser

DEFAULT_DIRECTORY = "/var/lib/ovn-ipsec/identity"
DEFAULT_TIMEOUT_S = 300
DEFAULT_BUNDLE_INTERVAL_S = 3600
DEFAULT_SIGNER = "ipsec.ovn.org/node"
DEFAULT_BUNDLE = "ovn-ipsec/ovn-ipsec-ca"
_NODE_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
"""A DNS subdomain (RFC 1123), as names of Kubernetes objects are."""
_SIGNER = re.compile(r"[a-z0-9.-]{1,253}/[A-Za-z0-9._:-]{1,253}")
_YEAR_S = 365 * 86400


@dataclass(frozen=True, slots=True)
class EnrollSettings:
    """The settings of the enrolment process."""

    database: str
    """OVSDB remote, e.g. ``unix:/run/openvswitch/db.sock``."""
    url: str | None = None
    server_name: str | None = None
    token_file: Path | None = None
    drop_directory: Path | None = None
    cluster: Place | None = None
    """Set with ``--kubernetes``."""
    kubeconfig: Path | None = None
    """None: as the pod that the process runs in."""
    directory: Path = Path(DEFAULT_DIRECTORY)
    key_kind: KeyKind = KeyKind.RSA_3072
    bundle_interval_s: int = DEFAULT_BUNDLE_INTERVAL_S
    once: bool = False
    timeout_s: int = DEFAULT_TIMEOUT_S
    """For ``--once``."""
    verbose: bool = False


def parse_enroll_arguments(
    argv: Sequence[str], environment: Mapping[str, str] = os.environ
) -> EnrollSettings:
    """Read the command line. Raises SettingsError with every violation."""
    flags = enroll_parser().parse_args(argv)
    violations: list[str] = []
    settings = EnrollSettings(
        database=flags.database,
        url=flags.url,
        server_name=flags.server_name,
        token_file=_path("--token-file", flags.token_file, violations),
        drop_directory=_path("--drop-directory", flags.drop_directory, violations),
        cluster=_cluster(flags, environment, violations),
        kubeconfig=_path("--kubeconfig", flags.kubeconfig, violations),
        directory=_path("--directory", flags.directory, violations) or Path(DEFAULT_DIRECTORY),
        key_kind=_key_kind(flags.key_type, violations),
        bundle_interval_s=_seconds("--bundle-interval", flags.bundle_interval, violations),
        once=flags.once,
        timeout_s=_seconds("--timeout", flags.timeout, violations),
        verbose=flags.verbose,
    )
    if not flags.database.startswith(("unix:", "tcp:", "ssl:")):
        violations.append(f"DATABASE: {flags.database!r}: give unix:FILE, tcp: or ssl:")
    violations += _way_problems(settings)
    if violations:
        raise SettingsError("\n".join(violations))
    return settings


def enroll_parser() -> StrictParser:
    """The command line of ``ovn-ipsec enroll``."""
    parser = StrictParser(
        prog="ovn-ipsec enroll",
        description="Gets this node's certificate, tells Open vSwitch, and renews it for ever.",
    )
    add = parser.add_argument
    add("database", metavar="DATABASE", help="OVSDB remote, e.g. unix:FILE")
    add("--url", metavar="URL", help="the authority, https://HOST:PORT")
    add("--server-name", metavar="NAME", help="its name, when the URL's host is not in its name")
    add(
        "--token-file",
        metavar="FILE",
        help="join token, for the first certificate or to come back",
    )
    add("--drop-directory", metavar="DIR", help="instead of --url: leave NAME.csr, take NAME.crt")
    _add_kubernetes_arguments(parser)
    add(
        "--directory",
        metavar="DIR",
        default=DEFAULT_DIRECTORY,
        help="where keys and certificates are kept (default: %(default)s)",
    )
    add(
        "--key-type",
        metavar="TYPE",
        default=KeyKind.RSA_3072.value,
        help=f"{', '.join(KeyKind)} (default: %(default)s, which peers that run the original "
        "ovs-monitor-ipsec can authenticate)",
    )
    add(
        "--bundle-interval",
        metavar="SECONDS",
        default=str(DEFAULT_BUNDLE_INTERVAL_S),
        help="how often the authority's roots are asked for (default: %(default)s)",
    )
    add("--once", action="store_true", help="end when an identity is in place")
    add(
        "--timeout",
        metavar="SECONDS",
        default=str(DEFAULT_TIMEOUT_S),
        help="with --once: give up after this time (default: %(default)s)",
    )
    add("--verbose", action="store_true", help="log each step")
    return parser


def _add_kubernetes_arguments(parser: StrictParser) -> None:
    add = parser.add_argument_group(title="Kubernetes Options").add_argument
    add(
        "--kubernetes",
        action="store_true",
        help="instead of --url: make CertificateSigningRequests",
    )
    add("--kubeconfig", metavar="FILE", help="how to reach the API (default: as this pod)")
    add("--node-name", metavar="NAME", help="this Node's name (default: environment NODE_NAME)")
    add(
        "--signer-name",
        metavar="NAME",
        default=DEFAULT_SIGNER,
        help="who signs (default: %(default)s)",
    )
    add(
        "--bundle",
        metavar="NAMESPACE/NAME",
        default=DEFAULT_BUNDLE,
        help="ConfigMap of the roots and the deny-list (default: %(default)s)",
    )


def _cluster(
    flags: argparse.Namespace, environment: Mapping[str, str], violations: list[str]
) -> Place | None:
    if not flags.kubernetes:
        if flags.kubeconfig or flags.node_name:
            violations.append("--kubeconfig and --node-name go with --kubernetes")
        return None
    node = flags.node_name or environment.get("NODE_NAME", "")
    if not _NODE_NAME.fullmatch(node):
        violations.append(
            f"--node-name {node!r}: give this Node's name, or set NODE_NAME (in a pod: fieldRef "
            "spec.nodeName)"
        )
    if not _SIGNER.fullmatch(flags.signer_name):
        violations.append(f"--signer-name {flags.signer_name!r}: give DOMAIN/NAME")
    namespace, slash, name = flags.bundle.partition("/")
    if not (slash and _NODE_NAME.fullmatch(namespace) and _NODE_NAME.fullmatch(name)):
        violations.append(f"--bundle {flags.bundle!r}: give NAMESPACE/NAME")
    return Place(node, flags.signer_name, namespace, name)


def _way_problems(settings: EnrollSettings) -> list[str]:
    found = []
    ways = (settings.url, settings.drop_directory, settings.cluster)
    if sum(way is not None for way in ways) != 1:
        found.append("give either --url or --drop-directory or --kubernetes")
    if settings.url is None and (settings.token_file or settings.server_name):
        found.append("--token-file and --server-name go with --url")
    if settings.url is not None:
        try:
            EstServer(settings.url)
        except EnrolmentError as error:
            found.append(str(error))
    return found


def _path(flag: str, text: str | None, violations: list[str]) -> Path | None:
    if text is None:
        return None
    path = Path(text)
    if not path.is_absolute():
        violations.append(f"{flag}: {text!r}: give an absolute path")
    return path


def _key_kind(text: str, violations: list[str]) -> KeyKind:
    try:
        return KeyKind(text)
    except ValueError:
        violations.append(f"--key-type: {text!r} is not one of {', '.join(KeyKind)}")
        return KeyKind.RSA_3072


def _seconds(flag: str, text: str, violations: list[str]) -> int:
    if text.isascii() and text.isdigit() and len(text) < 12 and 0 < int(text) <= _YEAR_S:
        return int(text)
    violations.append(f"{flag}: {text!r} is not a number of seconds from 1 to {_YEAR_S}")
    return 1
