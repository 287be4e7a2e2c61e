"""``python -m tools.bench.tunnels``: measures in the lab, writes tables and plots."""

from __future__ import annotations

import argparse
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

from tools.bench.tunnels.newest import fetch_newest_original
from tools.bench.tunnels.report import write_report
from tools.lab.container import PROJECT
from tools.lab.machine.qemu import end_machines_when_terminated
from tools.lab.machine.recipe import SUITES
from tools.lab.machine.session import Session, new_results_directory, run

_TIMEOUT_S = 3 * 3600.0
_EXTRA = "newest-original"


def main(arguments: list[str]) -> int:
    """The exit status of the measurement; its words go to it as they are."""
    flags, words = _parser().parse_known_args(arguments)
    if flags.report_only:
        write_report(flags.report_only, flags.docs, flags.command)
        return 0
    version, script = fetch_newest_original()
    program = f"{_EXTRA}/ovs-monitor-ipsec"
    command = ["python", "-m", "tools.bench.tunnels.measure"]
    command += ["--newer", f"ovs-monitor-ipsec {version.split('-')[0]}", program]
    session = Session(
        suite=flags.root,
        argv=[*command, *words],
        timeout_s=_TIMEOUT_S,
        environment={"PYTHONUNBUFFERED": "1"},
        extras={program: script},
    )
    results = new_results_directory(flags.root)
    status = run(session, results)
    if status == 0:
        said = shlex.join(["python", "-m", "tools.bench.tunnels", *words])
        measured = [results / "tunnels.json"]
        write_report(measured, flags.docs, f"{datetime.now(UTC):%Y-%m-%d}: {said}")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.tunnels",
        description=__doc__,
        epilog="Everything else goes to tools.bench.tunnels.measure.",
    )
    parser.add_argument("--root", choices=SUITES, default=SUITES[0], help="of the lab's machine")
    parser.add_argument("--docs", type=Path, default=PROJECT / "docs" / "benchmarks")
    parser.add_argument(
        "--report-only", type=Path, nargs="+", metavar="JSON", help="of earlier runs"
    )
    parser.add_argument("--command", default="", help="with --report-only: what was run, and when")
    return parser


if __name__ == "__main__":
    end_machines_when_terminated()
    sys.exit(main(sys.argv[1:]))
