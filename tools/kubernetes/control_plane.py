"""etcd and kube-apiserver on free loopback ports, with identities that tests act under.

A token file stands for ServiceAccounts: the API server takes each token for a user name, groups
and nothing else, and RBAC is enforced as ever. Nothing survives ``close``: all processes are
killed, since kube-apiserver waits a minute for open watches when it is asked to end.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tools.kubernetes.client import Client, Refused
from tools.kubernetes.programs import Program, ensure

READY_S = 120.0
_ADDRESS = "127.0.0.1"
_CLUSTER = "cluster.local"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a token stands for."""

    user: str
    groups: tuple[str, ...] = ()


ADMIN = Identity("admin", ("system:masters",))


@dataclass(frozen=True, slots=True)
class Options:
    """How the API server differs from one that only tests ask."""

    port: int = 0
    """0 for any that is free."""
    bind: str = _ADDRESS
    addresses: tuple[str, ...] = ()
    """Besides 127.0.0.1: those its certificate is valid for."""
    flags: tuple[str, ...] = field(
        # Without a controller manager no ServiceAccount gets its token Secret.
        default=("--disable-admission-plugins=ServiceAccount",)
    )


def service_account(namespace: str, name: str) -> Identity:
    """What the API server takes a ServiceAccount's token for."""
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")
    return Identity(f"system:serviceaccount:{namespace}:{name}", groups)


class ControlPlane:
    """One cluster without nodes: only the API and what it stores."""

    def __init__(
        self, directory: Path, identities: Sequence[Identity], options: Options = Options()
    ) -> None:
        """Make keys, certificates and tokens in ``directory``; ``start`` starts it."""
        self.directory = directory
        self._options = options
        self._programs = ensure(Program.API_SERVER)
        self._tokens = {item: secrets.token_hex(16) for item in (ADMIN, *identities)}
        self._etcd_port, self._peer_port, free = (_free_port() for _ in range(3))
        self.port = options.port or free
        self._etcd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self.ca = directory / "ca.pem"
        _make_pki(directory, [_ADDRESS, *options.addresses])
        lines = [
            ",".join([token, item.user, item.user, '"' + ",".join(item.groups) + '"'])
            for item, token in self._tokens.items()
        ]
        tokens = directory / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text("\n".join(lines) + "\n")

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def client(self, identity: Identity = ADMIN) -> Client:
        """Requests as somebody."""
        return Client(self.port, self.ca, self._tokens[identity])

    def kubeconfig(self, identity: Identity = ADMIN) -> Path:
        """A kubeconfig of somebody, readable by this user alone."""
        path = self.directory / f"{identity.user.replace(':', '-')}.kubeconfig"
        server = f"https://{_ADDRESS}:{self.port}"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "c",
                    "cluster": {"server": server, "certificate-authority": str(self.ca)},
                }
            ],
            "users": [{"name": "u", "user": {"token": self._tokens[identity]}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(config))
        return path

    def start(self) -> None:
        """Start what does not run, and wait until the API answers. Raises TimeoutError."""
        if self._etcd is None:
            self._etcd = self._spawn("etcd", self._etcd_command())
        if self._server is None:
            self._server = self._spawn("kube-apiserver", self._server_command())
        deadline = time.monotonic() + READY_S
        while not self._ready():
            if self._server.poll() is not None or time.monotonic() > deadline:
                log = (self.directory / "kube-apiserver.log").read_text(errors="replace")
                raise TimeoutError(f"the API server does not get ready: {log[-2000:]}")
            time.sleep(0.1)

    def kill_server(self) -> None:
        """The API server is gone; etcd stays."""
        _kill(self._server)
        self._server = None

    def stall_server(self) -> None:
        """It answers no more, and closes no connection."""
        if self._server is not None:
            self._server.send_signal(signal.SIGSTOP)

    def resume_server(self) -> None:
        """Undo ``stall_server``."""
        if self._server is not None:
            self._server.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill everything."""
        self.kill_server()
        _kill(self._etcd)
        self._etcd = None

    def _ready(self) -> bool:
        with contextlib.suppress(OSError, Refused):
            return bool(self.client().get("/readyz")["text"] == "ok")
        return False

    def _spawn(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.directory / f"{name}.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory)

    def _etcd_command(self) -> list[str]:
        client, peer = (f"http://{_ADDRESS}:{p}" for p in (self._etcd_port, self._peer_port))
        return [
            "etcd",
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def _server_command(self) -> list[str]:
        here = self.directory
        return [
            str(self._programs / Program.API_SERVER),
            f"--etcd-servers=http://{_ADDRESS}:{self._etcd_port}",
            f"--tls-cert-file={here / 'server.pem'}",
            f"--tls-private-key-file={here / 'server.key'}",
            f"--client-ca-file={self.ca}",
            f"--bind-address={self._options.bind}",
            f"--advertise-address={_ADDRESS}",
            f"--secure-port={self.port}",
            f"--token-auth-file={here / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            f"--service-account-key-file={here / 'accounts.key'}",
            f"--service-account-signing-key-file={here / 'accounts.key'}",
            f"--service-account-issuer=https://{_CLUSTER}",
            f"--api-audiences=https://{_CLUSTER}",
            "--allow-privileged=true",
            "--endpoint-reconciler-type=none",
            *self._options.flags,
        ]


def _kill(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.create_server((_ADDRESS, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _make_pki(directory: Path, addresses: Sequence[str]) -> None:
    """A CA, the server's certificate, and the key that signs ServiceAccount tokens."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test cluster CA")])
    ca = (
        _certificate(ca_name, ca_name, ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")])
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
    server = (
        _certificate(name, ca_name, key)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (directory / "ca.pem").write_bytes(ca.public_bytes(pem))
    (directory / "server.pem").write_bytes(server.public_bytes(pem))
    _write_key(directory / "server.key", key)
    _write_key(directory / "accounts.key", ec.generate_private_key(ec.SECP256R1()))


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
    )


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    data = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
