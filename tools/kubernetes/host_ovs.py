"""Open vSwitch's database on the host of a node: what the DaemonSet expects to find there.

Its programs are those of the image. There is no ovs-vswitchd: nobody but the agent reads it.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from tools.kubernetes.worker import ADDRESS, PEER, Worker

CHASSIS = "chassis-1"
PEER_CHASSIS = "chassis-2"
RUN = Path("/run/openvswitch")
_OWNER = 65532
"""Open vSwitch need not be root's."""
_WAIT_S = 30
_OVN_RUN = Path("/run/ovn")
_SOUTHBOUND = _OVN_RUN / "ovnsb_db.sock"
_MAP = {"type": {"key": "string", "value": "string", "min": 0, "max": "unlimited"}}
_NAME = {"type": "string"}
_SCHEMA = {
    "name": "OVN_Southbound",
    "version": "20.27.0",
    "tables": {
        "SB_Global": {"columns": {"ipsec": {"type": "boolean"}, "options": _MAP}},
        "Chassis_Private": {"columns": {"name": _NAME, "external_ids": _MAP}},
    },
}
"""What a follower reads and writes of OVN's own (ovn-sb(5)), which the image does not have."""


def start_open_vswitch(worker: Worker) -> None:
    """A database with a Geneve tunnel to the peer that stays silent."""
    RUN.mkdir(exist_ok=True)
    database, socket = f"{RUN}/conf.db", RUN / "db.sock"
    worker.host("ovsdb-tool", "create", database, "/usr/share/openvswitch/vswitch.ovsschema")
    _serve(worker, "ovsdb-server", database, socket)
    vsctl = "ovs-vsctl --no-wait -- init -- set open . "
    vsctl += f"external_ids:system-id={CHASSIS} external_ids:ovn-encap-ip={ADDRESS}"
    vsctl += " -- add-br br-int -- add-port br-int ovn-0 -- set interface ovn-0 type=geneve"
    vsctl += f" options:remote_ip={PEER} options:key=flow options:csum=true"
    vsctl += f" options:local_ip={ADDRESS} options:remote_name={PEER_CHASSIS}"
    worker.host(*vsctl.split())
    socket.chmod(0o700)
    subprocess.run(["chown", f"{_OWNER}:{_OWNER}", str(socket)], check=True)


def start_southbound(worker: Worker) -> None:
    """OVN's southbound database beside it, in which this node is a chassis."""
    _OVN_RUN.mkdir(exist_ok=True)
    schema, database = _OVN_RUN / "ovn-sb.ovsschema", f"{_OVN_RUN}/ovnsb_db.db"
    schema.write_text(json.dumps(_SCHEMA))
    worker.host("ovsdb-tool", "create", database, str(schema))
    _serve(worker, "southbound", database, _SOUTHBOUND)
    southbound(worker, {"op": "insert", "table": "SB_Global", "row": {"ipsec": True}})
    southbound(worker, {"op": "insert", "table": "Chassis_Private", "row": {"name": CHASSIS}})
    remote = f"external_ids:ovn-remote=unix:{_SOUTHBOUND}"
    worker.host("ovs-vsctl", "--no-wait", "set", "open", ".", remote)


def southbound(worker: Worker, operation: dict[str, Any]) -> dict[str, Any]:
    """The result of one operation (RFC 7047, section 5.2) on the southbound database."""
    said = worker.host(
        *["ovsdb-client", "transact", f"unix:{_SOUTHBOUND}"],
        json.dumps(["OVN_Southbound", operation]),
    )
    (result,) = json.loads(said)
    assert isinstance(result, dict) and "error" not in result, said
    return result


def _serve(worker: Worker, name: str, database: str, socket: Path) -> None:
    worker.start_daemon(
        name,
        ["chroot", str(worker.root), "ovsdb-server", f"--remote=punix:{socket}"]
        + [f"--unixctl={socket.parent}/{name}.ctl", database],
    )
    deadline = time.monotonic() + _WAIT_S
    while not socket.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{name} does not start: {worker.log(name)}")
        time.sleep(0.05)
