"""Runs the measurements inside the lab's machine and writes JSON."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tools.bench.tunnels.certificate import measure_certificate
from tools.bench.tunnels.churn import measure_churn
from tools.bench.tunnels.contenders import (
    SETTLE_S,
    Asker,
    Contender,
    Floor,
    Original,
    Ours,
    Usage,
    percentile,
    set_stage,
)
from tools.bench.tunnels.data_plane import KINDS, measure_data_plane
from tools.bench.tunnels.limits import measure_limits
from tools.bench.tunnels.mesh import measure_mesh
from tools.bench.tunnels.sa_events import SaEvents
from tools.bench.tunnels.stage import (
    SAS_TO_A_PEER,
    Stage,
    addresses,
    soon,
    write_secret,
)
from tools.lab.container import PROJECT, CommandError, LabError
from tools.lab.lab import Lab
from tools.lab.monitor import ORIGINAL

_PARTS = ("data-plane", "churn", "certificate", "hub", "answers", "limits", "mesh")
_CALM_AFTER_S = 30.0
"""After a crowd has come up, or has begun to try, until whoever watches it has seen all of it."""
_CERTIFICATE_PEERS = 4
_WORK_LINES = (": added IKEv2 connection", "terminating SAs using")
"""What pluto logs when it is told to do something; initiations it also begins by itself."""
PLUTO = "^/usr/libexec/ipsec/pluto"


@dataclass
class Row:
    """What one contender did with so many peers. Seconds of the lab's clock."""

    part: str
    contender: str
    peers: int
    values: dict[str, float] = field(default_factory=dict)
    rekeys_due_s: list[int] = field(default_factory=list)
    """Of the hub's child SAs, when all are up."""
    gave_up: str = ""
    """What was not done within the limit; nothing was measured after it."""


@dataclass
class Results:
    """Everything, written again after each row."""

    output: Path
    versions: dict[str, str]
    rows: list[Row] = field(default_factory=list)

    def measure(self, row: Row, work: Callable[[Lab], None]) -> None:
        """Do it in a lab of its own; what goes wrong ends the row, not the run."""
        print(f"{row.part}: {row.contender}, {row.peers}", flush=True)
        self.rows.append(row)
        try:
            with Lab() as lab:
                try:
                    work(lab)
                except Exception:
                    lab.dump(self.output.parent / f"{row.part}-{row.contender}-{row.peers}")
                    raise
        except (TimeoutError, LabError, subprocess.TimeoutExpired) as error:
            row.gave_up = str(error)[:300]
        print(f"  {json.dumps(row.values)} {row.gave_up}", flush=True)
        text = json.dumps({"versions": self.versions, "rows": [asdict(row) for row in self.rows]})
        self.output.write_text(text + "\n")


def main(arguments: list[str]) -> int:
    """0 when everything was tried."""
    flags = _parser().parse_args(arguments)
    contenders: list[Contender] = [Ours(), Floor()]
    most: dict[str, int] = {}
    for name, program in (("ovs-monitor-ipsec", ORIGINAL), *(flags.newer or ())):
        contenders.append(Original(name, str(PROJECT / program)))
        most[name] = flags.original_most
    if flags.only:
        contenders = [each for each in contenders if each.name in flags.only]
    results = Results(flags.output, _versions())
    _warm_up(flags.limit)
    if "data-plane" in flags.parts:
        _data_plane(results, flags.seconds)
    if "churn" in flags.parts:
        for contender in contenders:
            if contender.pattern is not None:
                row = Row("churn", contender.name, 0)
                results.measure(row, _churn(row, contender, flags.idle))
    if "certificate" in flags.parts:
        for contender in contenders:
            if contender.pattern is not None:
                row = Row("certificate", contender.name, _CERTIFICATE_PEERS)
                results.measure(row, _certificate(row, contender, flags.limit))
    hubs = [
        (peers, contender)
        for peers in flags.peers
        for contender in contenders
        if peers <= most.get(contender.name, peers)
    ]
    for peers, contender in hubs if "hub" in flags.parts else ():
        row = Row("hub", contender.name, peers)
        results.measure(row, _hub(row, contender, flags.limit, flags.idle))
    for peers, contender in hubs if "answers" in flags.parts else ():
        if contender.pattern is not None:
            row = Row("answers", contender.name, peers)
            results.measure(row, _answers_meanwhile(row, contender, flags.limit))
    if "limits" in flags.parts:
        for peers in flags.peers:
            row = Row("limits", "Open vSwitch and pluto", peers)
            results.measure(row, _limits(row, flags.limit))
    if "mesh" in flags.parts:
        for size in flags.mesh:
            row = Row("mesh", "ovn-ipsec", size)
            results.measure(row, _mesh(row, flags.limit))
    return 0


