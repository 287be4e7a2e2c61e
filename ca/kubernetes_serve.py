"""``ovn-ipsec-ca serve-kubernetes``: replicas of which one leads, and what the leader runs."""

from __future__ import annotations

import logging
import secrets
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from ca import roots
from ca.desk import LocalDesk
from ca.errors import CaError
from ca.kubernetes_api import ApiError, connect
from ca.kubernetes_files import KubernetesFiles
from ca.kubernetes_lease import RENEW_S, Lease
from ca.kubernetes_nodes import Annotations, InventoryMap, Nodes
from ca.kubernetes_publish import Publisher
from ca.kubernetes_signer import Signer
from ca.roots import Serials
from ca.settings import CaSettings
from ca.store import Store

WORKERS = 32
"""Requests that are written to the log together share the time that this takes."""
LEASE_NAME = "ovn-ipsec-signer"
_LEASE_CONNECT_S = 1.0
_LEASE_ANSWER_S = 2.0
"""A renewal is two calls: a leader knows within 8 s that it has none, before the Lease is over."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    signer_name: str
    namespace: str
    """Of state, Lease and published ConfigMap."""
    state: str
    """Name of the state's Secret."""
    bundle: str
    """Name of the ConfigMap that nodes read."""
    accounts: frozenset[str]
    """The agents' ServiceAccounts, as NAMESPACE/NAME."""
    annotation: str
    """Of Nodes, with their chassis id."""
    inventory: tuple[str, str] | None
    """Namespace and name of a ConfigMap that says so instead."""


class Replica:
    """Leads when it can, and then answers requests."""

    def __init__(
        self,
        options: Options,
        new_authority: CaSettings,
        clock: Callable[[], datetime],
        serials: Serials,
    ) -> None:
        self._options = options
        self._new_authority = new_authority
        self._clock = clock
        self._serials = serials
        self._api = connect()
        lease_api = connect(_LEASE_CONNECT_S, _LEASE_ANSWER_S)
        identity = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self._lease = Lease(lease_api, options.namespace, LEASE_NAME, identity, clock)
        self._leading: threading.Event | None = None
        """Set to end what the leader runs."""
        self._term = 0
        self._broken = threading.Event()

    def run(self, stop: threading.Event) -> None:
        """Until ``stop``; then another replica may lead at once.

        Raises CaError when a part of it has ended that must not: a new process is the remedy.
        """
        _log.info("%s is waiting to lead", self._lease.identity)
        complained = False
        while not stop.is_set() and not self._broken.is_set():
            try:
                leads = self._lease.hold()
                complained = False
            except ApiError as error:
                leads = False
                if not complained:
                    _log.warning("the Lease: %s; trying again", error)
                complained = True
            if not leads or self._lease.terms != self._term:
                self._end()
            if leads and self._leading is None:
                self._begin()
            stop.wait(RENEW_S)
        self._end()
        try:
            self._lease.release()
        except ApiError as error:
            _log.warning("the Lease runs out by itself: %s", error)
        if self._broken.is_set():
            raise CaError("a thread of the signer has ended, the log says why; start it again")

    def _begin(self) -> None:
        self._leading = threading.Event()
        self._term = self._lease.terms
        _log.info("%s leads", self._lease.identity)
        self._start(partial(self._lead, self._leading))

    def _end(self) -> None:
        if self._leading is not None:
            _log.warning("%s leads no more", self._lease.identity)
            self._leading.set()
            self._leading = None

    def _lead(self, stop: threading.Event) -> None:
        """Open the state, again and again until it works, and start what works on it."""
        wait_s = 0.5
        while not stop.is_set():
            try:
                self._serve(self._open(), stop)
                return
            except (CaError, OSError) as error:
                _log.error("cannot serve: %s; trying again", error)
            except Exception:  # noqa: BLE001 (a leader that ends serving blocks all others)
                _log.exception("cannot serve; trying again")
            stop.wait(wait_s)
            wait_s = min(wait_s * 2, 10.0)

    def _open(self) -> LocalDesk:
        options = self._options
        files = KubernetesFiles(self._api, options.namespace, options.state)
        where = Path(options.state)
        if not files.exists():
            now = self._clock()
            roots.init_authority(files, where, self._new_authority, now, self._serials)
            _log.info("Secret %s/%s: a new authority", options.namespace, options.state)
        files.take(self._lease.identity)
        return LocalDesk(Store(files, where), self._clock, self._serials)

    def _serve(self, desk: LocalDesk, stop: threading.Event) -> None:
        options, api = self._options, self._api
        publisher = Publisher(api, desk, options.namespace, options.bundle)
        publisher.publish_first()
        chassis: Annotations | InventoryMap
        if options.inventory is None:
            chassis = annotations = Annotations(api, options.annotation)
            self._start(partial(annotations.run, stop))
            while not annotations.wait_listed(1.0):
                if stop.is_set():
                    return
        else:
            chassis = InventoryMap(api, *options.inventory)
        signer = Signer(api, desk, Nodes(api, options.accounts, chassis), options.signer_name)
        for task in (publisher.run, signer.watch, *[signer.work] * WORKERS):
            self._start(partial(task, stop))
        _log.info("answering requests of %s", options.signer_name)

    def _start(self, task: Callable[[], None]) -> None:
        """In a thread that does not keep the process alive: none needs an orderly end."""

        def run() -> None:
            try:
                task()
            except BaseException:
                # A leader that is deaf in one ear would keep the other replica from leading.
                self._broken.set()
                raise

        threading.Thread(target=run, daemon=True).start()


def serve(
    options: Options,
    new_authority: CaSettings,
    clock: Callable[[], datetime],
    serials: Serials,
) -> None:
    """Until SIGTERM or SIGINT, in the main thread.

    Raises UsageError when there is no cluster, and CaError (see ``Replica.run``).
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    Replica(options, new_authority, clock, serials).run(stop)
