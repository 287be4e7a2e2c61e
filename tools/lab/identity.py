"""Puts certificates where operators put them, and names them in OVSDB."""

from __future__ import annotations

from tools.lab.node import Node
from tools.lab.pki import Authority, Pair, key_pem

KEYS = "/etc/openvswitch/keys"
CERTIFICATE = f"{KEYS}/ipsec-cert.pem"
PRIVATE_KEY = f"{KEYS}/ipsec-privkey.pem"
CA_CERT = f"{KEYS}/ipsec-cacert.pem"
CA_CRL = f"{KEYS}/ipsec-crl.pem"


def write_identity(node: Node, pair: Pair) -> None:
    """New content at the same paths, the key first, as an administrator with cp does."""
    node.write_file(PRIVATE_KEY, key_pem(pair.key).decode(), 0o600)
    node.write_file(CERTIFICATE, pair.pem.decode())


def install_identity(node: Node, pair: Pair, authority: Authority | None = None) -> None:
    """Write the node's own files and name them in Open_vSwitch:other_config."""
    write_identity(node, pair)
    settings = [f"other_config:certificate={CERTIFICATE}"]
    settings += [f"other_config:private_key={PRIVATE_KEY}"]
    if authority is not None:
        node.write_file(CA_CERT, authority.pem.decode())
        settings += [f"other_config:ca_cert={CA_CERT}"]
    node.vsctl("--no-wait", "set", "Open_vSwitch", ".", *settings)


def install_peer_certificate(node: Node, name: str, pair: Pair) -> str:
    """A self-signed peer's certificate; returns its path for options:remote_cert."""
    path = f"{KEYS}/{name}-cert.pem"
    node.write_file(path, pair.pem.decode())
    return path
