"""Words in rows of a real ovsdb-server, read back by the real ovs-vsctl's way: the database."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from ovn_ipsec.agent import row_status
from ovn_ipsec.agent.row_status import KEY, RowStatus
from ovn_ipsec.model.snapshot import Snapshot
from ovn_ipsec.sources.ovsdb_request import DATABASE, OneRequest
from tests.contract.ovsdb_server import OvsdbServer
from tests.control_fake import make_snapshot
from tests.simulated import tunnel

pytestmark = pytest.mark.contract


def ids(server: OvsdbServer) -> dict[str, Mapping[str, str]]:
    select = {"op": "select", "table": "Interface", "where": []}
    request = OneRequest(server.remote, "transact", [DATABASE, select])
    (result,) = request.wait_for_answer(10)
    return {row["name"]: dict(row["external_ids"][1]) for row in result["rows"]}


def until(server: OvsdbServer, expected: Mapping[str, Mapping[str, str]]) -> None:
    for _ in range(200):
        if {name: told for name, told in ids(server).items() if name in expected} == expected:
            return
        time.sleep(0.05)
    assert ids(server) == expected


def node(**up: bool) -> Snapshot:
    tunnels = (replace(tunnel(0, 1, up=good), name=name) for name, good in up.items())
    return replace(make_snapshot(0), tunnels=tuple(tunnels))


def test_rows_follow_the_tunnels_through_a_restart_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_status, "PERIOD_S", 0.05)
    monkeypatch.setattr(row_status, "RETRY_S", 0.05)
    server = OvsdbServer(tmp_path)
    server.start()
    add = [word for name in "ab" for word in ("--", "add-port", "br0", name)]
    server.vsctl("init", "--", "add-br", "br0", *add)
    server.vsctl("set", "interface", "a", "external_ids:other=kept")
    # What an agent left that was killed.
    server.vsctl("set", "interface", "b", f"external_ids:{KEY}=encrypted")
    told = [node(a=False)]
    rows = RowStatus(server.remote, lambda: told[0])
    rows.start()
    try:
        until(server, {"a": {"other": "kept", KEY: "down: peer-silent"}, "b": {}})
        server.kill()
        told[0] = node(a=True, b=False, absent=True)
        time.sleep(0.3)
        server.start()
        expected = {KEY: "down: peer-silent"}
        until(server, {"a": {"other": "kept", KEY: "encrypted"}, "b": expected})
        rows.close()
        until(server, {"a": {"other": "kept"}, "b": {}})
    finally:
        rows.close()
        server.kill()
