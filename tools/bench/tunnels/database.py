"""A node's ovsdb-server, spoken to directly (RFC 7047): ovs-vsctl starts by reading all rows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from tools.bench.tunnels.jsonrpc import Connection
from tools.lab.node import Node

BRIDGE = "br0"
_WAIT_MS = 20_000


class Database:
    """One connection; a context manager."""

    def __init__(self, node: Node) -> None:
        self._connection = Connection(node.path("/run/openvswitch/db.sock"))

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def transact(self, *operations: object) -> list[Any]:
        """The results, committed; LookupError when one is an error."""
        results: list[Any] = self._connection.call("transact", ["Open_vSwitch", *operations])
        for result in results:
            if result and "error" in result:
                raise LookupError(f"OVSDB: {result}")
        return results

    def set_options(self, options: dict[str, dict[str, str]]) -> None:
        """Of interfaces by name, beside those that they have, in one transaction."""
        operations: list[object] = []
        for name, settings in options.items():
            pairs = [[key, value] for key, value in settings.items()]
            changes = [
                ["options", "delete", ["set", list(settings)]],
                ["options", "insert", ["map", pairs]],
            ]
            operations.append(_on("mutate", "Interface", name, mutations=changes))
        self.transact(*operations)

    def change_and_wait(self, name: str) -> None:
        """Change an interface's options, and wait until vswitchd has read and done what is there
        (ovs-vswitchd.conf.db(5), cur_cfg)."""
        node = {"table": "Open_vSwitch", "where": []}
        value = str(time.monotonic_ns())
        changes: list[object] = [["options", "delete", ["set", ["psk"]]]]
        changes.append(["options", "insert", ["map", [["psk", value]]]])
        *_, told = self.transact(
            _on("mutate", "Interface", name, mutations=changes),
            {"op": "mutate", **node, "mutations": [["next_cfg", "+=", 1]]},
            {"op": "select", **node, "columns": ["next_cfg"]},
        )
        done = {"cur_cfg": told["rows"][0]["next_cfg"]}
        wait = {"op": "wait", "until": "==", "columns": ["cur_cfg"], "rows": [done]}
        self.transact({**node, **wait, "timeout": _WAIT_MS})

    def remove_port(self, name: str) -> None:
        """From the bridge, with its interface."""
        found = self.transact(_on("select", "Port", name, columns=["_uuid"]))
        self.transact(ports_of_bridge("delete", [row["_uuid"] for row in found[0]["rows"]]))


def ports_of_bridge(mutator: str, ports: Sequence[object]) -> object:
    """The operation that inserts or deletes them."""
    return _on("mutate", "Bridge", BRIDGE, mutations=[["ports", mutator, ["set", ports]]])


def _on(op: str, table: str, name: str, **what: object) -> object:
    return {"op": op, "table": table, "where": [["name", "==", name]], **what}
