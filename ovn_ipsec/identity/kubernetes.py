"""The Kubernetes way: a CertificateSigningRequest is made, and its certificate waited for.

The signer knows the node by the requester's own identity, not by anything that is written here.
The roots and the deny-list are keys of one ConfigMap; who may write that decides whom this node
trusts.
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

from cryptography import x509

from ovn_ipsec.errors import BusyError, EnrolmentError, RefusedError
from ovn_ipsec.identity.certificates import (
    bundle_digest,
    fingerprint,
    load_certificate,
    load_roots,
    public_key_hash,
    request_key_hash,
    request_pem,
    roots_among,
)
from ovn_ipsec.identity.est import Credentials, Lists, Roots
from ovn_ipsec.identity.model import HeardRoots

_LOG = logging.getLogger(__name__)

LABEL = "ipsec.ovn.org/node"
USAGE = "ipsec tunnel"
BUNDLE_KEY = "ca-bundle.pem"
CRL_KEY = "crl.pem"
_WAIT_S = 20
"""One watch for a certificate; between two, the process looks at everything else."""
_FOLLOW_S = 50
_AGAIN_S = 1.0
_SAID_CHARS = 300
_LABEL_CHARS = 63
_FINAL = ("Denied", "Failed")

Json = dict[str, Any]


class Api(Protocol):
    """The API server (``ovn_ipsec.identity.kubernetes_api.ClusterApi``)."""

    def create_request(self, body: Json) -> Json:
        """Make a CertificateSigningRequest. Each method raises EnrolmentError."""

    def requests(self, label: str) -> Json:
        """The list of those with a label."""

    def delete_request(self, name: str) -> None:
        """Remove one."""

    def watch_request(self, name: str, version: str, wait_s: int) -> Iterator[Json]:
        """Its events."""

    def config_map(self, namespace: str, name: str) -> Json:
        """A ConfigMap. BusyError: there is none yet."""

    def watch_config_map(
        self, namespace: str, name: str, version: str, wait_s: int
    ) -> Iterator[Json]:
        """Its events."""


@dataclass(frozen=True, slots=True)
class Place:
    """What is asked for, and where."""

    node: str
    """The Node's name, for people and for finding one's own requests."""
    signer: str
    namespace: str
    config_map: str


class KubernetesWay:
    """One node's requests at one signer."""

    def __init__(self, place: Place, connect: Callable[[], Api]) -> None:
        """``connect`` makes a connection; the two threads that come here have one each."""
        self._place = place
        self._asking, self._following = connect(), connect()
        self._made: str | None = None
        """The request that this process made last."""
        self._heard: HeardRoots | None = None
        self.on_news: Callable[[], None] = lambda: None
        """Called, from the thread of ``lists``, when other roots are heard of."""

    @property
    def heard(self) -> HeardRoots | None:
        """The roots that the ConfigMap was last seen to name. From any thread."""
        return self._heard

    def obtain(self, csr_der: bytes, name: str) -> x509.Certificate:
        """The certificate for this request. Raises RefusedError; BusyError until it is there."""
        pem = request_pem(csr_der)
        listed = self._asking.requests(f"{LABEL}={label_value(self._place.node)}")
        own = [item for item in listed["items"] if _signer(item) == self._place.signer]
        found = self._taken_up(own, pem)
        self._tidy(item for item in own if item is not found)
        if found is None:
            found = self._asking.create_request(self._request(pem, name))
            self._made = str(found["metadata"]["name"])
            _LOG.info("Request %s waits for signer %s", self._made, self._place.signer)
        certificate = self._answer(found)
        if public_key_hash(certificate) != request_key_hash(csr_der):
            raise EnrolmentError(f"request {_name(found)}: its certificate is for another key")
        self._tidy([found], sure=True)
        return certificate

    def roots(self) -> Roots:
        """The roots of the ConfigMap, the one that signs first. Raises EnrolmentError."""
        return self._note(self._asking.config_map(self._place.namespace, self._place.config_map))

    def lists(self, own: Credentials, known: str | None) -> Lists | None:
        """The CRLs. None: there are no others than those of the tag, after waiting for some.

        New roots end the wait, too.
        """
        place = self._place
        held = self._following.config_map(place.namespace, place.config_map)
        before = self._heard
        self._note_quietly(held)
        found = _lists(held, known)
        if found is not None or self._heard != before:
            return found
        version = held["metadata"]["resourceVersion"]
        for event in self._following.watch_config_map(
            place.namespace, place.config_map, version, _FOLLOW_S
        ):
            if event["type"] == "DELETED":
                raise BusyError(f"ConfigMap {place.namespace}/{place.config_map} is gone", 5.0)
            self._note_quietly(event["object"])
            found = _lists(event["object"], known)
            if found is not None:
                return found
        return None

    def _request(self, pem: bytes, name: str) -> Json:
        return {
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": {
                "generateName": "ovn-ipsec-",
                "labels": {LABEL: label_value(self._place.node)},
            },
            "spec": {
                "signerName": self._place.signer,
                "usages": [USAGE],
                "request": base64.b64encode(pem).decode(),
            },
        }

    def _taken_up(self, own: list[Json], pem: bytes) -> Json | None:
        """A request of an earlier life of this process, or of its last attempt, that still may
        be or has been answered."""
        same = [item for item in own if _request_of(item) == pem]
        for item in same:
            if _certificate_of(item):
                return item
        for item in same:
            # A refusal counts when it was this process that asked; else it asks once more.
            if _refusal(item) is None or _name(item) == self._made:
                return item
        return None

    def _tidy(self, items: Any, *, sure: bool = False) -> None:
        """Delete requests of this node that are finished, as far as RBAC lets us."""
        for item in items:
            if sure or _certificate_of(item) or _refusal(item) is not None:
                try:
                    self._asking.delete_request(_name(item))
                except EnrolmentError as error:
                    _LOG.debug("%s", error)

    def _answer(self, request: Json) -> x509.Certificate:
        name, version = _name(request), request["metadata"]["resourceVersion"]
        certificate = _judged(request)
        if certificate is not None:
            return certificate
        for event in self._asking.watch_request(name, version, _WAIT_S):
            if event["type"] == "DELETED":
                raise BusyError(f"request {name} was deleted by somebody", _AGAIN_S)
            certificate = _judged(event["object"])
            if certificate is not None:
                return certificate
        raise BusyError(
            f"request {name} is waited for; is the signer {self._place.signer} running?", _AGAIN_S
        )

    def _note_quietly(self, config_map: Json) -> None:
        """What is wrong with the roots is told when they are asked for."""
        before = self._heard
        try:
            self._note(config_map)
        except EnrolmentError as error:
            _LOG.debug("%s", error)
        if self._heard != before:
            self.on_news()

    def _note(self, config_map: Json) -> Roots:
        where = f"ConfigMap {self._place.namespace}/{self._place.config_map}"
        text = _value(config_map, BUNDLE_KEY)
        if text is None:
            raise BusyError(f"{where}: key {BUNDLE_KEY} is waited for", 5.0)
        try:
            bundle = roots_among(load_roots(text))
        except EnrolmentError as error:
            raise EnrolmentError(f"{where}: key {BUNDLE_KEY}: {error}") from error
        if not bundle:
            raise EnrolmentError(f"{where}: key {BUNDLE_KEY} holds no root")
        roots = Roots(bundle, fingerprint(bundle[0]))
        self._heard = HeardRoots(bundle_digest(bundle), fingerprint(bundle[0]))
        return roots


