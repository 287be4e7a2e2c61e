"""What the issued log adds up to: certificates, tokens, refusals, roots. Pure.

``apply`` takes one entry at a time, the same from a file at start as when it is written. Ids and
names are compared in lower case.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from cryptography import x509

from ca.csr import CsrFacts
from ca.entries import (
    Acknowledged,
    Admitted,
    Denied,
    Entry,
    Issued,
    NodeBound,
    Restored,
    Revoked,
    RootAdded,
    RootRetired,
    ServerIssued,
    SigningSwitched,
    TokenMade,
)
from ca.policy import Standing, TokenStanding, proven_by
from ca.requests import ByCertificate, ByNode, ByToken, Requester, bundle_digest
from ca.tokens import token_digest

_REFUSALS_KEPT = 20_000
_RECENT_KEPT = 64
_UNPROVEN_KEPT = 256
"""More than a day may have (``ca.policy.Rules``)."""
_EXPIRED_KEPT = timedelta(days=1)
_SECOND = timedelta(seconds=1)
_DENIED_ON_CRL = 5000
"""Serials. Nodes read 1 MiB of PEM, and an API server stores no more: each takes 100 bytes of it
in the CRLs of a roll-over, so half of it is left for names."""


@dataclass(frozen=True, slots=True)
class Root:
    """A root in the bundle."""

    key_id: str
    der: bytes
    cross: tuple[bytes, ...]
    added_at: datetime
    not_before: datetime
    not_after: datetime


class Inventory:
    """Everything that the authority remembers but its keys and settings."""

    def __init__(self) -> None:
        self.newest_at = datetime.fromtimestamp(0, UTC)
        """Of the latest entry, and never put back: not by a clock, and not by a backup."""
        self.roots: dict[str, Root] = {}
        """The bundle, by key id, oldest first."""
        self.signing = ""
        """Key id of the root that signs."""
        self.switched_at: datetime | None = None
        self.acknowledged: dict[str, datetime] = {}
        """Ids that trust the present bundle, since when."""
        self.tokens: dict[str, TokenStanding] = {}
        """By digest."""
        self.revoked: dict[str, datetime] = {}
        """Serials."""
        self.revocations = 0
        """Grows whenever there is something new for a CRL to say."""
        self.denied_names: dict[str, datetime] = {}
        """Ids of revoked nodes that were not admitted again."""
        self.node_of: dict[str, str] = {}
        """The Kubernetes Node that an id was last given to."""
        self.refusals: dict[str, Denied] = {}
        """By proof; the newest ones."""
        self.servers: dict[str, ServerIssued] = {}
        self.issued: dict[str, Issued] = {}
        """By serial; expired ones go after a day."""
        self._admitted: set[str] = set()
        self._ids_of_node: dict[str, set[str]] = {}
        self._replaced: set[str] = set()
        self._serials_of: dict[str, list[str]] = {}
        self._serial_by_der: dict[bytes, str] = {}
        self._key_owners: dict[str, frozenset[str]] = {}
        self._revoked_keys: set[str] = set()
        self._spelling: dict[str, str] = {}
        self._digest_by_handle: dict[str, str] = {}
        self._recent: dict[str, deque[datetime]] = {}
        self._unproven: deque[datetime] = deque(maxlen=_UNPROVEN_KEPT)

    def apply(self, entry: Entry) -> None:
        """Take an entry in. Raises ValueError for one that cannot follow what was before."""
        self.newest_at = max(self.newest_at, entry.at)
        match entry:
            case Issued():
                self._apply_issued(entry)
            case Denied():
                self._apply_denied(entry)
            case Revoked():
                self._apply_revoked(entry)
            case Admitted():
                self._admitted.add(entry.chassis_id.lower())
            case NodeBound():
                self._apply_bound(entry)
            case TokenMade():
                self._apply_token(entry)
            case ServerIssued():
                self.servers[entry.serial] = entry
            case RootAdded():
                self._apply_root(entry)
            case SigningSwitched():
                self.signing, self.switched_at = entry.key_id, entry.at
            case RootRetired():
                del self.roots[entry.key_id]
            case Acknowledged():
                self.acknowledged[entry.chassis_id.lower()] = entry.at
            case Restored():
                # More entries than are here may be known of the same time, if it was a wrong one.
                self.newest_at += _SECOND
                self._void_tokens(self.tokens)

    def standing(self, csr: CsrFacts, requester: Requester, now: datetime) -> Standing:
        """All that bears on this request, for the policy."""
        token, presented = self._credentials(requester)
        if isinstance(requester, ByCertificate):
            claimed = presented.chassis_id.lower() if presented else ""
        else:
            claimed = requester.chassis_id.lower()
        live = tuple(self.live(claimed, now))
        same = [item for item in live if item.csr == csr.digest and item.issuer == self.signing]
        refusal = self.refusals.get(proof_of(csr, requester))
        serial = presented.serial if presented else ""
        return Standing(
            token=token,
            presented=presented,
            presented_revoked=serial in self.revoked,
            presented_replaced=serial in self._replaced,
            live=live,
            same_request=same[-1] if same else None,
            key_owners=self._key_owners.get(csr.key_digest, frozenset()),
            key_revoked=csr.key_digest in self._revoked_keys,
            spelling=self._spelling.get(claimed),
            refused_before=refusal.reasons if refusal else (),
            pinned=self.node_of.get(claimed) if live else None,
            other_ids=self._other_ids(requester, claimed, now),
            cut_off=claimed in self.denied_names and claimed not in self._admitted,
            recent=tuple(self._recent.get(claimed, ())),
            recent_unproven=tuple(self._unproven),
        )

    def live(self, chassis_id: str, now: datetime) -> Iterator[Issued]:
        """The id's certificates that are neither expired nor revoked, oldest first."""
        return (i for i in self.unexpired(chassis_id, now) if i.serial not in self.revoked)

    def unexpired(self, chassis_id: str, now: datetime) -> Iterator[Issued]:
        """The id's certificates, revoked or not, oldest first."""
        for serial in self._serials_of.get(chassis_id.lower(), ()):
            item = self.issued[serial]
            if now < item.not_after:
                yield item

    def known_ids(self) -> frozenset[str]:
        """Every id, in lower case, that ever had a certificate."""
        return frozenset(self._serials_of)

    def live_ids(self, now: datetime) -> frozenset[str]:
        """Every id, in lower case, that has a live certificate."""
        return frozenset(name for name in self._serials_of if any(self.live(name, now)))

    def ordered_roots(self) -> list[Root]:
        """The one that signs first."""
        return sorted(self.roots.values(), key=lambda root: root.key_id != self.signing)

    def bundle(self) -> tuple[bytes, ...]:
        """Every root, the one that signs first."""
        return tuple(root.der for root in self.ordered_roots())

    @property
    def newest_root(self) -> Root:
        """The one that was added last; while it does not sign, nodes are to acknowledge it."""
        return list(self.roots.values())[-1]

    def links(self) -> tuple[bytes, ...]:
        """In a roll-over: the new root signed by the old one, and the old one by the new."""
        return self.newest_root.cross if len(self.roots) > 1 else ()

    def on_crl(self, now: datetime) -> Iterator[tuple[str, datetime]]:
        """Serials of certificates that would still be valid, and when they were revoked.

        Who is denied by name needs none: of those who have the most they are left out when all
        together would make the CRL larger than nodes read.
        """
        left_out = self._left_out_of_crl(now)
        for serial, at in self.revoked.items():
            item = self.issued.get(serial) or self.servers.get(serial)
            if item is not None and now < item.not_after and serial not in left_out:
                yield serial, at

    def knows_serial(self, serial: str) -> bool:
        """Whether a certificate of this serial is on record and not long expired."""
        return serial in self.issued or serial in self.servers

    def forget_expired(self, now: datetime) -> None:
        """Drop certificates that expired a day ago and more. Keys keep their owners."""
        limit = now - _EXPIRED_KEPT
        for serial in [s for s, item in self.issued.items() if item.not_after < limit]:
            item = self.issued.pop(serial)
            self._serials_of[item.chassis_id.lower()].remove(serial)
            self._serial_by_der.pop(sha256(item.der).digest(), None)
            self._replaced.discard(serial)
        for serial in [s for s, item in self.servers.items() if item.not_after < limit]:
            del self.servers[serial]
        for serial in [s for s in self.revoked if not self.knows_serial(s)]:
            del self.revoked[serial]
        stale = [t for t in self.tokens.values() if t.expires < limit and t.used_for is None]
        for token in stale:
            del self.tokens[self._digest_by_handle.pop(token.handle)]

    def _left_out_of_crl(self, now: datetime) -> set[str]:
        of_denied = [
            [item.serial for item in self.unexpired(name, now) if item.serial in self.revoked]
            for name in self.denied_names
        ]
        left_out: set[str] = set()
        room = _DENIED_ON_CRL
        for serials in sorted(of_denied, key=len):
            room -= len(serials)
            if room < 0:
                left_out.update(serials)
        return left_out

    def _other_ids(self, requester: Requester, claimed: str, now: datetime) -> tuple[str, ...]:
        if not isinstance(requester, ByNode):
            return ()
        names = self._ids_of_node.get(requester.node, set()) - {claimed}
        return tuple(sorted(name for name in names if any(self.live(name, now))))

    def _credentials(self, requester: Requester) -> tuple[TokenStanding | None, Issued | None]:
        if isinstance(requester, ByToken):
            return self.tokens.get(token_digest(requester.chassis_id, requester.secret)), None
        if isinstance(requester, ByCertificate):
            serial = self._serial_by_der.get(sha256(requester.der).digest())
            return None, self.issued[serial] if serial else None
        return None, None

    def _apply_issued(self, entry: Issued) -> None:
        name = entry.chassis_id.lower()
        if entry.serial in self.issued:
            raise ValueError(f"serial {entry.serial} was given twice")
        self.issued[entry.serial] = entry
        self._serials_of.setdefault(name, []).append(entry.serial)
        self._serial_by_der[sha256(entry.der).digest()] = entry.serial
        self._key_owners[entry.key] = self._key_owners.get(entry.key, frozenset()) | {name}
        self._spelling.setdefault(name, entry.chassis_id)
        self._replaced.update(entry.replaces)
        self._admitted.discard(name)
        if self.denied_names.pop(name, None) is not None:
            self.revocations += 1
        self._note_request(name, entry.at)
        if entry.token:
            digest = self._digest_by_handle[entry.token]
            self.tokens[digest] = replace(self.tokens[digest], used_for=entry.csr)

    def _apply_denied(self, entry: Denied) -> None:
        self.refusals[entry.proof] = entry
        if len(self.refusals) > _REFUSALS_KEPT:
            del self.refusals[next(iter(self.refusals))]
        if entry.proven:
            self._note_request(entry.chassis_id.lower(), entry.at)
        else:
            self._unproven.append(entry.at)

    def _apply_revoked(self, entry: Revoked) -> None:
        self.revocations += 1
        for serial in entry.serials:
            self.revoked[serial] = entry.at
            if serial in self.issued:
                self._revoked_keys.add(self.issued[serial].key)
        if entry.node:
            name = entry.chassis_id.lower()
            self.denied_names[name] = entry.at
            self._admitted.discard(name)
            mine = [d for d, t in self.tokens.items() if t.chassis_id.lower() == name]
            self._void_tokens(mine)

    def _apply_token(self, entry: TokenMade) -> None:
        self.tokens[entry.digest] = TokenStanding(
            entry.handle, entry.chassis_id, entry.expires, entry.replace
        )
        self._digest_by_handle[entry.handle] = entry.digest

    def _apply_bound(self, entry: NodeBound) -> None:
        name = entry.chassis_id.lower()
        self._ids_of_node.get(self.node_of.get(name, ""), set()).discard(name)
        self.node_of[name] = entry.node
        self._ids_of_node.setdefault(entry.node, set()).add(name)

    def _apply_root(self, entry: RootAdded) -> None:
        certificate = x509.load_der_x509_certificate(entry.der)
        self.roots[entry.key_id] = Root(
            entry.key_id,
            entry.der,
            entry.cross,
            entry.at,
            certificate.not_valid_before_utc,
            certificate.not_valid_after_utc,
        )
        self.signing = self.signing or entry.key_id
        self.acknowledged.clear()

    def _void_tokens(self, digests: Iterable[str]) -> None:
        for digest in list(digests):
            if self.tokens[digest].used_for is None:
                self.tokens[digest] = replace(self.tokens[digest], void=True)

    def _note_request(self, name: str, at: datetime) -> None:
        self._recent.setdefault(name, deque(maxlen=_RECENT_KEPT)).append(at)

    @property
    def bundle_digest(self) -> str:
        """Names the present bundle."""
        return bundle_digest(tuple(root.der for root in self.roots.values()))


def proof_of(csr: CsrFacts, requester: Requester) -> str:
    """Digest of request and proof: what a refusal is final for."""
    if isinstance(requester, ByToken):
        proof = token_digest(requester.chassis_id, requester.secret)
    elif isinstance(requester, ByCertificate):
        proof = sha256(requester.der).hexdigest()
    elif isinstance(requester, ByNode):
        proof = " ".join([requester.node, requester.chassis_id, *requester.doubts])
    else:
        proof = f"{requester.chassis_id.lower()} {requester.replace}"
    return sha256(f"{proven_by(requester)} {proof} {csr.digest}".encode()).hexdigest()
