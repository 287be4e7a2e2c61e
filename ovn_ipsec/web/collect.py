"""Asks nodes for their status: loopback by plain HTTP, others by mutual TLS. Reads the clock."""

from __future__ import annotations

import http.client
import json
import logging
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from ovn_ipsec.errors import SourceError
from ovn_ipsec.sources.ovsdb_request import DATABASE, OneRequest
from ovn_ipsec.web.history import DropHistory
from ovn_ipsec.web.merge import MOST_NODES, merge, read_status
from ovn_ipsec.web.model import Cluster, NodeReport, NodeView
from ovn_ipsec.web.settings import NodeKeys, Target, peer_target

_log = logging.getLogger(__name__)

ASK_S = 5.0
"""What a node may take for each step of an answer."""
ANSWER_S = 15.0
"""What it may take in all: one that drips holds up a round no longer."""
DATABASE_S = 10
MOST_BYTES = 16 * 1024 * 1024
WORKERS = 16
_CHUNK_BYTES = 256 * 1024


class UnansweredError(Exception):
    """A node did not tell its status; the text says why."""


class Collector:
    """Keeps the last that each node said. ``round`` is for one thread, the rest for all."""

    def __init__(
        self,
        targets: Sequence[Target],
        peers_port: int | None,
        keys: NodeKeys | str | None,
        clock: Callable[[], datetime],
    ) -> None:
        """``clock``: UTC."""
        self._targets = targets
        self._peers_port = peers_port
        self._keys = keys
        self._clock = clock
        self._reports: dict[Target, NodeReport] = {}
        self._history = DropHistory()
        self._lock = threading.Lock()
        self._cluster = Cluster(clock(), (), {})

    def cluster(self) -> Cluster:
        """As of the last round."""
        return self._cluster

    def bars(self, node: str | None = None) -> tuple[int, ...]:
        """Packets without IPsec over time, of one node or of all."""
        with self._lock:
            return self._history.bars(self._cluster.at.timestamp(), node)

    def round(self) -> None:
        """Ask every node once, and put together what is known."""
        context, problem = self._context()
        known = self._ask(self._targets, context, problem)
        peers = self._peers(known)
        self._reports = known | self._ask(peers, context, problem)
        now = self._clock()
        cluster = merge(list(self._reports.values()), now)
        with self._lock:
            for node in cluster.nodes:
                if node.fresh and node.view is not None and node.view.drops is not None:
                    self._history.note(node.name, now.timestamp(), sum(node.view.drops))
            self._history.keep_only(frozenset(node.name for node in cluster.nodes))
            self._cluster = cluster

    def _context(self) -> tuple[ssl.SSLContext | None, str]:
        if self._keys is None:
            return None, "no key to ask it with"
        try:
            keys = self._keys if isinstance(self._keys, NodeKeys) else named_keys(self._keys)
            return client_context(keys), ""
        except (OSError, ValueError, SourceError) as error:
            problem = f"this node's own key, certificate or bundle cannot be used: {error}"
            _log.warning("%s", problem)
            return None, problem

    def _peers(self, known: dict[Target, NodeReport]) -> list[Target]:
        """Of the nodes on loopback alone: whom a remote node names is its own affair."""
        if self._peers_port is None:
            return []
        named = {target.name.lower() for target in known}
        found: dict[str, Target] = {}
        for target, report in known.items():
            if target.name or report.view is None:
                continue
            named.add(report.view.name.lower())
            for row in report.view.overview.rows:
                peer = peer_target(row.peer, row.address, self._peers_port)
                if peer is not None:
                    found.setdefault(peer.name.lower(), peer)
        return [peer for name, peer in found.items() if name not in named][:MOST_NODES]

    def _ask(
        self, targets: Sequence[Target], context: ssl.SSLContext | None, problem: str
    ) -> dict[Target, NodeReport]:
        def report(target: Target) -> NodeReport:
            before = self._reports.get(target) or NodeReport(target.name, target.at.address)
            try:
                if target.name and context is None:
                    raise UnansweredError(problem)
                view = ask(target, context if target.name else None)
            except UnansweredError as error:
                return NodeReport(
                    before.name, before.address, before.view, before.answered_at, str(error)
                )
            return NodeReport(before.name, before.address, view, self._clock())

        with ThreadPoolExecutor(WORKERS, "ask") as pool:
            return dict(zip(targets, pool.map(report, targets), strict=True))


def named_keys(database: str) -> NodeKeys:
    """The files that Open vSwitch's database names now. Raises SourceError."""
    select = {"op": "select", "table": "Open_vSwitch", "where": [], "columns": ["other_config"]}
    (result,) = OneRequest(database, "transact", [DATABASE, select]).wait_for_answer(DATABASE_S)
    rows = result.get("rows") or [{"other_config": ["map", []]}]
    named = dict(rows[0]["other_config"][1])
    missing = [key for key in ("private_key", "certificate", "ca_cert") if not named.get(key)]
    if missing:
        raise SourceError(f"OVSDB {database}: other_config lacks {', '.join(missing)}")
    return NodeKeys(Path(named["private_key"]), Path(named["certificate"]), Path(named["ca_cert"]))


def client_context(keys: NodeKeys) -> ssl.SSLContext:
    """TLS 1.3 with a node's certificate. Raises OSError, ValueError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Names of nodes are no host names (64 characters, underscores): ``ask`` compares them.
    context.check_hostname = False
    context.load_verify_locations(keys.ca_cert)
    context.load_cert_chain(keys.certificate, keys.private_key)
    return context


def ask(target: Target, context: ssl.SSLContext | None) -> NodeView:
    """A node's status now. Raises UnansweredError."""
    address, port = target.at.address, target.at.port
    connection: http.client.HTTPConnection
    if context is None:
        connection = http.client.HTTPConnection(address, port, timeout=ASK_S)
    else:
        connection = http.client.HTTPSConnection(address, port, timeout=ASK_S, context=context)
    try:
        connection.connect()
        if isinstance(connection.sock, ssl.SSLSocket):
            _check_name(connection.sock, target.name)
        connection.request("GET", "/status", headers={"Host": "ovn-ipsec"})
        return read_status(_read(connection.getresponse()))
    except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
        raise UnansweredError(_reason(error)) from error
    finally:
        connection.close()


def _read(response: http.client.HTTPResponse) -> dict[str, Any]:
    deadline_s = time.monotonic() + ANSWER_S
    if response.status != http.HTTPStatus.OK:
        raise ValueError(f"it answers {response.status}")
    body = bytearray()
    while chunk := response.read1(_CHUNK_BYTES):
        body += chunk
        if len(body) > MOST_BYTES:
            raise ValueError(f"its answer has over {MOST_BYTES} bytes")
        if time.monotonic() > deadline_s:
            raise TimeoutError
    try:
        status = json.loads(body)
    except ValueError:
        raise ValueError("its answer is no JSON") from None
    if not isinstance(status, dict) or not isinstance(status.get("tunnels"), list):
        raise ValueError("its owner answers as another program does")
    return status


def _check_name(connection: ssl.SSLSocket, name: str) -> None:
    certificate: Any = connection.getpeercert() or {}
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
    if name.lower() not in (each.lower() for each in names):
        raise ValueError(f"its certificate is of {', '.join(names) or 'nobody'}")


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    if isinstance(error, http.client.HTTPException):
        return "its owner answers as another program does"
    return str(error) or type(error).__name__