def _warm_up(limit_s: float) -> None:
    """The first SA of a boot has the kernel load and test its ciphers: half a second of the core,
    which would be on the bill of whoever comes first."""
    floor, alive = Floor(), addresses(16, 1)
    with Lab() as lab:
        stage = set_stage(lab, floor, alive, [])
        with SaEvents(stage.hub) as events:
            floor.encrypt(stage, alive)
            stage.wait_up(events, len(alive), limit_s)


def _mesh(row: Row, limit_s: float) -> Callable[[Lab], None]:
    return lambda lab: measure_mesh(lab, row.peers, limit_s, row.values)


def _limits(row: Row, limit_s: float) -> Callable[[Lab], None]:
    return lambda lab: row.values.update(measure_limits(lab, row.peers, limit_s))


def _churn(row: Row, contender: Contender, seconds: float) -> Callable[[Lab], None]:
    return lambda lab: row.values.update(measure_churn(lab, contender, seconds))


def _answers_meanwhile(row: Row, contender: Contender, limit_s: float) -> Callable[[Lab], None]:
    return lambda lab: measure_answers(lab, contender, row, limit_s)


def _certificate(row: Row, contender: Contender, limit_s: float) -> Callable[[Lab], None]:
    return lambda lab: row.values.update(measure_certificate(lab, contender, row.peers, limit_s))


def _data_plane(results: Results, seconds: float) -> None:
    rows = {kind: Row("data-plane", kind, 1) for kind in KINDS}

    def work(lab: Lab) -> None:
        for kind, values in measure_data_plane(lab, seconds).items():
            rows[kind].values.update(values)

    *others, last = rows.values()
    results.rows += others
    results.measure(last, work)


def _hub(row: Row, contender: Contender, limit_s: float, idle_s: float) -> Callable[[Lab], None]:
    return lambda lab: measure_hub(lab, contender, row, limit_s, idle_s)


def measure_hub(
    lab: Lab,
    contender: Contender,
    row: Row,
    limit_s: float,
    idle_s: float,
    calm_after_s: float = _CALM_AFTER_S,
) -> None:
    """All phases of one hub. Raises TimeoutError when one takes longer than ``limit_s``."""
    # One of them stays without IPsec: when the last such row goes, the guard is made anew.
    alive = addresses(16, row.peers + 3)
    dead = addresses(64, row.peers)
    *first, second_last, last, _ = alive
    stage = set_stage(lab, contender, alive, dead)
    _bulk(stage, contender, first, row, limit_s)
    time.sleep(calm_after_s)
    _idle(stage, contender, row, "idle_core_share", idle_s)
    row.rekeys_due_s = _rekeys_due(stage)
    row.values |= _rekey_spread(row.rekeys_due_s)
    _one_more(stage, contender, second_last, row, "one_more", limit_s)
    stage.add_ports(dead)
    time.sleep(SETTLE_S)
    contender.encrypt(stage, dead)
    time.sleep(calm_after_s)
    _idle(stage, contender, row, "idle_half_dead_core_share", idle_s)
    _one_more(stage, contender, last, row, "one_more_half_dead", limit_s)
    _one_changed(stage, contender, first[0], row, limit_s)
    _one_less(stage, contender, last, row, limit_s)
    _restart(stage, contender, row)


def _bulk(
    stage: Stage, contender: Contender, remotes: list[str], row: Row, limit_s: float
) -> None:
    usage = Usage(stage.hub, contender.pattern) if contender.pattern else None
    ike = Usage(stage.hub, PLUTO)
    wanted = stage.loaded() + 2 * len(remotes)
    with SaEvents(stage.hub) as events:
        start = time.monotonic()
        contender.encrypt(stage, remotes)
        soon(lambda: stage.loaded() >= wanted, limit_s, "loaded")
        row.values["loaded_s"] = _since(start)
        stage.wait_up(events, len(remotes), limit_s)
        row.values["up_s"] = _since(start)
    row.values["pluto_cpu_s"] = round(ike.cpu_s(), 2)
    row.values["pluto_rss_mb"] = round(ike.rss_mb(), 1)
    if usage is not None:
        row.values["bulk_cpu_s"] = round(usage.cpu_s(), 2)
        row.values["rss_mb"] = round(usage.rss_mb(), 1)


def measure_answers(lab: Lab, contender: Contender, row: Row, limit_s: float) -> None:
    """How long answers take while all tunnels come up.

    Apart from the hub's phases: questions and long answers are work themselves, on the one core.
    """
    assert contender.pattern is not None
    stage = set_stage(lab, contender, addresses(16, row.peers), [])
    asker = Asker(stage.hub, contender.pattern)
    start = time.monotonic()
    try:
        with asker, SaEvents(stage.hub) as events:
            contender.encrypt(stage, stage.alive)
            stage.wait_up(events, row.peers, limit_s)
            row.values["up_s"] = _since(start)
    finally:
        row.values["queries"] = len(asker.latencies_s)
        if asker.latencies_s:
            row.values["query_p99_s"] = round(percentile(asker.latencies_s, 0.99), 3)
            row.values["query_median_s"] = round(percentile(asker.latencies_s, 0.5), 3)


