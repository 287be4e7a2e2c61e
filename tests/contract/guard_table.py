"""Guards, and what puts them into nf_tables and sees what they do."""

from __future__ import annotations

import socket
import subprocess

from ovn_ipsec.drivers.nftables import Nftables
from ovn_ipsec.model.conns import Guard, GuardMode, GuardPort, GuardTuple, Protocol
from ovn_ipsec.model.steps import SetGuard

UDP = Protocol.UDP
GENEVE = GuardPort(UDP, 6081)
CLOSED = Guard(GuardMode.ENFORCE, frozenset({GENEVE}))
MIXED = Guard(
    GuardMode.ENFORCE,
    frozenset({GENEVE, GuardPort(Protocol.GRE, None)}),
    closed_peers=frozenset({GuardTuple("127.0.0.2", UDP, 4789), GuardTuple("fd00::2", UDP, 4789)}),
    exempt=frozenset({GuardTuple("127.0.0.3", UDP, 6081), GuardTuple("::1", UDP, 6081, "::1")}),
    skb_mark=(1, 1),
)


def exempting(*remotes: str) -> Guard:
    exempt = frozenset(GuardTuple(remote, UDP, 6081) for remote in remotes)
    return Guard(GuardMode.ENFORCE, frozenset({GENEVE}), exempt=exempt)


def nft(*words: str) -> str:
    return subprocess.run(["nft", *words], check=True, capture_output=True, text=True).stdout


def put(driver: Nftables, guard: Guard) -> None:
    (outcome,) = driver.apply([SetGuard(guard)])
    assert outcome.error is None


def sends(address: str, port: int, mark: int = 0) -> bool:
    """Whether a UDP datagram gets past the guard on its way out."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        try:
            sender.sendto(b"x", (address, port))
        except PermissionError:
            return False
        return True
