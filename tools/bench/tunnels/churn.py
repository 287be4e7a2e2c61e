"""What a busy Open vSwitch costs whoever watches its tunnels."""

from __future__ import annotations

import time

from tools.bench.tunnels.contenders import Contender, Usage
from tools.bench.tunnels.database import BRIDGE, Database, ports_of_bridge
from tools.lab.lab import Lab

INTERFACES = 5000
CHANGES_PER_S = 100
_BATCH = 500
_SETTLE_S = 20.0


def measure_churn(lab: Lab, contender: Contender, seconds: float) -> dict[str, float]:
    """Shares of a core while 100 of 5,000 unrelated interfaces change every second."""
    node = lab.node(contender.name)
    node.start_ovsdb()
    node.vsctl("--no-wait", "add-br", BRIDGE)
    contender.launch(node)
    with Database(node) as database:
        names = [f"veth{number}" for number in range(INTERFACES)]
        for start in range(0, INTERFACES, _BATCH):
            _add(database, names[start : start + _BATCH])
        assert contender.pattern is not None
        time.sleep(_SETTLE_S)
        usage = Usage(node, contender.pattern)
        time.sleep(seconds)
        still = usage.core_share()
        usage = Usage(node, contender.pattern)
        changes = _change(database, seconds)
        return {
            "still_core_share": round(still, 4),
            "churn_core_share": round(usage.core_share(), 4),
            "changes_per_s": round(changes / seconds, 1),
            "rss_mb": round(usage.rss_mb(), 1),
        }


def _add(database: Database, names: list[str]) -> None:
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
    database.transact(*operations, ports_of_bridge("insert", ports))


def _change(database: Database, seconds: float) -> int:
    """Ports that come and go, as pods do: every change is one row more or less."""
    began, changes = time.monotonic(), 0
    port: list[str] | None = None
    while True:
        due = began + changes / CHANGES_PER_S
        time.sleep(max(0.0, due - time.monotonic()))
        if time.monotonic() >= began + seconds:
            return changes
        if port is None:
            port = database.transact(*_insertion(f"pod{changes}"))[1]["uuid"]
        else:
            database.transact(ports_of_bridge("delete", [port]))
            port = None
        changes += 1


def _insertion(name: str) -> list[object]:
    interface = {"name": name, "external_ids": ["map", [["iface-id", name]]]}
    port = {"name": name, "interfaces": ["named-uuid", "i"]}
    return [
        {"op": "insert", "table": "Interface", "row": interface, "uuid-name": "i"},
        {"op": "insert", "table": "Port", "row": port, "uuid-name": "p"},
        ports_of_bridge("insert", [["named-uuid", "p"]]),
    ]