def _idle(stage: Stage, contender: Contender, row: Row, name: str, idle_s: float) -> None:
    time.sleep(SETTLE_S)
    ike = Usage(stage.hub, PLUTO)
    usage = Usage(stage.hub, contender.pattern) if contender.pattern else None
    time.sleep(idle_s)
    row.values[f"pluto_{name}"] = round(ike.core_share(), 4)
    if usage is not None:
        row.values[name] = round(usage.core_share(), 4)


def _rekeys_due(stage: Stage) -> list[int]:
    """In how many seconds pluto will rekey each of its child SAs."""
    status = stage.hub.whack("--status")
    return [int(due) for due in re.findall(r"ESTABLISHED_CHILD_SA .*?REKEY in (\d+)s", status)]


def _rekey_spread(due: list[int]) -> dict[str, float]:
    """How many of them in the fullest minute, and in which span."""
    minutes = [each // 60 for each in due]
    values: dict[str, float] = {"rekeys_known": len(due)}
    if due:
        values["rekeys_in_fullest_minute"] = max(minutes.count(minute) for minute in set(minutes))
        values["rekey_first_s"], values["rekey_last_s"] = min(due), max(due)
    return values


def _one_more(
    stage: Stage,
    contender: Contender,
    remote: str,
    row: Row,
    name: str,
    limit_s: float,
) -> None:
    usage = Usage(stage.hub, contender.pattern) if contender.pattern else None
    with SaEvents(stage.hub) as events:
        start = time.monotonic()
        contender.encrypt(stage, [remote])
        events.wait(
            lambda: len(events.added(remote)) >= SAS_TO_A_PEER, limit_s, "one more tunnel up"
        )
        row.values[f"{name}_s"] = _since(start)
    if usage is not None:
        row.values[f"{name}_own_cpu_s"] = round(usage.own_cpu_s(), 3)
        row.values[f"{name}_cpu_s"] = round(usage.cpu_s(), 2)


def _one_changed(
    stage: Stage, contender: Contender, remote: str, row: Row, limit_s: float
) -> None:
    write_secret(stage.peers, (remote, stage.hub.ipv4))
    stage.peers.whack("--rereadsecrets")
    before = stage.spis(remote)
    with SaEvents(stage.hub) as events:
        start = time.monotonic()
        contender.change(stage, remote)
        events.wait(
            lambda: len(events.added(remote)) >= len(before),
            limit_s,
            "new SAs with the new secret",
        )
        row.values["one_changed_s"] = _since(start)


def _one_less(stage: Stage, contender: Contender, remote: str, row: Row, limit_s: float) -> None:
    before = stage.spis(remote)
    with SaEvents(stage.hub) as events:
        start = time.monotonic()
        contender.remove(stage, remote)
        events.wait(lambda: before <= events.gone, limit_s, "the SAs are gone")
        row.values["one_less_s"] = _since(start)


def _restart(stage: Stage, contender: Contender, row: Row) -> None:
    if contender.pattern is None:
        return

    def work() -> int:
        log = stage.hub.pluto_log()
        return sum(log.count(line) for line in _WORK_LINES)

    time.sleep(SETTLE_S)
    before, start = work(), time.monotonic()
    contender.restart(stage.hub)
    soon(lambda: _answers(stage), 120, "a true status")
    row.values["restart_s"] = _since(start)
    time.sleep(SETTLE_S)
    row.values["restart_commands"] = work() - before


def _answers(stage: Stage) -> bool:
    """Whether the monitor knows how its tunnels are: ours says so when it does not yet."""
    try:
        return bool(stage.hub.appctl("ipsec/status", timeout_s=120))
    except CommandError:
        return False


def _versions() -> dict[str, str]:
    commands = {
        "kernel": ["uname", "-r"],
        "libreswan": ["ipsec", "--version"],
        "Open vSwitch": ["ovs-vswitchd", "--version"],
        "Python": [sys.executable, "--version"],
    }
    return {
        name: subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split("\n")[
            0
        ]
        for name, argv in commands.items()
    }


def _since(start: float) -> float:
    return round(time.monotonic() - start, 2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.bench.tunnels.measure")
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=_PARTS)
    parser.add_argument("--peers", type=int, nargs="*", default=[10, 40, 100])
    parser.add_argument("--mesh", type=int, nargs="*", default=[5, 10, 20])
    parser.add_argument("--newer", nargs=2, action="append", metavar=("NAME", "PROGRAM"))
    parser.add_argument("--only", nargs="+", metavar="CONTENDER", help="default: all")
    parser.add_argument("--original-most", type=int, default=100, help="peers for the originals")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for a phase")
    parser.add_argument("--idle", type=float, default=60.0, help="seconds of idling")
    parser.add_argument("--seconds", type=float, default=8.0, help="of a data plane measurement")
    parser.add_argument("--output", type=Path, default=Path("/results/tunnels.json"))
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
