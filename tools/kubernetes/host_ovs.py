"""Open vSwitch's database on the host of a node: what the DaemonSet expects to find there.

Its programs are those of the image. There is no ovs-vswitchd: nobody but the agent reads it.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from tools.kubernetes.worker import ADDRESS, PEER, Worker

CHASSIS = "chassis-1"
PEER_CHASSIS = "chassis-2"
RUN = Path("/run/openvswitch")
_OWNER = 65532
"""Open vSwitch need not be root's."""
_WAIT_S = 30


def start_open_vswitch(worker: Worker) -> None:
    """A database with a Geneve tunnel to the peer that stays silent."""
    RUN.mkdir(exist_ok=True)
    database, socket = f"{RUN}/conf.db", RUN / "db.sock"
    worker.host("ovsdb-tool", "create", database, "/usr/share/openvswitch/vswitch.ovsschema")
    worker.start_daemon(
        "ovsdb-server",
        ["chroot", str(worker.root), "ovsdb-server", f"--remote=punix:{socket}"]
        + [f"--unixctl={RUN}/server.ctl", database],
    )
    deadline = time.monotonic() + _WAIT_S
    while not socket.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"ovsdb-server does not start: {worker.log('ovsdb-server')}")
        time.sleep(0.05)
    vsctl = "ovs-vsctl --no-wait -- init -- set open . "
    vsctl += f"external_ids:system-id={CHASSIS} external_ids:ovn-encap-ip={ADDRESS}"
    vsctl += " -- add-br br-int -- add-port br-int ovn-0 -- set interface ovn-0 type=geneve"
    vsctl += f" options:remote_ip={PEER} options:key=flow options:csum=true"
    vsctl += f" options:local_ip={ADDRESS} options:remote_name={PEER_CHASSIS}"
    worker.host(*vsctl.split())
    socket.chmod(0o700)
    subprocess.run(["chown", f"{_OWNER}:{_OWNER}", str(socket)], check=True)
