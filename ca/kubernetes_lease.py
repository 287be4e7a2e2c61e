"""Which of several replicas leads: one Lease of coordination.k8s.io/v1, which the leader renews.

Clocks of different machines are not compared: a Lease is over when it has not changed for its
duration on the watcher's own clock. So a leader that cannot renew stops leading well before
anybody else may begin. What it still does in between must be harmless: the state's Secret is
fenced by its version (``ca.kubernetes_files``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime

from ca.kubernetes_api import Api, ApiError, Conflict, Json, NotFound, path_of

GROUP = "coordination.k8s.io/v1"
DURATION_S = 10
RENEW_S = 2.0
GIVE_UP_S = 6.0
"""A leader that has not renewed for this long leads no more."""


class Lease:
    """One replica's view of the Lease."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        identity: str,
        wall_clock: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._namespace, self._name = namespace, name
        self._path = path_of("leases", namespace, name, GROUP)
        self.identity = identity
        self._wall_clock, self._clock = wall_clock, clock
        self._seen = ("", 0.0)
        self._renewed = -math.inf
        self.terms = 0
        """How often this replica has taken the Lease. In between others may have led."""

    def hold(self) -> bool:
        """Renew it, or take it if it is free or over; whether this replica leads.

        While the API server does not answer, a leader leads on for GIVE_UP_S. Raises ApiError
        when this replica does not lead and cannot know who does.
        """
        asked = self._clock()
        try:
            held = self._try()
        except ApiError:
            if not self._fresh():
                raise
            return True
        self._renewed = asked if held else -math.inf
        return held and self._fresh()

    def release(self) -> None:
        """Let another replica lead at once. Raises ApiError."""
        lease = self._api.get(self._path)
        if lease["spec"].get("holderIdentity") == self.identity:
            lease["spec"]["holderIdentity"] = ""
            self._api.replace(self._path, lease)

    def _fresh(self) -> bool:
        return self._clock() - self._renewed < GIVE_UP_S

    def _try(self) -> bool:
        try:
            lease = self._api.get(self._path)
        except NotFound:
            lease = {}
        metadata, spec = lease.get("metadata", {}), lease.get("spec", {})
        holder = spec.get("holderIdentity") or ""
        if metadata.get("resourceVersion", "") != self._seen[0]:
            self._seen = metadata.get("resourceVersion", ""), self._clock()
        over = self._clock() - self._seen[1] >= spec.get("leaseDurationSeconds", DURATION_S)
        if holder not in ("", self.identity) and not over:
            return False
        new = holder != self.identity
        try:
            self._write(lease, spec, new=new)
        except Conflict:
            return False
        self.terms += new
        return True

    def _write(self, lease: Json, spec: Json, *, new: bool) -> None:
        now = self._wall_clock().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        body = {**spec, "holderIdentity": self.identity, "leaseDurationSeconds": DURATION_S}
        body["renewTime"] = now
        if new:
            body["acquireTime"] = now
            body["leaseTransitions"] = spec.get("leaseTransitions", 0) + 1
        if lease:
            self._api.replace(self._path, {**lease, "spec": body})
            return
        metadata = {"name": self._name, "namespace": self._namespace}
        whole = {"metadata": metadata, "spec": body}
        self._api.create(path_of("leases", self._namespace, group=GROUP), whole)
