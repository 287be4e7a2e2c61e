"""Runs the measurements inside the lab's machine and writes JSON."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tools.bench.tunnels.contenders import CONTENDERS, Asker, Contender, Usage, percentile
from tools.bench.tunnels.stage import Stage, addresses
from tools.lab.container import wait_until
from tools.lab.lab import Lab

_SETTLE_S = 5.0
_WORK_LINES = (": added IKEv2 connection", "terminating SAs using")
"""What pluto logs when it is told to do something; initiations it also begins by itself."""


@dataclass
class Row:
    """What one contender did with so many peers. Seconds of the lab's clock, -1: not in time."""

    contender: str
    peers: int
    dead: int
    values: dict[str, float] = field(default_factory=dict)


def main(arguments: list[str]) -> int:
    """0 when everything was measured."""
    flags = _parser().parse_args(arguments)
    rows: list[Row] = []
    for peers in flags.peers:
        for contender in CONTENDERS:
            if flags.only and contender.name not in flags.only:
                continue
            row = Row(contender.name, peers, peers)
            rows.append(row)
            _say(f"{contender.name}, {peers} peers")
            with Lab() as lab:
                measure(lab, contender, row, flags.limit, flags.idle)
            _say(json.dumps(row.values))
            flags.output.write_text(json.dumps([asdict(each) for each in rows], indent=1) + "\n")
    return 0


def measure(lab: Lab, contender: Contender, row: Row, limit_s: float, idle_s: float) -> None:
    """All phases. What is not done within ``limit_s`` ends the row."""
    alive = addresses(16, row.peers + 2)
    dead = addresses(64, row.dead)
    *first, second_last, last = alive
    stage = Stage(lab, alive, dead)
    contender.start(stage)
    stage.add_ports([*alive, *dead])
    time.sleep(_SETTLE_S)
    try:
        _bulk(stage, contender, first, row, limit_s)
        _idle(stage, contender, row, "idle_core_share", idle_s)
        _one_more(stage, contender, second_last, len(first), row, "one_more_s", limit_s)
        contender.encrypt(stage, dead)
        time.sleep(30)
        _idle(stage, contender, row, "idle_half_dead_core_share", idle_s)
        tunnels = len(first) + 1
        _one_more(stage, contender, last, tunnels, row, "one_more_half_dead_s", limit_s)
        _one_less(stage, contender, last, tunnels, row, limit_s)
        _restart(stage, contender, row)
    except TimeoutError as error:
        _say(f"  given up: {error}")


def _bulk(
    stage: Stage, contender: Contender, remotes: list[str], row: Row, limit_s: float
) -> None:
    usage = Usage(stage, contender.pattern) if contender.pattern else None
    asker = Asker(stage.hub, contender.pattern) if contender.pattern else None
    if asker is not None:
        asker.__enter__()
    wanted = stage.loaded() + 2 * len(remotes)
    start = time.monotonic()
    try:
        contender.encrypt(stage, remotes)
        wait_until(lambda: stage.loaded() >= wanted, limit_s, "loaded", interval_s=0.5)
        row.values["loaded_s"] = _since(start)
        stage.wait_up(len(remotes), limit_s)
        row.values["up_s"] = _since(start)
    finally:
        if asker is not None:
            asker.__exit__()
            row.values["queries"] = len(asker.latencies_s)
            if asker.latencies_s:
                row.values["query_p99_s"] = round(percentile(asker.latencies_s, 0.99), 3)
    if usage is not None:
        row.values["bulk_cpu_s"] = round(usage.cpu_s(), 2)
        row.values["rss_mb"] = round(usage.rss_mb(), 1)


def _idle(stage: Stage, contender: Contender, row: Row, name: str, idle_s: float) -> None:
    if contender.pattern is None:
        return
    time.sleep(_SETTLE_S)
    usage = Usage(stage, contender.pattern)
    time.sleep(idle_s)
    row.values[name] = round(usage.core_share(), 4)


def _one_more(
    stage: Stage,
    contender: Contender,
    remote: str,
    tunnels: int,
    row: Row,
    name: str,
    limit_s: float,
) -> None:
    usage = Usage(stage, contender.pattern) if contender.pattern else None
    start = time.monotonic()
    contender.encrypt(stage, [remote])
    stage.wait_up(tunnels + 1, limit_s)
    row.values[name] = _since(start)
    if usage is not None:
        row.values[name.replace("_s", "_cpu_s")] = round(usage.cpu_s(), 2)


def _one_less(
    stage: Stage, contender: Contender, remote: str, left: int, row: Row, limit_s: float
) -> None:
    start = time.monotonic()
    contender.remove(stage, remote)
    wait_until(
        lambda: remote not in stage.hub.xfrm_state(), limit_s, "the SAs are gone", interval_s=0.5
    )
    row.values["one_less_s"] = _since(start)
    stage.wait_up(left, 1)


def _restart(stage: Stage, contender: Contender, row: Row) -> None:
    if contender.pattern is None:
        return

    def work() -> int:
        log = stage.hub.pluto_log()
        return sum(log.count(line) for line in _WORK_LINES)

    time.sleep(_SETTLE_S)
    before, start = work(), time.monotonic()
    contender.restart(stage)
    stage.hub.appctl("ipsec/status", timeout_s=120)
    row.values["restart_s"] = _since(start)
    time.sleep(_SETTLE_S)
    row.values["restart_commands"] = work() - before


def _since(start: float) -> float:
    return round(time.monotonic() - start, 2)


def _say(text: str) -> None:
    print(text, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.bench.tunnels", description=__doc__)
    parser.add_argument("--peers", type=int, nargs="+", default=[10, 40, 100])
    parser.add_argument("--only", nargs="*", help="contenders (default: all)")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for a phase")
    parser.add_argument("--idle", type=float, default=60.0, help="seconds of idling")
    parser.add_argument("--output", type=Path, default=Path("/results/tunnels.json"))
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
