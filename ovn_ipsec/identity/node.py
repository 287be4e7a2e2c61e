"""The enrolment process: looks at the world, has the next step planned, takes it, for ever.

Which step is next is the planner's; this module knows how each is taken.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from cryptography import x509

from ovn_ipsec.errors import (
    BusyError,
    EnrolmentError,
    RefusedError,
    SettingsError,
    UntrustedError,
)
from ovn_ipsec.identity.certificates import (
    Identity,
    bundle_digest,
    check,
    common_name,
    denied_names,
    fingerprint,
    load_certificate,
    make_key,
    make_request,
)
from ovn_ipsec.identity.drop import DropDirectory
from ovn_ipsec.identity.est import Credentials, EstServer, Roots
from ovn_ipsec.identity.generations import Generations
from ovn_ipsec.identity.kubernetes import KubernetesWay
from ovn_ipsec.identity.model import (
    Acknowledge,
    Action,
    Decision,
    DropPending,
    Facts,
    Generation,
    KeyKind,
    Level,
    Memory,
    Obtain,
    Point,
    Prepare,
    Prune,
    RefreshBundle,
    Timing,
    Way,
)
from ovn_ipsec.identity.ovsdb import NodeDatabase, NodeSettings
from ovn_ipsec.identity.plan import (
    after_bundle,
    after_failure,
    after_success,
    plan,
    renewal_moment,
)
from ovn_ipsec.identity.settings import EnrollSettings
from ovn_ipsec.identity.token import JoinToken, parse_token

_LOG = logging.getLogger(__name__)
_TOKEN_SEEN = "token_sha256"  # noqa: S105 (a key)


class Database(Protocol):
    """Open vSwitch's settings (``ovn_ipsec.identity.ovsdb.NodeDatabase``)."""

    def read(self) -> NodeSettings:
        """The settings now. Raises EnrolmentError."""

    def set_other_config(self, values: Mapping[str, str]) -> None:
        """Set these keys in one transaction. Raises EnrolmentError."""


class Courier(Protocol):
    """Carries the request to the authority instead of this process."""

    def obtain(self, csr_der: bytes, name: str) -> x509.Certificate:
        """The certificate. Raises BusyError until it is there, RefusedError, EnrolmentError."""

    def roots(self) -> Roots:
        """Whom to trust. Raises BusyError until they are known, EnrolmentError."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What enrolment works with."""

    database: Database
    generations: Generations
    clock: Callable[[], datetime]
    """UTC."""
    server: EstServer | None = None
    token_file: Path | None = None
    courier: Courier | None = None
    deny_list: Path | None = None
    """The file, for a process that keeps it up to date."""


