"""CertificateSigningRequests of one signer, each answered once: approved and signed, or denied.

The desk records a certificate before anybody hears of it, and gives the same request the same
certificate. So each step may be the last before this process ends: whoever comes next finds the
object as it is, asks the desk again, and goes on from there. Every write names the version of
the object that was read; a conflict means reading it again.
"""

from __future__ import annotations

import logging
import threading
from base64 import b64encode

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.errors import StoreError
from ca.kubernetes_api import Api, ApiError, Conflict, Json, NotFound, path_of
from ca.kubernetes_binding import (
    Stage,
    condition,
    read_asked,
    stage_of,
    with_condition,
)
from ca.kubernetes_nodes import Nodes
from ca.kubernetes_queue import WorkQueue
from ca.kubernetes_watch import Watched
from ca.requests import CaBusy, Desk, RequestDenied

GROUP = "certificates.k8s.io/v1"
REASON = "OvnIpsecPolicy"
_KIND = "certificatesigningrequests"
_LONGEST_MESSAGE = 4096
_LOOK_S = 1.0

_log = logging.getLogger(__name__)


class Signer:
    """Follows the requests of one signer name; ``work`` may run in several threads."""

    def __init__(self, api: Api, desk: Desk, nodes: Nodes, signer_name: str) -> None:
        self._api = api
        self._desk = desk
        self._nodes = nodes
        self._signer_name = signer_name
        self._queue = WorkQueue()
        self._mutex = threading.Lock()
        self._waiting: dict[str, Json] = {}
        """By uid, as the watch has told of them last."""
        self._finished: set[str] = set()
        """Uids of those answered; what the watch still tells of them is the past."""
        query = {"fieldSelector": f"spec.signerName={signer_name}"}
        path = path_of(_KIND, group=GROUP)
        self._watched = Watched(api, path, query, self._seen, self._gone)

    def watch(self, stop: threading.Event) -> None:
        """Put into the queue whatever waits for something."""
        self._watched.run(stop)

    def work(self, stop: threading.Event) -> None:
        """Answer what is in the queue."""
        while not stop.is_set():
            uid = self._queue.take(_LOOK_S)
            if uid is not None:
                self._attempt(uid)

    def _attempt(self, uid: str) -> None:
        with self._mutex:
            csr = self._waiting.get(uid)
        if csr is None:
            self._queue.done(uid)
            return
        name = csr["metadata"]["name"]
        try:
            self._answer(csr)
        except CaBusy as error:
            self._queue.again(uid, error.retry_after_s)
        except Conflict:
            self._look_again(csr)
        except NotFound:
            _log.info("%s: deleted meanwhile", name)
            self._gone(csr)
            self._queue.done(uid)
        except (ApiError, StoreError) as error:
            _log.warning("%s: %s; trying again", name, error)
            self._look_again(csr)
        except Exception:  # noqa: BLE001 (must not end the answering of all others)
            _log.exception("%s: cannot be answered", name)
            self._queue.again(uid)
        else:
            with self._mutex:
                self._finished.add(uid)
                self._waiting.pop(uid, None)
            self._queue.done(uid)

    def _look_again(self, csr: Json) -> None:
        """Another attempt, with the object as it is by now."""
        uid = csr["metadata"]["uid"]
        try:
            newest = self._api.get(path_of(_KIND, name=csr["metadata"]["name"], group=GROUP))
            if newest["metadata"]["uid"] == uid:
                with self._mutex:
                    self._waiting[uid] = newest
            else:
                self._gone(csr)
        except NotFound:
            self._gone(csr)
        except ApiError as error:
            _log.info("%s", error)  # with the object as it was, then, and perhaps a conflict
        self._queue.again(uid)

    def _answer(self, csr: Json) -> None:
        name, stage = csr["metadata"]["name"], stage_of(csr)
        if stage is Stage.NOTHING or csr["spec"]["signerName"] != self._signer_name:
            return
        asked = read_asked(csr)
        requester = self._nodes.resolve(asked)
        try:
            der = self._desk.sign(asked.request, requester)
        except RequestDenied as denied:
            self._refuse(csr, stage, denied)
            return
        if stage is Stage.DECISION:
            csr = self._approve(csr, f"Node {requester.node} is {requester.chassis_id}")
        self._deliver(csr, der)
        _log.info("%s: signed for Node %s, %s", name, requester.node, requester.chassis_id)

    def _approve(self, csr: Json, message: str) -> Json:
        approved = with_condition(csr, condition("Approved", REASON, message))
        return self._api.replace(_path(csr, "approval"), approved)

    def _deliver(self, csr: Json, der: bytes) -> None:
        pem = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
        status = {**csr["status"], "certificate": b64encode(pem).decode()}
        self._api.replace(_path(csr, "status"), {**csr, "status": status})

    def _refuse(self, csr: Json, stage: Stage, denied: RequestDenied) -> None:
        """Deny it; what somebody else has approved can only be failed."""
        message = str(denied)[:_LONGEST_MESSAGE]
        _log.warning("%s: denied: %s", csr["metadata"]["name"], message)
        if stage is Stage.DECISION:
            refused = with_condition(csr, condition("Denied", REASON, message))
            self._api.replace(_path(csr, "approval"), refused)
        else:
            refused = with_condition(csr, condition("Failed", REASON, message))
            self._api.replace(_path(csr, "status"), refused)

    def _seen(self, csr: Json) -> None:
        uid = csr["metadata"]["uid"]
        with self._mutex:
            if uid in self._finished or stage_of(csr) is Stage.NOTHING:
                return
            self._waiting[uid] = csr
        self._queue.put(uid)

    def _gone(self, csr: Json) -> None:
        uid = csr["metadata"]["uid"]
        with self._mutex:
            self._finished.discard(uid)
            self._waiting.pop(uid, None)


def _path(csr: Json, part: str) -> str:
    return f"{path_of(_KIND, name=csr['metadata']['name'], group=GROUP)}/{part}"
