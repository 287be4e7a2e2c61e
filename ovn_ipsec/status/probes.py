"""Health for kubelet and people: a small HTTP server on loopback, with a thread of its own.

========== ==================================================== =================
/livez     the agent's loop turns                               200, 503
/startupz  the first complete look at the node has been made    200, 503
/readyz    the node is ready (``ovn_ipsec.status.readiness``)   200, 503
/status    everything that ``tunnels/show`` tells, as JSON      200
/metrics   the same in numbers, for Prometheus                  200
========== ==================================================== =================

``?format=json`` gives the first three as JSON. Answers come from the last snapshot: they never
wait, also while the loop does.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import socketserver
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from ovn_ipsec.model.snapshot import Snapshot
from ovn_ipsec.settings import ReadyWhen
from ovn_ipsec.status.json_report import JsonValue, json_tunnels
from ovn_ipsec.status.readiness import json_readiness, readiness, render_readiness, started

_log = logging.getLogger(__name__)

LIVE_MARGIN_S = 60.0
"""Above the longest that one program may take: a bulk load is not death."""
MAX_CLIENTS = 32
_READ_TIMEOUT_S = 5.0


class Watched(Protocol):
    """What the probes may ask of the agent. Every method may be called by any thread."""

    def snapshot(self) -> Snapshot:
        """The last one, at once."""

    def want_fresh(self) -> None:
        """Somebody reads the state: take a newer snapshot soon. Returns at once."""

    def last_progress_s(self) -> float:
        """When the loop last did something, on the monotonic clock."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client gets."""

    ok: bool
    text: str
    value: Mapping[str, JsonValue]


class Probes:
    """Answers by path. ``longest_call_s``: how long one program may take."""

    def __init__(self, watched: Watched, when: ReadyWhen, longest_call_s: float) -> None:
        self._watched = watched
        self._when = when
        self._live_s = longest_call_s + LIVE_MARGIN_S
        self._answers: Mapping[str, Callable[[float], Answer]] = {
            "/livez": self._live,
            "/startupz": self._startup,
            "/readyz": self._ready,
            "/status": self._status,
        }

    def answer(self, target: str, now_s: float) -> tuple[HTTPStatus, str, str]:
        """Status, media type and body for a request target (RFC 9112, section 3.2)."""
        path, _, query = target.partition("?")
        if path == "/metrics":
            return self._metrics(now_s)
        ask = self._answers.get(path)
        if ask is None:
            known = " ".join([*self._answers, "/metrics"])
            return HTTPStatus.NOT_FOUND, "text/plain", f"no such page; there are {known}\n"
        answer = ask(now_s)
        status = HTTPStatus.OK if answer.ok else HTTPStatus.SERVICE_UNAVAILABLE
        if not answer.text or "format=json" in query.split("&"):
            return status, "application/json", json.dumps(answer.value) + "\n"
        return status, "text/plain", answer.text

    def _metrics(self, now_s: float) -> tuple[HTTPStatus, str, str]:
        try:
            from ovn_ipsec.status.metrics import CONTENT_TYPE, render_metrics
        except ImportError:
            text = "metrics need prometheus_client: pip install ovn-ipsec[metrics]\n"
            return HTTPStatus.NOT_IMPLEMENTED, "text/plain", text
        self._watched.want_fresh()
        return (
            HTTPStatus.OK,
            CONTENT_TYPE,
            render_metrics(self._watched.snapshot(), now_s).decode(),
        )

    def _live(self, now_s: float) -> Answer:
        age_s = max(0.0, now_s - self._watched.last_progress_s())
        ok = age_s < self._live_s
        word = "alive" if ok else "stuck"
        text = f"{word}: the loop got on {age_s:.1f} s ago; {self._live_s:.0f} s are allowed\n"
        return Answer(ok, text, {"alive": ok, "progress_age_s": round(age_s, 3)})

    def _startup(self, now_s: float) -> Answer:
        reasons = started(self._watched.snapshot())
        lines = ["starting" if reasons else "started", *(f"reason: {why}" for why in reasons)]
        text = "".join(f"{line}\n" for line in lines)
        return Answer(not reasons, text, {"started": not reasons, "reasons": list(reasons)})

    def _ready(self, now_s: float) -> Answer:
        snapshot = self._watched.snapshot()
        verdict = readiness(snapshot, now_s, self._when)
        return Answer(
            verdict.ready,
            render_readiness(verdict, snapshot),
            json_readiness(verdict, snapshot, now_s),
        )

    def _status(self, now_s: float) -> Answer:
        self._watched.want_fresh()
        return Answer(True, "", json_tunnels(self._watched.snapshot(), now_s) or {})


class Answers(Protocol):
    """What the server serves."""

    def answer(self, target: str, now_s: float) -> tuple[HTTPStatus, str, str]:
        """Status, media type and body for a request target."""


class ProbeServer(ThreadingHTTPServer):
    """Listens on one loopback address until ``close``.

    It holds few connections at once: a new one ends the oldest, so that nobody on the node can
    keep kubelet out by holding connections open.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: str, port: int, probes: Answers) -> None:
        """Raises OSError: the port is taken, or the address is not of this node."""
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.probes = probes
        self._held: deque[socket.socket] = deque()
        self._lock = threading.Lock()
        self._closing = False
        super().__init__((address, port), _Handler)
        self._thread = threading.Thread(target=self._serve, name="probes", daemon=True)
        self._thread.start()

    def server_bind(self) -> None:
        """Not HTTPServer's, which looks the address up in DNS."""
        socketserver.TCPServer.server_bind(self)
        self.server_port = int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Make room for a connection, and serve it in a thread."""
        with self._lock:
            if len(self._held) >= MAX_CLIENTS:
                with contextlib.suppress(OSError):
                    self._held.popleft().shutdown(socket.SHUT_RDWR)
            self._held.append(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        with self._lock, contextlib.suppress(ValueError):
            self._held.remove(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is nothing to tell."""
        if not isinstance(sys.exception(), OSError):
            _log.exception("A probe could not be answered")

    def _serve(self) -> None:
        # serve_forever wakes twice a second to see whether it should end.
        while not self._closing:
            self.handle_request()

    def close(self) -> None:
        """Stop answering; a second time changes nothing."""
        if self._closing:
            return
        self._closing = True
        self.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: ProbeServer
    timeout = _READ_TIMEOUT_S
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        status, media_type, body = self.server.probes.answer(self.path, time.monotonic())
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{media_type}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Probes come each second: no log lines."""
