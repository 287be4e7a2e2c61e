"""Where the node's agent is found by the commands that ask it."""

from __future__ import annotations

import os
from pathlib import Path

from ovn_ipsec.status.serve import DEFAULT_RUNDIR

PROGRAM = "ovs-monitor-ipsec"
"""Name of socket, pidfile and log, whatever the file is called that was run (COMPAT)."""


def rundir() -> Path:
    """Open vSwitch's run directory, as ``ovs-appctl`` finds it."""
    return Path(os.environ.get("OVS_RUNDIR") or DEFAULT_RUNDIR)