class Enrolment:
    """One node's. Not thread-safe, but for ``credentials``."""

    def __init__(
        self, parts: Parts, key_kind: KeyKind = KeyKind.RSA_3072, timing: Timing | None = None
    ) -> None:
        self._parts = parts
        self._key_kind = key_kind
        self._timing = timing or Timing()
        self._memory = Memory(token_seen=_token_seen(parts.generations))
        self._said: tuple[Level, str] | None = None
        self._said_of_token = ""
        self._state = ""
        self._own: Credentials | None = None

    def credentials(self) -> Credentials | None:
        """Of the identity in use, None while there is none. May be called from any thread."""
        return self._own

    def step(self) -> Decision:
        """Look, decide, and do one thing; with no action in the decision nothing is due."""
        now = self._parts.clock()
        facts = self._facts()
        decision = plan(facts, self._memory, now, self._timing)
        if decision.current is None and facts.token is not None:
            # On disk before it is used: after a crash it must not pass for another one.
            self._memory = replace(self._memory, token_seen=facts.token)
        self._publish(facts, decision, now)
        current = decision.current
        self._own = self._credentials(current.number) if current else None
        if decision.action is not None:
            self._take(decision.action, facts, current)
        return decision

    def _facts(self) -> Facts:
        generations, damaged = self._parts.generations.survey()
        try:
            settings = self._parts.database.read()
        except EnrolmentError as error:
            problem = str(error)
            return Facts(None, problem, generations=generations, damaged=damaged)
        chassis_id = settings.external_ids.get("system-id") or None
        courier = self._parts.courier
        token = self._token(chassis_id or "")
        return Facts(
            chassis_id,
            None if chassis_id else "Open_vSwitch:external_ids has no system-id yet",
            pointed_at=self._pointed_at(settings, generations),
            generations=generations,
            damaged=damaged,
            pending=self._parts.generations.pending(),
            ways=self._ways(token),
            heard=courier.heard if isinstance(courier, KubernetesWay) else None,
            token=token.digest if token else None,
            denied=self._denied(chassis_id or ""),
        )

    def _pointed_at(
        self, settings: NodeSettings, generations: tuple[Generation, ...]
    ) -> int | None:
        for generation in generations:
            wanted = self._parts.generations.paths(generation.number)
            if wanted.items() <= settings.other_config.items():
                return generation.number
        return None

    def _denied(self, chassis_id: str) -> bool:
        path = self._parts.deny_list
        try:
            return path is not None and chassis_id.lower() in denied_names(path.read_bytes())
        except OSError:
            return False  # who follows the list tells what is wrong with it

    def _ways(self, token: JoinToken | None) -> frozenset[Way]:
        if isinstance(self._parts.courier, KubernetesWay):
            return frozenset({Way.KUBERNETES})
        if self._parts.courier is not None:
            return frozenset({Way.DIRECTORY})
        return frozenset({Way.CERTIFICATE, Way.TOKEN} if token else {Way.CERTIFICATE})

    def _token(self, chassis_id: str) -> JoinToken | None:
        """The token, if there is a readable one for this node."""
        path = self._parts.token_file
        if path is None:
            return None
        try:
            token = read_token(path)
        except EnrolmentError as error:
            # That it is gone is nothing to tell: it may be deleted after its use.
            said = str(error) if path.exists() else ""
            if said and said != self._said_of_token:
                _LOG.warning("%s: %s", path, said)
            self._said_of_token = said
            return None
        return token if token.chassis_id.lower() == chassis_id.lower() else None

    def _take(self, action: Action, facts: Facts, current: Generation | None) -> None:
        try:
            self._do(action, facts)
        except EnrolmentError as error:
            refused = isinstance(error, RefusedError)
            window = current.not_after - renewal_moment(current) if current else None
            self._memory = after_failure(
                self._memory,
                action,
                str(error),
                self._parts.clock(),  # a timeout may have passed since
                timing=self._timing,
                window=window,
                retry_after_s=error.retry_after_s if isinstance(error, BusyError) else 0.0,
                refused=refused,
                untrusted=isinstance(error, UntrustedError),
                seed=facts.chassis_id or "",
            )
            _LOG.debug("%s: %s", type(action).__name__, error)
            if refused and isinstance(action, Obtain):
                # The same request would be refused for ever; the next is for another key.
                self._parts.generations.drop_pending()
        else:
            self._memory = after_success(self._memory, action, self._parts.clock())

    def _do(self, action: Action, facts: Facts) -> None:
        generations = self._parts.generations
        match action:
            case Prepare(name):
                key = make_key(self._key_kind)
                generations.keep_pending(key, make_request(key, name))
            case DropPending(name):
                if isinstance(self._parts.courier, DropDirectory):
                    self._parts.courier.forget(name)
                generations.drop_pending()
            case Prune(numbers):
                for number in numbers:
                    generations.prune(number)
            case Point(number):
                self._parts.database.set_other_config(generations.paths(number))
                _LOG.info("OVSDB names generation %d of this node's identity", number)
            case Obtain():
                self._obtain(action, facts.chassis_id or "")
            case RefreshBundle(current):
                self._refresh(current)
            case Acknowledge(current, digest):
                if self._parts.server is not None:
                    self._parts.server.acknowledge(digest, self._credentials(current))

    def _obtain(self, action: Obtain, name: str) -> None:
        waiting = self._parts.generations.waiting_request()
        certificate, roots = self._answer(action, waiting.csr_der, name)
        now = (
            self._parts.clock()
        )  # of the answer: the certificate may be younger than the question
        self._memory = after_bundle(self._memory, roots.signing_root, now)
        identity = Identity(waiting.key_pem, certificate, roots.bundle)
        check(identity, name, now)
        number = self._parts.generations.install(identity)
        end = certificate.not_valid_after_utc.isoformat()
        _LOG.info("Generation %d of %s's identity is installed, valid until %s", number, name, end)

    def _answer(self, action: Obtain, csr_der: bytes, name: str) -> tuple[x509.Certificate, Roots]:
        courier, server = self._parts.courier, self._parts.server
        if courier is not None:
            return courier.obtain(csr_der, name), courier.roots()
        if server is None:
            raise EnrolmentError("no authority is named: give --url or --drop-directory")
        if action.way is Way.CERTIFICATE and action.current is not None:
            own = self._credentials(action.current)
            der = server.reenroll(csr_der, own)
            return load_certificate(der), server.roots(own)
        token = self._token(name)
        if token is None or token.digest != action.token:
            raise EnrolmentError("the join token is gone, or another one now")
        root = server.first_contact(token)
        der = server.enroll(csr_der, token, root)
        return load_certificate(der), server.roots(root)

    def _refresh(self, current: int) -> None:
        if self._parts.courier is not None:
            roots = self._parts.courier.roots()
        elif self._parts.server is not None:
            roots = self._parts.server.roots(self._credentials(current))
        else:
            return
        now = self._parts.clock()
        self._memory = after_bundle(self._memory, roots.signing_root, now)
        present = self._parts.generations.load(current)
        if bundle_digest(roots.bundle) == bundle_digest(present.bundle):
            return
        identity = replace(present, bundle=roots.bundle)
        check(identity, common_name(present.certificate.subject), now)
        number = self._parts.generations.install(identity)
        names = ", ".join(fingerprint(root)[:16] for root in roots.bundle)
        _LOG.info("Generation %d trusts the roots %s", number, names)

    def _credentials(self, number: int) -> Credentials:
        paths = self._parts.generations.paths(number)
        return Credentials(
            Path(paths["ca_cert"]), Path(paths["certificate"]), Path(paths["private_key"])
        )

    def _publish(self, facts: Facts, decision: Decision, now: datetime) -> None:
        """One log line and one state file per change."""
        said = (decision.level, decision.reason)
        if said != self._said:
            self._said = said
            loud = decision.level is Level.ALARM
            _LOG.log(
                logging.WARNING if loud else logging.INFO,
                "Identity: %s: %s",
                decision.level.value,
                decision.reason,
            )
        current = decision.current
        state = {
            "state": decision.level.value,
            "reason": decision.reason,
            "chassis_id": facts.chassis_id,
            "generation": current.number if current else None,
            "in_ovsdb": facts.pointed_at,
            "not_after": current.not_after.isoformat() if current else None,
            "renew_at": decision.renew_at.isoformat() if decision.renew_at else None,
            _TOKEN_SEEN: self._memory.token_seen,
        }
        text = json.dumps(state, indent=2) + "\n"
        if text != self._state:
            try:
                self._parts.generations.write_state(text)
                self._state = text
            except EnrolmentError as error:
                _LOG.debug("%s", error)


