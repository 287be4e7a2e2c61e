"""The OVSDB source against real servers: appearing, changing, vanishing, crashing, strange."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ovn_ipsec.model.facts import TunnelFact
from ovn_ipsec.sources.ovsdb import OvsdbSource
from tests.contract.ovsdb_server import OvsdbServer, drive, idle, vswitch_schema

pytestmark = pytest.mark.contract

_TUNNEL = ("add-port", "br0", "t1", "--", "set", "interface", "t1", "type=geneve")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OvsdbServer]:
    server = OvsdbServer(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def running(server: OvsdbServer) -> OvsdbServer:
    server.start()
    server.vsctl("init", "--", "add-br", "br0")
    return server


@pytest.fixture
def source(server: OvsdbServer) -> Iterator[OvsdbSource]:
    source = OvsdbSource(server.remote)
    yield source
    source.close()


def _tunnels(source: OvsdbSource) -> dict[str, TunnelFact]:
    return {tunnel.name: tunnel for tunnel in source.snapshot()[1]}


def test_tunnel_appears_changes_and_disappears(running: OvsdbServer, source: OvsdbSource) -> None:
    running.vsctl("set", "open", ".", "other_config:certificate=/a.pem")
    drive(source, lambda: source.problem is None)
    assert source.snapshot()[0].other_config == {"certificate": "/a.pem"}
    assert source.snapshot()[1] == ()

    running.vsctl(*_TUNNEL, "options:remote_ip=192.0.2.1", "options:psk=x")
    assert drive(source, lambda: bool(_tunnels(source))) == 1
    assert _tunnels(source)["t1"] == TunnelFact(
        "t1", "geneve", {"remote_ip": "192.0.2.1", "psk": "x"}
    )

    running.vsctl("set", "interface", "t1", "options:psk=y", "type=vxlan", "ofport=7")
    drive(source, lambda: _tunnels(source)["t1"].ofport == 7)
    assert _tunnels(source)["t1"] == TunnelFact(
        "t1", "vxlan", {"remote_ip": "192.0.2.1", "psk": "y"}, ofport=7
    )

    running.vsctl("del-port", "t1")
    drive(source, lambda: not _tunnels(source))


def test_interface_that_stops_being_a_tunnel_goes(
    running: OvsdbServer, source: OvsdbSource
) -> None:
    running.vsctl(*_TUNNEL)
    drive(source, lambda: bool(_tunnels(source)))
    running.vsctl("set", "interface", "t1", "type=internal")
    drive(source, lambda: not _tunnels(source))


def test_changes_of_other_ports_are_not_noticed(running: OvsdbServer, source: OvsdbSource) -> None:
    drive(source, lambda: source.problem is None)
    running.vsctl("add-port", "br0", "vm1", "--", "set", "interface", "vm1", "external_ids:a=b")
    running.vsctl("set", "port", "vm1", "tag=7", "--", "set", "bridge", "br0", "external_ids:c=d")
    assert idle(source, 0.5) == 0


def test_server_crash_and_restart_lose_nothing_and_change_nothing(
    running: OvsdbServer, source: OvsdbSource
) -> None:
    running.vsctl(*_TUNNEL, "options:remote_ip=192.0.2.1")
    drive(source, lambda: source.problem is None)
    before = source.snapshot()
    assert before[1] != ()

    seen = []

    def connected() -> bool:
        seen.append(source.snapshot())
        return source.problem is None

    for _ in range(3):
        running.kill()
        drive(source, lambda: not connected())
        assert "connection lost" in (source.problem or "")
        running.start()
        drive(source, connected)
    assert all(snapshot == before for snapshot in seen)

    running.vsctl("del-port", "t1")
    drive(source, lambda: not _tunnels(source))


def test_change_made_while_disconnected_is_seen_after_reconnect(
    running: OvsdbServer, source: OvsdbSource
) -> None:
    running.vsctl(*_TUNNEL, "options:remote_ip=192.0.2.1")
    drive(source, lambda: source.problem is None)
    running.kill()
    drive(source, lambda: source.problem is not None)
    running.start()
    running.vsctl("set", "interface", "t1", "options:remote_ip=192.0.2.2")
    drive(source, lambda: source.problem is None)
    assert _tunnels(source)["t1"].options == {"remote_ip": "192.0.2.2"}


def test_server_absent_at_start_is_waited_for_with_a_reason(
    server: OvsdbServer, source: OvsdbSource
) -> None:
    idle(source, 0.6)
    assert source.problem is not None
    assert "no such socket; is ovsdb-server running" in source.problem
    assert str(server.socket) in source.problem
    assert not source.in_sync
    server.start()
    server.vsctl("init")
    drive(source, lambda: source.in_sync and source.problem is None)


def test_database_that_is_not_set_up_yet_is_no_empty_world(
    server: OvsdbServer, source: OvsdbSource
) -> None:
    server.start()
    drive(source, lambda: "ovs-vsctl init" in (source.problem or ""))
    assert not source.in_sync
    server.vsctl("init")
    drive(source, lambda: source.in_sync)


def test_database_replaced_by_an_empty_one_keeps_the_last_snapshot(
    running: OvsdbServer, source: OvsdbSource
) -> None:
    running.vsctl(*_TUNNEL)
    drive(source, lambda: source.problem is None)
    before = source.snapshot()
    running.kill()
    running.create(vswitch_schema())
    running.start()
    drive(source, lambda: "ovs-vsctl init" in (source.problem or ""))
    assert source.snapshot() == before


def test_schema_without_a_needed_column_is_named(tmp_path: Path) -> None:
    schema = vswitch_schema()
    del schema["tables"]["Interface"]["columns"]["options"]
    schema["tables"]["Open_vSwitch"]["columns"]["other_config"]["type"] = "string"
    server = OvsdbServer(tmp_path, schema)
    server.start()
    source = OvsdbSource(server.remote)
    try:
        drive(source, lambda: "lacks" in (source.problem or ""))
        assert source.problem is not None
        assert "Interface.options (a map of strings)" in source.problem
        assert "Open_vSwitch.other_config" in source.problem
        assert source.snapshot()[1] == ()
    finally:
        source.close()
        server.kill()


def test_column_that_is_only_shown_may_be_missing(tmp_path: Path) -> None:
    schema = vswitch_schema()
    for name in ("ofport", "cfm_fault"):
        del schema["tables"]["Interface"]["columns"][name]
    server = OvsdbServer(tmp_path, schema)
    server.start()
    source = OvsdbSource(server.remote)
    try:
        server.vsctl("init")
        drive(source, lambda: source.problem is None)
    finally:
        source.close()
        server.kill()


def test_schema_changed_across_a_restart_keeps_the_tunnels_and_says_so(
    running: OvsdbServer, source: OvsdbSource
) -> None:
    running.vsctl(*_TUNNEL)
    drive(source, lambda: source.problem is None)
    before = source.snapshot()
    running.kill()
    schema = vswitch_schema()
    del schema["tables"]["Interface"]["columns"]["type"]
    running.create(schema)
    running.start()
    drive(source, lambda: "Interface.type" in (source.problem or ""))
    assert source.snapshot() == before


def test_unrelated_database_is_named(tmp_path: Path) -> None:
    column = {"columns": {"name": {"type": "string"}}}
    server = OvsdbServer(
        tmp_path, {"name": "OVN_Southbound", "version": "1.0.0", "tables": {"Chassis": column}}
    )
    server.start()
    source = OvsdbSource(server.remote)
    try:
        drive(source, lambda: "has no database Open_vSwitch" in (source.problem or ""))
        assert not source.in_sync
    finally:
        source.close()
        server.kill()


def test_port_on_a_userspace_bridge_is_marked_whatever_comes_first(
    running: OvsdbServer, source: OvsdbSource
) -> None:
    running.vsctl(*_TUNNEL)
    drive(source, lambda: source.problem is None)
    assert _tunnels(source)["t1"].datapath_type == "system"
    running.vsctl("set", "bridge", "br0", "datapath_type=netdev")
    drive(source, lambda: _tunnels(source)["t1"].datapath_type == "netdev")

    running.vsctl(
        "add-br", "br1", "--", "add-port", "br1", "t2", "--", "set", "interface", "t2", "type=gre"
    )
    running.vsctl("add-port", "br0", "t3", "--", "set", "interface", "t3", "type=vxlan")
    running.vsctl("add-port", "br0", "p4")
    running.vsctl("set", "interface", "p4", "type=vxlan")
    drive(source, lambda: len(_tunnels(source)) == 4)
    kinds = {name: tunnel.datapath_type for name, tunnel in _tunnels(source).items()}
    assert kinds == {"t1": "netdev", "t2": "system", "t3": "netdev", "p4": "netdev"}

    running.vsctl("set", "bridge", "br0", "datapath_type=system")
    drive(source, lambda: {t.datapath_type for t in _tunnels(source).values()} == {"system"})


def test_userspace_bridge_is_known_in_the_very_first_snapshot(
    running: OvsdbServer, source: OvsdbSource
) -> None:
    running.vsctl("set", "bridge", "br0", "datapath_type=netdev", "--", *_TUNNEL)
    drive(source, lambda: source.in_sync)
    assert _tunnels(source)["t1"].datapath_type == "netdev"
