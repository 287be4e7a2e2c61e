"""Which Node a CertificateSigningRequest comes from, as far as the object itself tells. Pure.

The API server writes user name, groups and extra of whoever creates the object into its spec, and
nobody can change them afterwards (certificates.k8s.io/v1): they are the proof. What they leave
open, a pod's Node and a Node's chassis id, ``ca.kubernetes_nodes`` asks the API for.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

USAGES = ("ipsec tunnel",)
_EXTRA = "authentication.kubernetes.io/"
_ACCOUNT = "system:serviceaccount:"
_OVN_NODE = "system:ovn-node:"
_NODE = "system:node:"
_NODES_GROUP = "system:nodes"


class Stage(Enum):
    """What a request waits for."""

    DECISION = "decision"
    CERTIFICATE = "certificate"
    """Somebody has approved it."""
    NOTHING = "nothing"
    """It has its certificate, or never will."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A CertificateSigningRequest's spec."""

    signer: str
    request: bytes
    """PKCS #10, DER; empty when there is none to be read."""
    usages: tuple[str, ...]
    user: str
    groups: frozenset[str]
    extra: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class NodeName:
    """The requester is the agent of this Node."""

    node: str


@dataclass(frozen=True, slots=True)
class PodName:
    """The requester is this pod, whose Node is to be looked up."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Nobody:
    """The requester cannot be bound to a Node."""

    why: str


def stage_of(csr: Mapping[str, Any]) -> Stage:
    """What the object waits for."""
    status = csr.get("status") or {}
    kinds = {item["type"] for item in status.get("conditions") or ()}
    if status.get("certificate") or kinds & {"Denied", "Failed"}:
        return Stage.NOTHING
    return Stage.CERTIFICATE if "Approved" in kinds else Stage.DECISION


def read_asked(csr: Mapping[str, Any]) -> Asked:
    """The spec, which the API server has validated as far as its types go."""
    spec = csr["spec"]
    try:
        pem = b64decode(spec["request"])
        der = x509.load_pem_x509_csr(pem).public_bytes(Encoding.DER)
    except (ValueError, x509.InvalidVersion):
        der = b""
    return Asked(
        spec["signerName"],
        der,
        tuple(spec.get("usages") or ()),
        spec.get("username", ""),
        frozenset(spec.get("groups") or ()),
        {key: tuple(values) for key, values in (spec.get("extra") or {}).items()},
    )


def requester_of(asked: Asked, accounts: frozenset[str]) -> NodeName | PodName | Nobody:
    """Who asks. ``accounts`` are the agents' ServiceAccounts, as NAMESPACE/NAME.

    Every pod of a Node carries the Node's name in its token: only the agents' may speak for it.
    """
    if asked.user.startswith(_OVN_NODE):
        return NodeName(asked.user.removeprefix(_OVN_NODE))
    if asked.user.startswith(_NODE):
        if _NODES_GROUP in asked.groups:
            return NodeName(asked.user.removeprefix(_NODE))
        return Nobody(f"{asked.user} is not in group {_NODES_GROUP}")
    if not asked.user.startswith(_ACCOUNT):
        return Nobody(f"user {asked.user!r} is neither a Node nor a ServiceAccount")
    namespace, _, name = asked.user.removeprefix(_ACCOUNT).partition(":")
    if f"{namespace}/{name}" not in accounts:
        return Nobody(f"ServiceAccount {namespace}/{name} is not that of the nodes' agents")
    nodes = asked.extra.get(f"{_EXTRA}node-name", ())
    if len(nodes) == 1:
        return NodeName(nodes[0])
    pods = asked.extra.get(f"{_EXTRA}pod-name", ())
    uids = asked.extra.get(f"{_EXTRA}pod-uid", ())
    if len(pods) == 1 and len(uids) == 1:
        return PodName(namespace, pods[0], uids[0])
    return Nobody("the requester's token names neither a Node nor a pod; use a bound one")


def doubts_of(asked: Asked) -> tuple[str, ...]:
    """What is wrong with the object, whoever sent it."""
    doubts = []
    if asked.usages != USAGES:
        doubts.append(f"usages are {list(asked.usages)}, not {list(USAGES)}")
    if not asked.request:
        doubts.append("spec.request is not a PKCS #10 request in PEM")
    return tuple(doubts)


def condition(kind: str, reason: str, message: str) -> dict[str, str]:
    """A condition of a CertificateSigningRequest."""
    return {"type": kind, "status": "True", "reason": reason, "message": message}


def with_condition(csr: Mapping[str, Any], added: Mapping[str, str]) -> dict[str, Any]:
    """The object with one more condition."""
    status = csr.get("status") or {}
    conditions = [*(status.get("conditions") or ()), added]
    return {**csr, "status": {**status, "conditions": conditions}}
