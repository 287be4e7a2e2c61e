"""A server that is tried until it can listen: whoever has its port must not end the agent."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ovn_ipsec.status.probes import ProbeServer

_log = logging.getLogger(__name__)

RETRY_S = 5.0


class Listener:
    """Has ``make`` make a server, now or as soon as it can, and closes it with ``close``."""

    def __init__(
        self, name: str, make: Callable[[], ProbeServer], retry_s: float = RETRY_S
    ) -> None:
        """``name``: the option and its value, for people."""
        self.problem: str | None = None
        """Why nobody listens, for any thread; it is the agent's to tell."""
        self._name = name
        self._make = make
        self._retry_s = retry_s
        self._server: ProbeServer | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_trying, name="listener", daemon=True)
        if not self._try():
            self._thread.start()

    def close(self) -> None:
        """Stop answering, and trying."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._server is not None:
            self._server.close()

    def _keep_trying(self) -> None:
        while not self._stop.wait(self._retry_s):
            if self._try():
                _log.info("%s: listens now", self._name)
                return

    def _try(self) -> bool:
        try:
            self._server = self._make()
        except OSError as error:
            self.problem = (
                f"{self._name}: cannot listen: {error.strerror or error}; is another agent "
                "running, or the port in use? It is tried again"
            )
            return False
        self.problem = None
        return True
