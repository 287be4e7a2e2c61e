"""The node's side: tells the agent what the cluster wants, and the cluster how the node is."""

from __future__ import annotations

import http.client
import json
import logging
from collections.abc import Callable
from typing import Any

from ovn_ipsec.cluster.databases import GUARD_MODE_KEY, LocalSwitch, Southbound
from ovn_ipsec.cluster.report import Report, make_report, same
from ovn_ipsec.cluster.stages import GuardStage
from ovn_ipsec.errors import ClusterError

LOOK_S = 15.0
AGAIN_S = 300.0
"""A report is written so often also when nothing has changed."""
_AGENT_TIMEOUT_S = 5.0
_ANSWER_MOST = 1 << 22

_log = logging.getLogger(__name__)


class Follower:
    """One node's. ``clock``: Unix time."""

    def __init__(
        self,
        switch: LocalSwitch,
        southbound: str | None,
        agent: tuple[str, int],
        clock: Callable[[], float],
    ) -> None:
        """``southbound`` None: what ``external_ids:ovn-remote`` says."""
        self._switch = switch
        self._southbound = southbound
        self._agent = agent
        self._clock = clock
        self._written: Report | None = None
        self._said = ""

    def follow(self, wait: Callable[[float], bool], chance: Callable[[], float]) -> None:
        """Until told to end. ``chance``: numbers from 0 up to 1, so that nodes drift apart."""
        while True:
            try:
                self.look()
                said = ""
            except ClusterError as error:
                said = str(error)
            if said and said != self._said:
                _log.warning("%s; the guard stays as it was told", said)
            elif self._said and not said:
                _log.info("The southbound database is followed again")
            self._said = said
            if wait(LOOK_S * (0.75 + 0.5 * chance())):
                return

    def look(self) -> Report:
        """Pass on what is new, both ways. Raises ClusterError."""
        external_ids, other_config = self._switch.settings()
        chassis = external_ids.get("system-id", "")
        remote = self._southbound or external_ids.get("ovn-remote", "")
        if not chassis or not remote:
            raise ClusterError("Open_vSwitch:external_ids lacks system-id or ovn-remote")
        southbound = Southbound(remote)
        stage, ipsec = southbound.heard()
        wanted = stage if stage in list(GuardStage) else ""
        if wanted != other_config.get(GUARD_MODE_KEY, ""):
            self._switch.set_guard_mode(wanted)
            _log.info("Guard: the cluster says %s", wanted or "nothing")
        report = make_report(
            (wanted, ipsec), self._switch.ovn_tunnels(), self._ask_agent(), self._clock()
        )
        due = self._written is None or abs(report.at_s - self._written.at_s) >= AGAIN_S
        if due or not same(report, self._written):
            southbound.write_report(chassis, report)
            self._written = report
        return report

    def _ask_agent(self) -> dict[str, Any] | None:
        connection = http.client.HTTPConnection(*self._agent, timeout=_AGENT_TIMEOUT_S)
        try:
            connection.request("GET", "/readyz?format=json")
            value = json.loads(connection.getresponse().read(_ANSWER_MOST))
        except (OSError, ValueError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return value if isinstance(value, dict) else None
