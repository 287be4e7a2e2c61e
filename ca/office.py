"""What an operator does at the authority's machine: tokens, revocation, looking things up."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from ca.desk import LocalDesk
from ca.entries import Admitted, Revoked, TokenMade
from ca.errors import UsageError
from ca.policy import chassis_id_fault
from ca.store import Batch
from ca.tokens import SECRET_BYTES, token_digest, token_text

SERIAL_BITS = 128
_HANDLE_BYTES = 6


@dataclass(frozen=True, slots=True)
class Token:
    """A new join token."""

    text: str
    """The secret; never to be written anywhere but to who asked for it."""
    handle: str
    expires: datetime


def random_serial() -> str:
    """128 random bits in hex, not 0 (RFC 5280 wants positive numbers)."""
    return f"{secrets.randbits(SERIAL_BITS) or 1:032x}"


def make_token(desk: LocalDesk, chassis_id: str, life: timedelta, *, replace: bool) -> Token:
    """A join token for one chassis. Raises UsageError and StoreError."""
    if fault := chassis_id_fault(chassis_id):
        raise UsageError(fault)
    secret, handle = secrets.token_bytes(SECRET_BYTES), secrets.token_hex(_HANDLE_BYTES)

    def work(batch: Batch, now: datetime) -> Token:
        if not replace and (live := list(batch.inventory.live(chassis_id, now))):
            raise UsageError(
                f"{chassis_id} has a certificate (serial {live[-1].serial}): revoke it, or allow "
                "its replacement with --replace"
            )
        text = token_text(chassis_id, secret, batch.inventory.bundle()[0])
        expires = (now + life).replace(microsecond=0)
        digest = token_digest(chassis_id, text)
        batch.add(TokenMade(now, handle, chassis_id, digest, expires, replace))
        return Token(text, handle, expires)

    return desk.submit(work)


def revoke_node(desk: LocalDesk, chassis_id: str) -> Revoked:
    """Revoke all of a node's certificates and tokens, and put its name on the deny-list.

    The log of a restored authority does not know every node: any chassis id will do.
    """
    if fault := chassis_id_fault(chassis_id):
        raise UsageError(fault)

    def work(batch: Batch, now: datetime) -> Revoked:
        live = tuple(item.serial for item in batch.inventory.live(chassis_id, now))
        entry = Revoked(now, chassis_id, live, node=True)
        batch.add(entry)
        return entry

    return desk.submit(work)


def admit_node(desk: LocalDesk, chassis_id: str) -> None:
    """Let a revoked node have a certificate again, with a new key. Raises UsageError."""

    def work(batch: Batch, now: datetime) -> None:
        if chassis_id.lower() not in batch.inventory.denied_names:
            raise UsageError(f"{chassis_id}: not revoked; see ovn-ipsec-ca list")
        batch.add(Admitted(now, chassis_id))

    desk.submit(work)


def revoke_serial(desk: LocalDesk, serial: str) -> Revoked:
    """Revoke one certificate; its node keeps its name, tokens and other certificates."""
    wanted = serial.lower().replace(":", "").zfill(SERIAL_BITS // 4)

    def work(batch: Batch, now: datetime) -> Revoked:
        inventory = batch.inventory
        if not inventory.knows_serial(wanted):
            raise UsageError(f"{serial}: no certificate of this serial; see ovn-ipsec-ca list")
        issued = inventory.issued.get(wanted)
        entry = Revoked(now, issued.chassis_id if issued else "", (wanted,), node=False)
        if wanted not in inventory.revoked:
            batch.add(entry)
        return entry

    return desk.submit(work)
