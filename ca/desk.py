"""The desk that front ends talk to: many threads ask, one at a time decides, signs and writes.

Requests that arrive while others are being written wait together; the first to get the turn
takes all of them through policy and signing, writes their entries with one sync, and then all
are answered (group commit). A certificate is handed out only after its entry is durable.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from ca import authority, roots
from ca.authority import Issuer, RevokedSerial
from ca.csr import CsrFacts, PublicKey, digest_of_key, key_fault, read_csr
from ca.entries import Acknowledged, Denied, Issued, NodeBound, ServerIssued
from ca.errors import CaError, RolloverError, StoreError
from ca.inventory import proof_of
from ca.lifetime import validity
from ca.policy import Grant, Refusal, Repeat, Rules, chassis_id_fault, decide, server_name_fault
from ca.requests import CaBusy, RequestDenied, Requester
from ca.rollover import Phase, Step, next_look, phase_of, step_due, survey
from ca.store import Batch, Store
from ca.unrecorded import Unrecorded

MAX_WAITING = 512
_MAX_TOGETHER = 64
_SERVER_NAMES = 32
_LOOK_EVERY = timedelta(seconds=60)
_LOOK_OFTEN = timedelta(seconds=1)
_FORGET_EVERY = 1000

_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")
Work = Callable[[Batch, datetime], _Answer]
"""Decides inside a transaction; what it adds to the batch is written even if it raises CaError."""


@dataclass(frozen=True, slots=True)
class _Published:
    """What anybody may know, ready to be handed out."""

    bundle: tuple[bytes, ...]
    digest: str
    cross: tuple[bytes, ...]
    crls: tuple[bytes, ...]
    """As the bundle is ordered."""
    crl_span: tuple[datetime, datetime]
    """From when until when they need not be made anew. A clock may have been ahead."""
    crl_inputs: tuple[tuple[bytes, ...], int]
    phase: Phase


class _Job:
    """One request that waits for its turn."""

    def __init__(self, work: Work[Any]) -> None:
        self.work = work
        self.done = False
        self.answer: Any = None
        self.error: BaseException | None = None

    def fail(self, error: BaseException) -> None:
        self.done, self.error = True, error


class LocalDesk:
    """``ca.requests.Desk`` on a state directory of this machine. Safe for threads."""

    def __init__(
        self, store: Store, clock: Callable[[], datetime], serials: roots.Serials
    ) -> None:
        self._store = store
        self._clock = clock
        self._serials = serials
        self._rules = Rules(requests_per_window=store.settings.requests_per_minute)
        self._waiting: deque[_Job] = deque()
        self._turn = threading.Lock()
        """Guards the store and everything read from it."""
        self._commits = _FORGET_EVERY
        self._swept = False
        self._warned: frozenset[str] = frozenset()
        self._crl_number = 0
        self._unrecorded = Unrecorded()
        self._published = self._publish(None)

    def sign(self, csr_der: bytes, requester: Requester) -> bytes:
        """See ``Desk``."""
        csr = read_csr(csr_der)  # the only part that needs no turn
        return self.submit(lambda batch, now: self._answer(batch, csr, requester, now))

    def bundle(self) -> tuple[bytes, ...]:
        """See ``Desk``."""
        return self._newest().bundle

    def cross(self) -> tuple[bytes, ...]:
        """See ``Desk``."""
        return self._newest().cross

    def crls(self) -> tuple[bytes, ...]:
        """See ``Desk``."""
        return self._newest().crls

    def server_certificate(
        self, public_key_der: bytes, names: tuple[str, ...]
    ) -> tuple[bytes, ...]:
        """See ``Desk``."""
        key, faults = _server_request(public_key_der, names)
        if faults or key is None:
            raise RequestDenied(faults)
        public_key = key
        return self.submit(lambda batch, now: self._sign_server(batch, public_key, names, now))

    def acknowledge(self, chassis_id: str, bundle_digest: str) -> None:
        """See ``Desk``."""
        published = self._newest()
        if published.phase is not Phase.PUBLISHED or bundle_digest != published.digest:
            return

        def work(batch: Batch, now: datetime) -> None:
            known = any(batch.inventory.live(chassis_id, now))
            if known and batch.inventory.bundle_digest == bundle_digest:
                _note_acknowledged(batch, chassis_id, now, renewal=False)

        self.submit(work)

    def keep_house(self) -> float:
        """See ``Desk``."""
        with self._turn:
            self._store.refresh()
            now = self._clock()
            rollover = survey(self._store.inventory, self._store.settings, now)
            self._unrecorded.tell(now)
        self._warn(rollover.laggards if rollover.overdue else ())
        step = step_due(rollover, now) if self._store.settings.automatic_rollover else None
        if step is not None:
            with contextlib.suppress(RolloverError):  # another process was faster
                self.take_step(step)
            return 0.0
        if rollover.phase is Phase.STEADY and not self._swept:
            # The process that retired a root may have ended before it destroyed the key.
            self.submit(lambda batch, now: self._store.sweep_keys())
            self._swept = True
        self._newest()
        longest = _LOOK_EVERY if rollover.phase is Phase.STEADY else _LOOK_OFTEN
        return next_look(rollover, now, longest).total_seconds()

    def take_step(self, step: Step, *, force: bool = False) -> None:
        """One step of the roll-over. Raises RolloverError when it may not be taken now."""

        def work(batch: Batch, now: datetime) -> None:
            if step is Step.START:
                roots.start(self._store, batch, now, self._serials)
            elif step is Step.SWITCH:
                roots.switch(self._store, batch, now, force=force)
            else:
                roots.retire(self._store, batch, now, force=force)

        self.submit(work)
        if step is Step.RETIRE:
            # Only now is it durable that the key is not needed.
            self.submit(lambda batch, now: self._store.sweep_keys())
        _log.info("CA roll-over: %s", step)

    def submit(self, work: Work[_Answer]) -> _Answer:
        """Run ``work`` in a transaction that it may share; returns when that is durable.

        Raises what the work raises, StoreError when writing fails, CaBusy when too many wait.
        """
        job = _Job(work)
        if len(self._waiting) >= MAX_WAITING:
            raise CaBusy(f"{MAX_WAITING} requests are waiting; come again", 1.0)
        self._waiting.append(job)
        while not job.done:
            with self._turn:
                if not job.done:
                    self._serve_waiting()
        if job.error is not None:
            raise job.error
        answer: _Answer = job.answer
        return answer

    def _serve_waiting(self) -> None:
        """Answer a group of those who wait. The caller has the turn."""
        jobs = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MAX_TOGETHER))]
        try:
            with self._store.transaction() as batch:
                now = self._clock()
                answers = [_try(job.work, batch, now) for job in jobs]
            self._commits += len(batch.entries)
            if batch.entries:
                self._published = self._publish(self._published)
        except CaError as error:
            for job in jobs:
                job.fail(error)
            return
        except BaseException:
            for job in jobs:
                job.fail(StoreError("an internal error; the log of the server tells more"))
            raise
        for job, (answer, refusal) in zip(jobs, answers, strict=True):
            job.answer, job.error = answer, refusal
            job.done = True

    def _answer(self, batch: Batch, csr: CsrFacts, requester: Requester, now: datetime) -> bytes:
        standing = batch.inventory.standing(csr, requester, now)
        outcome = decide(csr, requester, standing, self._rules, now)
        match outcome:
            case Repeat(issued):
                return issued.der
            case Refusal():
                if not outcome.fresh and not standing.refused_before:
                    self._unrecorded.note(outcome)
                self._record_refusal(batch, csr, requester, outcome, now)
                raise RequestDenied(outcome.reasons)
            case Grant():
                return self._sign(batch, csr, outcome, now)

    def _record_refusal(
        self, batch: Batch, csr: CsrFacts, requester: Requester, refusal: Refusal, now: datetime
    ) -> None:
        if not refusal.fresh:
            return
        no_id = not refusal.proven and chassis_id_fault(refusal.chassis_id)
        batch.add(
            Denied(
                now,
                "" if no_id else refusal.chassis_id[:64],
                refusal.how,
                csr.digest,
                proof_of(csr, requester),
                refusal.proven,
                refusal.recorded or refusal.reasons,
            )
        )

    def _sign(self, batch: Batch, csr: CsrFacts, grant: Grant, now: datetime) -> bytes:
        issuer, span, serial = self._prepare(batch, now)
        leaf = authority.build_leaf(
            grant.chassis_id,
            grant.public_key,
            issuer,
            self._store.settings.organization,
            span,
            serial,
        )
        der = leaf.public_bytes(Encoding.DER)
        if grant.node and batch.inventory.node_of.get(grant.chassis_id.lower()) != grant.node:
            batch.add(NodeBound(now, grant.chassis_id, grant.node))
        batch.add(
            Issued(
                now,
                serial,
                grant.chassis_id,
                grant.how,
                csr.digest,
                csr.key_digest,
                batch.inventory.signing,
                *span,
                der,
                grant.token,
                grant.replaces,
            )
        )
        if phase_of(batch.inventory) is Phase.PUBLISHED:
            _note_acknowledged(batch, grant.chassis_id, now, renewal=True)
        return der

    def _sign_server(
        self, batch: Batch, key: PublicKey, names: tuple[str, ...], now: datetime
    ) -> tuple[bytes, ...]:
        issuer, span, serial = self._prepare(batch, now)
        organization = self._store.settings.organization
        leaf = authority.build_server_leaf(names, key, issuer, organization, span, serial)
        der = leaf.public_bytes(Encoding.DER)
        digest, signing = digest_of_key(key), batch.inventory.signing
        batch.add(ServerIssued(now, serial, names, digest, signing, *span, der))
        if phase_of(batch.inventory) is Phase.SWITCHED:
            return (der, *batch.inventory.links()[:1])  # the old root vouches for the new one
        return (der,)

    def _prepare(
        self, batch: Batch, now: datetime
    ) -> tuple[Issuer, tuple[datetime, datetime], str]:
        issuer = self._store.issuer(batch.inventory.signing)
        span = validity(now, self._store.settings.leaf_life, issuer.validity)
        if now < issuer.validity[0]:
            raise StoreError(
                f"the root that signs is valid only from {issuer.validity[0]}, and it is {now}: "
                "set the clock right; if it was wrong when the root was made, roll over to a new "
                "one: ovn-ipsec-ca rotate-ca start, then switch --force"
            )
        if now >= issuer.validity[1]:
            raise StoreError(
                f"the root that signs has expired at {issuer.validity[1]}; roll over to a new "
                "one: ovn-ipsec-ca rotate-ca start, then switch --force"
            )
        serial = self._serials()
        while batch.inventory.knows_serial(serial):
            serial = self._serials()
        return issuer, span, serial

    def _newest(self) -> _Published:
        """What is published now. Waits for nobody: who has the turn will publish."""
        published = self._published
        stale = not _within(published.crl_span, self._clock())
        if (self._store.has_news() or stale) and self._turn.acquire(blocking=False):
            try:
                self._store.refresh()
                self._published = self._publish(published)
            finally:
                self._turn.release()
        return self._published

    def _publish(self, before: _Published | None) -> _Published:
        """Collect what is published. The caller has the turn."""
        now = self._clock()
        inventory = self._store.inventory
        if self._commits >= _FORGET_EVERY:
            inventory.forget_expired(now)
            self._commits = 0
        bundle = inventory.bundle()
        inputs = (bundle, inventory.revocations)
        phase = phase_of(inventory)
        if before and before.crl_inputs == inputs and _within(before.crl_span, now):
            crls, crl_span = before.crls, before.crl_span
        else:
            crls, crl_span = self._build_crls(now)
        return _Published(
            bundle,
            inventory.bundle_digest,
            inventory.links(),
            crls,
            crl_span,
            inputs,
            phase,
        )

    def _build_crls(self, now: datetime) -> tuple[tuple[bytes, ...], tuple[datetime, datetime]]:
        inventory, life = self._store.inventory, timedelta(seconds=self._store.settings.crl_life_s)
        revoked = [RevokedSerial(serial, at) for serial, at in inventory.on_crl(now)]
        number = authority.crl_number(inventory.newest_at, self._store.head.count, now)
        self._crl_number = number = max(number, self._crl_number + 1)
        span = validity(now, life)
        crls = []
        for root in inventory.ordered_roots():
            issuer = self._store.issuer(root.key_id)
            crl = authority.build_crl(issuer, revoked, inventory.denied_names, number, span)
            crls.append(crl.public_bytes(Encoding.DER))
        return tuple(crls), (span[0], now + life / 2)

    def _warn(self, laggards: tuple[str, ...]) -> None:
        if laggards and frozenset(laggards) != self._warned:
            _log.warning(
                "CA roll-over: past its deadline, %d live nodes have not acknowledged the new "
                "root: %s",
                len(laggards),
                ", ".join(laggards[:10]),
            )
        self._warned = frozenset(laggards)


def _within(span: tuple[datetime, datetime], now: datetime) -> bool:
    return span[0] <= now < span[1]


def _try(work: Work[Any], batch: Batch, now: datetime) -> tuple[Any, CaError | None]:
    try:
        return work(batch, now), None
    except CaError as error:
        return None, error


def _note_acknowledged(batch: Batch, chassis_id: str, now: datetime, *, renewal: bool) -> None:
    if chassis_id.lower() not in batch.inventory.acknowledged:
        digest = batch.inventory.bundle_digest
        batch.add(Acknowledged(now, chassis_id, digest, renewal))


def _server_request(
    public_key_der: bytes, names: tuple[str, ...]
) -> tuple[PublicKey | None, tuple[str, ...]]:
    faults = [fault for name in names if (fault := server_name_fault(name))]
    if not 1 <= len(names) <= _SERVER_NAMES:
        faults.append(f"{len(names)} server names: give 1 to {_SERVER_NAMES}")
    try:
        key = load_der_public_key(public_key_der)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        return None, (*faults, f"the public key cannot be read: {error}")
    if fault := key_fault(key):
        faults.append(fault)
    return key if isinstance(key, PublicKey) else None, tuple(faults)