def label_value(node: str) -> str:
    """A Node's name (253 characters at most) as the value of a label (63)."""
    if len(node) <= _LABEL_CHARS:
        return node
    return f"{node[:46]}-{sha256(node.encode()).hexdigest()[:16]}"


def _name(item: Json) -> str:
    return str(item["metadata"]["name"])


def _signer(item: Json) -> str:
    return str(item.get("spec", {}).get("signerName"))


def _decoded(text: object) -> bytes:
    try:
        return base64.b64decode(str(text), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _request_of(item: Json) -> bytes:
    return _decoded(item.get("spec", {}).get("request", ""))


def _certificate_of(item: Json) -> bytes:
    return _decoded((item.get("status") or {}).get("certificate") or "")


def _refusal(item: Json) -> str | None:
    """The condition that ends a request without a certificate, as one printable line."""
    for condition in (item.get("status") or {}).get("conditions") or ():
        if condition.get("type") in _FINAL:
            words = [condition.get(key) or "" for key in ("type", "reason", "message")]
            said = re.sub(r"\s+", " ", ": ".join(word for word in words if word))
            return "".join(char if char.isprintable() else "?" for char in said)[:_SAID_CHARS]
    return None


def _judged(item: Json) -> x509.Certificate | None:
    """The certificate, None while the request is open. Raises RefusedError."""
    if pem := _certificate_of(item):
        return load_certificate(pem)
    refused = _refusal(item)
    if refused is not None:
        raise RefusedError(f"request {_name(item)}: {refused}")
    return None


def _value(config_map: Json, key: str) -> bytes | None:
    text = (config_map.get("data") or {}).get(key)
    return text.encode() if text else None


def _lists(config_map: Json, known: str | None) -> Lists | None:
    pem = _value(config_map, CRL_KEY)
    if pem is None:
        return None
    tag = sha256(pem).hexdigest()
    return None if tag == known else Lists(pem, tag)
