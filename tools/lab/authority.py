"""Our own authority on a host of its own, and nodes that enrol with it, as operators run both."""

from __future__ import annotations

import sys
from pathlib import Path

from cryptography import x509

from tools.lab.host import Host
from tools.lab.node import Node

_PROJECT = Path(__file__).resolve().parents[2]
_ENVIRONMENT = {"PYTHONPATH": str(_PROJECT), "PYTHONUNBUFFERED": "1"}
_STATE = "/etc/ovn-ipsec-ca"
_TOKEN = "/etc/ovn-ipsec-token"  # noqa: S105  a path
_IDENTITY = "/etc/ovn-ipsec-identity"
_PORT = 8443


class AuthorityHost:
    """``ovn-ipsec-ca`` on a host of the underlay."""

    def __init__(self, host: Host, *init_flags: str) -> None:
        self._host = host
        self.command("init", *init_flags)
        self.url = f"https://{host.ipv4}:{_PORT}"

    def start(self) -> None:
        """Serve EST."""
        argv = self._argv("serve", "--name", self._host.ipv4, "--address", self._host.ipv4)
        with self._host.path("/var/log/ovn-ipsec-ca.log").open("a") as log:
            self._host.popen([*argv, "--port", str(_PORT)], stdout=log, environment=_ENVIRONMENT)

    def stop(self) -> None:
        """End the server without a word to anybody."""
        self._host.kill_all(9, "ca.cli serve")

    def token(self, chassis: str) -> str:
        """A join token."""
        said = self.command("token", chassis).splitlines()  # the rest is for people
        return next(line for line in said if line.startswith(f"{chassis}."))

    def command(self, action: str, *words: str) -> str:
        """What ``ovn-ipsec-ca ACTION ...`` prints."""
        return self._host.run(self._argv(action, *words), environment=_ENVIRONMENT)

    def _argv(self, action: str, *words: str) -> list[str]:
        return [sys.executable, "-m", "ca.cli", action, "--state", _STATE, *words]


def start_enrolling(node: Node, authority: AuthorityHost, *, key_type: str = "p256") -> None:
    """Give the node a join token and start ``ovn-ipsec enroll``. The chassis id is its name."""
    node.vsctl("--no-wait", "set", "open_vswitch", ".", f"external_ids:system-id={node.name}")
    node.write_file(_TOKEN, authority.token(node.name), 0o600)
    restart_enrolling(node, authority, key_type=key_type)


def restart_enrolling(node: Node, authority: AuthorityHost, *, key_type: str = "p256") -> None:
    """Start ``ovn-ipsec enroll`` with what the node has."""
    argv = [sys.executable, "-m", "ovn_ipsec.cli", "enroll", "--url", authority.url]
    argv += ["--token-file", _TOKEN, "--key-type", key_type, "--verbose"]
    argv += ["--directory", _IDENTITY, "unix:/run/openvswitch/db.sock"]
    with node.path("/var/log/openvswitch/enroll.log").open("a") as log:
        node.popen(argv, stdout=log, environment=_ENVIRONMENT)


def stop_enrolling(node: Node) -> None:
    """End ``ovn-ipsec enroll`` without a word to anybody."""
    node.kill_all(9, "ovn_ipsec.cli enroll")


def certificate_in_use(node: Node) -> x509.Certificate | None:
    """That OVSDB names; None before there is one."""
    path = _named(node, "certificate")
    return x509.load_pem_x509_certificate(node.read_file(path).encode()) if path else None


def roots_in_use(node: Node) -> list[x509.Certificate]:
    """Of the bundle that OVSDB names."""
    path = _named(node, "ca_cert")
    return x509.load_pem_x509_certificates(node.read_file(path).encode()) if path else []


def _named(node: Node, key: str) -> str:
    argv = ("--if-exists", "get", "open_vswitch", ".", f"other_config:{key}")
    return node.vsctl(*argv).strip().strip('"')