def build_courier(settings: EnrollSettings) -> DropDirectory | KubernetesWay | None:
    """Who carries the request; None: this process does, to ``--url``."""
    if settings.cluster is not None:
        # Not at the top: the client is an extra, large, and of no use on other ways.
        try:
            from ovn_ipsec.identity.kubernetes_api import ClusterApi
        except ImportError as error:
            raise SettingsError(
                f"--kubernetes: {error}; install it with: pip install 'ovn-ipsec[kubernetes]'"
            ) from error
        kubeconfig = settings.kubeconfig
        return KubernetesWay(settings.cluster, lambda: ClusterApi(kubeconfig))
    return DropDirectory(settings.drop_directory) if settings.drop_directory else None


def build_enrolment(
    settings: EnrollSettings,
    generations: Generations,
    clock: Callable[[], datetime],
    courier: DropDirectory | KubernetesWay | None,
) -> Enrolment:
    """The process that the settings describe."""
    server = EstServer(settings.url, settings.server_name) if settings.url else None
    database = NodeDatabase(settings.database)
    # Nobody follows the list for --once: what an old file says must not keep a pod from starting.
    deny_list = None if settings.once else settings.directory / "crl.pem"
    parts = Parts(database, generations, clock, server, settings.token_file, courier, deny_list)
    timing = Timing(bundle_interval=timedelta(seconds=settings.bundle_interval_s))
    return Enrolment(parts, settings.key_kind, timing)


Wait = Callable[[float], bool]
"""Waits for some seconds; True when the process shall end."""

_REPEATED_S = 1.0
_FAULT_S = 60.0
_GRACE = timedelta(seconds=60)


def run(enrolment: Enrolment, clock: Callable[[], datetime], wait: Wait) -> None:
    """Keep the node's identity in order until told to end."""
    before: Action | None = None
    fault = ""
    while True:
        try:
            decision = enrolment.step()
        except Exception as error:  # noqa: BLE001 (a bug must not leave the node without renewals)
            if repr(error) != fault:
                _LOG.exception("Identity: a fault; it is tried again every %d s", _FAULT_S)
            fault, before = repr(error), None
            if wait(_FAULT_S):
                return
            continue
        fault = ""
        pause_s = 0.0
        if decision.action is None:
            pause_s = max(0.0, (decision.wake_at - clock()).total_seconds())
        elif decision.action == before:
            # It was done, and is to be done again: somebody else undoes it.
            pause_s = _REPEATED_S
        before = decision.action
        if wait(pause_s):
            return


def run_once(
    enrolment: Enrolment, clock: Callable[[], datetime], wait: Wait, timeout_s: float
) -> Decision:
    """Until an identity is in place and what is due has been tried, or time is up."""
    end = clock() + timedelta(seconds=timeout_s)
    while True:
        decision = enrolment.step()
        if decision.action is None and decision.in_place:
            return decision
        now = clock()
        pause_s = 0.0
        if decision.action is None:
            pause_s = min((decision.wake_at - now).total_seconds(), (end - now).total_seconds())
        # What has been begun is ended, so that the last decision knows how it went.
        over = now >= end and (decision.action is None or now >= end + _GRACE)
        if over or wait(max(0.0, pause_s)):
            return decision


def _token_seen(generations: Generations) -> str | None:
    """What an earlier process remembered in ``state.json``."""
    try:
        seen = json.loads(generations.read_state())[_TOKEN_SEEN]
    except (EnrolmentError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return seen if isinstance(seen, str) else None


def read_token(path: Path) -> JoinToken:
    """The join token in a file. Raises EnrolmentError, which shows nothing of it."""
    try:
        with path.open("rb") as file:
            text = file.read(4096).decode("utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise EnrolmentError(f"--token-file {path}: cannot be read: {reason}") from error
    return parse_token(text)
