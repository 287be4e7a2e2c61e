"""``ovn-ipsec web``: one round and an answer, or rounds and a page until told to end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime
from typing import TextIO

from ovn_ipsec.errors import OvnIpsecError
from ovn_ipsec.web.collect import Collector
from ovn_ipsec.web.serve import WebServer
from ovn_ipsec.web.settings import WebSettings
from ovn_ipsec.web.text import render_json, render_text

_log = logging.getLogger(__name__)

ALL_ENCRYPTED, NOT_ALL, UNREACHABLE = 0, 3, 4


def run_once(settings: WebSettings, clock: Callable[[], datetime], out: TextIO) -> int:
    """Ask, print, and tell by the exit code."""
    collector = Collector(settings.targets, settings.peers_port, settings.keys, clock)
    collector.round()
    cluster = collector.cluster()
    out.write(render_json(cluster) if settings.json else render_text(cluster))
    if not any(node.fresh for node in cluster.nodes):
        return UNREACHABLE
    return ALL_ENCRYPTED if cluster.all_encrypted else NOT_ALL


def run_web(settings: WebSettings, clock: Callable[[], datetime], stop: threading.Event) -> None:
    """Serve until ``stop``. Raises OvnIpsecError when the port cannot be had."""
    collector = Collector(settings.targets, settings.peers_port, settings.keys, clock)
    at = settings.listen
    try:
        server = WebServer(at, collector)
    except OSError as error:
        raise OvnIpsecError(
            f"--listen {at.address}:{at.port}: cannot listen: {error.strerror or error}; is "
            "another ovn-ipsec web running, or the port in use?"
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="web", daemon=True)
    thread.start()
    _log.info("http://%s:%d/ shows the cluster", at.address, at.port)
    try:
        while not stop.is_set():
            try:
                collector.round()
            except Exception:  # noqa: BLE001  a bug must not end the view of all that goes well
                _log.exception("A round failed; the next is in %d s", settings.period_s)
            stop.wait(settings.period_s)
    finally:
        server.shutdown()
        server.server_close()
