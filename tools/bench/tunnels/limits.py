"""What one more tunnel costs Open vSwitch and pluto beside many, whoever keeps them up.

Nobody watches meanwhile: the agent that has brought the tunnels up is dead.
"""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Callable

from tools.bench.tunnels.contenders import SETTLE_S, Ours, set_stage
from tools.bench.tunnels.database import Database
from tools.bench.tunnels.sa_events import SaEvents
from tools.bench.tunnels.stage import addresses, port_name
from tools.lab.lab import Lab

_TIMES = 7
_WHACK = "/usr/libexec/ipsec/whack"


def measure_limits(lab: Lab, peers: int, limit_s: float) -> dict[str, float]:
    """Seconds until vswitchd has taken a changed row, and of the command by which pluto reads all
    keys, one for each tunnel; beside it that of one which asks pluto nothing."""
    contender = Ours()
    stage = set_stage(lab, contender, addresses(16, peers), [])
    with SaEvents(stage.hub) as events:
        contender.encrypt(stage, stage.alive)
        stage.wait_up(events, peers, limit_s)
    stage.hub.kill_agent(signal.SIGKILL)
    time.sleep(SETTLE_S)
    with Database(stage.hub) as database:
        name = port_name(stage.alive[0])
        row_s = _median(lambda: database.change_and_wait(name))
    return {
        "row_s": row_s,
        "keys_s": _median(lambda: stage.hub.run([_WHACK, "--rereadsecrets"])),
        "nothing_s": _median(lambda: stage.hub.run([_WHACK, "--version"])),
    }


def _median(act: Callable[[], object]) -> float:
    took_s: list[float] = []
    for _ in range(_TIMES):
        start = time.monotonic()
        act()
        took_s.append(time.monotonic() - start)
        time.sleep(1)
    return round(statistics.median(took_s), 4)
