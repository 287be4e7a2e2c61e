"""The roots to trust and the CRLs, as a ConfigMap that every node reads; kept current."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ca.desk import LocalDesk
from ca.directory import bundle_pem, to_pem
from ca.errors import CaError
from ca.kubernetes_api import Api, NotFound, path_of
from ca.requests import crls_pem

BUNDLE_KEY = "ca-bundle.pem"
CRL_KEY = "crl.pem"
_LOOK_S = 1.0
_HOUSE_S = 5.0
"""At most until the next look: an operator's command may have begun a roll-over."""
_REPAIR_S = 10.0
"""So often it is looked whether somebody else has changed the ConfigMap."""

_log = logging.getLogger(__name__)


class Publisher:
    """Does the authority's housekeeping, and publishes what comes of it."""

    def __init__(
        self,
        api: Api,
        desk: LocalDesk,
        namespace: str,
        name: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._desk = desk
        self._namespace, self._name = namespace, name
        self._path = path_of("configmaps", namespace, name)
        self._where = f"ConfigMap {namespace}/{name}"
        self._clock = clock
        self._published: dict[str, str] = {}
        self._checked = 0.0

    def run(self, stop: threading.Event) -> None:
        """Until ``stop``."""
        house_at = 0.0
        while not stop.is_set():
            try:
                if self._clock() >= house_at:
                    house_at = self._clock() + min(self._desk.keep_house(), _HOUSE_S)
                self.publish()
            except CaError as error:
                _log.warning("%s: %s; trying again", self._where, error)
            except Exception:  # noqa: BLE001 (the next root must reach the nodes all the same)
                _log.exception("%s: cannot be published", self._where)
            stop.wait(_LOOK_S)

    def publish_first(self) -> None:
        """Before the first certificate: who gets one must know its root.

        Raises ApiError and StoreError, unless nodes know the root that signs already.
        """
        try:
            self.publish()
        except CaError as error:
            if not self._root_is_published():
                raise
            _log.error("%s: %s; answering all the same", self._where, error)

    def _root_is_published(self) -> bool:
        """Raises ApiError and StoreError."""
        try:
            found = self._api.get(self._path)
        except NotFound:
            return False
        published = (found.get("data") or {}).get(BUNDLE_KEY, "")
        return to_pem(self._desk.bundle()[0]).decode() in published

    def publish(self) -> None:
        """Write what is new, or was changed by others. Raises ApiError and StoreError."""
        data = {
            BUNDLE_KEY: bundle_pem(self._desk).decode(),
            CRL_KEY: crls_pem(self._desk.crls()).decode(),
        }
        now = self._clock()
        if data == self._published and now < self._checked + _REPAIR_S:
            return
        try:
            found = self._api.get(self._path)
        except NotFound:
            metadata = {"name": self._name, "namespace": self._namespace}
            self._api.create(
                path_of("configmaps", self._namespace), {"metadata": metadata, "data": data}
            )
        else:
            present = found.get("data") or {}
            if {key: present.get(key) for key in data} != data:
                self._api.replace(self._path, {**found, "data": {**present, **data}})
        self._published, self._checked = data, now
