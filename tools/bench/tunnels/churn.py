"""What a busy Open vSwitch costs whoever watches its tunnels."""

from __future__ import annotations

import itertools
import json
import socket
import time
from typing import Any

from tools.bench.tunnels.contenders import Contender, Usage
from tools.lab.lab import Lab
from tools.lab.node import Node

INTERFACES = 5000
CHANGES_PER_S = 100
_BATCH = 500
_SETTLE_S = 20.0


class _Database:
    """A connection to the node's ovsdb-server (RFC 7047); ovs-vsctl is too slow to make a load."""

    def __init__(self, node: Node) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(node.path("/run/openvswitch/db.sock")))
        self._decoder = json.JSONDecoder()

    def transact(self, *operations: object) -> list[Any]:
        """The results; LookupError when one is an error."""
        request = {"id": 1, "method": "transact", "params": ["Open_vSwitch", *operations]}
        self._socket.sendall(json.dumps(request).encode())
        text = ""
        while True:
            text += self._socket.recv(1 << 20).decode()
            try:
                answer, _ = self._decoder.raw_decode(text)
            except ValueError:
                continue
            results: list[Any] = answer["result"]
            for result in results:
                if result and "error" in result:
                    raise LookupError(f"OVSDB: {result}")
            return results

    def close(self) -> None:
        self._socket.close()


def measure_churn(lab: Lab, contender: Contender, seconds: float) -> dict[str, float]:
    """Shares of a core while 100 of 5,000 unrelated interfaces change every second."""
    node = lab.node(contender.name)
    node.start_ovsdb()
    node.vsctl("--no-wait", "add-br", "br0")
    contender.launch(node)
    database = _Database(node)
    try:
        names = [f"veth{number}" for number in range(INTERFACES)]
        for start in range(0, INTERFACES, _BATCH):
            _add(database, names[start : start + _BATCH])
        assert contender.pattern is not None
        time.sleep(_SETTLE_S)
        usage = Usage(node, contender.pattern)
        time.sleep(seconds)
        still = usage.core_share()
        usage = Usage(node, contender.pattern)
        changes = _change(database, names, seconds)
        return {
            "still_core_share": round(still, 4),
            "churn_core_share": round(usage.core_share(), 4),
            "changes_per_s": round(changes / seconds, 1),
            "rss_mb": round(usage.rss_mb(), 1),
        }
    finally:
        database.close()


def _add(database: _Database, names: list[str]) -> None:
    operations: list[object] = []
    ports = []
    for number, name in enumerate(names):
        operations += [
            {
                "op": "insert",
                "table": "Interface",
                "row": {"name": name},
                "uuid-name": f"i{number}",
            },
            {
                "op": "insert",
                "table": "Port",
                "row": {"name": name, "interfaces": ["named-uuid", f"i{number}"]},
                "uuid-name": f"p{number}",
            },
        ]
        ports.append(["named-uuid", f"p{number}"])
    bridge = {
        "op": "mutate",
        "table": "Bridge",
        "where": [["name", "==", "br0"]],
        "mutations": [["ports", "insert", ["set", ports]]],
    }
    database.transact(*operations, bridge)


def _change(database: _Database, names: list[str], seconds: float) -> int:
    began, changes = time.monotonic(), 0
    for name in itertools.cycle(names):
        due = began + changes / CHANGES_PER_S
        if due >= began + seconds:
            return changes
        time.sleep(max(0.0, due - time.monotonic()))
        if time.monotonic() >= began + seconds:
            return changes
        # What a CNI plugin and vswitchd write for a pod's port.
        row = {
            "external_ids": ["map", [["iface-id", f"pod-{changes}"]]],
            "statistics": ["map", [["rx_packets", changes], ["tx_packets", changes]]],
        }
        where = [["name", "==", name]]
        database.transact({"op": "update", "table": "Interface", "where": where, "row": row})
        changes += 1
    return changes
