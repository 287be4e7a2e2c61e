"""From a requester to its Node and chassis id, by what the cluster says. Decides nothing.

Whatever is missing on the way becomes a doubt; there is no other source to fall back on.
"""

from __future__ import annotations

import threading
from typing import Protocol

from ca.csr import read_csr
from ca.kubernetes_api import Api, Json, NotFound, path_of
from ca.kubernetes_binding import (
    Asked,
    Nobody,
    NodeName,
    PodName,
    doubts_of,
    requester_of,
)
from ca.kubernetes_watch import Watched
from ca.requests import ByNode


class Chassis(Protocol):
    """Where chassis ids come from. Both raise ApiError."""

    def of(self, node: str, named: frozenset[str]) -> tuple[str, str]:
        """A Node's chassis id, or empty and why there is none.

        ``named`` is what the request says, in lower case: what is remembered is good enough
        unless it says something else.
        """

    def claimants(self, chassis_id: str) -> frozenset[str]:
        """Every Node that is said to be this chassis."""


class Annotations:
    """Chassis ids as an annotation of Nodes says, which the node's part of the platform writes."""

    def __init__(self, api: Api, annotation: str) -> None:
        self._api = api
        self._annotation = annotation
        self._mutex = threading.Lock()
        self._ids: dict[str, str] = {}
        self._watched = Watched(api, path_of("nodes"), {}, self._seen, self._gone)

    def run(self, stop: threading.Event) -> None:
        """Follow the Nodes until ``stop``, in a thread of its own."""
        self._watched.run(stop)

    def wait_listed(self, timeout_s: float) -> bool:
        """Whether every Node is known; until then nobody knows who else claims an id."""
        return self._watched.listed.wait(timeout_s)

    def of(self, node: str, named: frozenset[str]) -> tuple[str, str]:
        """See ``Chassis``. Agents ask as soon as the annotation is there, before we hear of it."""
        with self._mutex:
            remembered = self._ids.get(node, "")
        if remembered.lower() in named:
            return remembered, ""
        try:
            found = self._api.get(path_of("nodes", name=node))
        except NotFound:
            return "", f"there is no Node {node}"
        chassis_id = self._annotated(found)
        return (
            chassis_id,
            "" if chassis_id else f"Node {node} has no annotation {self._annotation}",
        )

    def claimants(self, chassis_id: str) -> frozenset[str]:
        """See ``Chassis``."""
        with self._mutex:
            return _holders(self._ids, chassis_id)

    def _seen(self, node: Json) -> None:
        with self._mutex:
            self._ids[node["metadata"]["name"]] = self._annotated(node)

    def _gone(self, node: Json) -> None:
        with self._mutex:
            self._ids.pop(node["metadata"]["name"], None)

    def _annotated(self, node: Json) -> str:
        return str((node["metadata"].get("annotations") or {}).get(self._annotation, "")).strip()


class InventoryMap:
    """Chassis ids as a ConfigMap says, Node name to id, instead of annotations."""

    def __init__(self, api: Api, namespace: str, name: str) -> None:
        self._api = api
        self._where = f"{namespace}/{name}"
        self._path = path_of("configmaps", namespace, name)

    def of(self, node: str, named: frozenset[str]) -> tuple[str, str]:
        """See ``Chassis``."""
        try:
            chassis_id = self._read().get(node, "").strip()
        except NotFound:
            return "", f"there is no inventory: ConfigMap {self._where}"
        return chassis_id, "" if chassis_id else f"inventory {self._where} has no Node {node}"

    def claimants(self, chassis_id: str) -> frozenset[str]:
        """See ``Chassis``."""
        try:
            return _holders(self._read(), chassis_id)
        except NotFound:
            return frozenset()

    def _read(self) -> dict[str, str]:
        return dict(self._api.get(self._path).get("data") or {})


class Nodes:
    """Turns what was asked into what the policy judges."""

    def __init__(self, api: Api, accounts: frozenset[str], chassis: Chassis) -> None:
        self._api = api
        self._accounts = accounts
        self._chassis = chassis

    def resolve(self, asked: Asked) -> ByNode:
        """The requester, with every doubt that there is. Raises ApiError."""
        doubts = list(doubts_of(asked))
        who = requester_of(asked, self._accounts)
        if isinstance(who, PodName):
            who = self._node_of(who)
        if isinstance(who, Nobody):
            return ByNode("", "", doubts=(*doubts, who.why))
        named = frozenset(name.lower() for name in read_csr(asked.request).names)
        chassis_id, missing = self._chassis.of(who.node, named)
        if missing:
            return ByNode(who.node, "", doubts=(*doubts, missing))
        others = self._chassis.claimants(chassis_id) - {who.node}
        return ByNode(who.node, chassis_id, tuple(sorted(others)), tuple(doubts))

    def _node_of(self, who: PodName) -> NodeName | Nobody:
        try:
            pod = self._api.get(path_of("pods", who.namespace, who.name))
        except NotFound:
            return Nobody(f"there is no pod {who.namespace}/{who.name}")
        if pod["metadata"]["uid"] != who.uid:
            return Nobody(f"pod {who.namespace}/{who.name} is another one than the token's")
        node = pod["spec"].get("nodeName", "")
        return NodeName(node) if node else Nobody(f"pod {who.namespace}/{who.name} has no Node")


def _holders(ids: dict[str, str], chassis_id: str) -> frozenset[str]:
    wanted = chassis_id.lower()
    return frozenset(node for node, name in ids.items() if name.strip().lower() == wanted)
