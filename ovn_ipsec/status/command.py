"""``ovn-ipsec status``: one look, or one each two seconds.

Exit codes: 0 every tunnel is encrypted and the node is well, 3 not so, 4 no agent answers, 130
interrupted before anything was shown. ^C ends --watch with the code of what was shown last.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from ovn_ipsec.errors import OvnIpsecError
from ovn_ipsec.settings import StrictParser
from ovn_ipsec.status.client import AgentUnreachableError, ask_status, find_socket
from ovn_ipsec.status.overview import Overview, build_overview, summary

ALL_ENCRYPTED, NOT_ALL, UNREACHABLE = 0, 3, 4
INTERRUPTED = 130
"""As a shell has it of SIGINT."""
WATCH_PERIOD_S = 2.0


def run_status(argv: Sequence[str], rundir: Path, program: str, out: TextIO) -> int:
    """Print the node's state to ``out``; the exit code."""
    flags = status_parser().parse_args(argv)
    verdict = INTERRUPTED
    try:
        while True:
            path = Path(flags.socket) if flags.socket else find_socket(rundir, program)
            # A pass of the agent for each look would be work that --watch never ends.
            status = ask_status(path, refresh=not (flags.cached or flags.watch))
            overview = build_overview(status)
            _show(status, overview, flags, out)
            verdict = ALL_ENCRYPTED if overview.all_encrypted else NOT_ALL
            if not flags.watch:
                return verdict
            time.sleep(WATCH_PERIOD_S)
    except AgentUnreachableError as error:
        sys.stderr.write(f"ovn-ipsec: {error}\n")
        return UNREACHABLE
    except KeyboardInterrupt:
        return verdict


def status_parser() -> StrictParser:
    """The command line of ``ovn-ipsec status``."""
    parser = StrictParser(
        prog="ovn-ipsec status",
        description="Is every tunnel of this node encrypted, and if not, why?",
        epilog="Exit codes: 0 all encrypted, 3 not all, 4 no agent answers, 130 interrupted "
        "before anything was shown.",
    )
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    parser.add_argument("--watch", action="store_true", help="again each 2 seconds, until ^C")
    parser.add_argument("--problems", action="store_true", help="only what is not encrypted")
    parser.add_argument(
        "--cached", action="store_true", help="the agent's last look, at most 15 s old, at once"
    )
    parser.add_argument("--socket", metavar="FILE", help="the agent's control socket")
    return parser


def _show(
    status: dict[str, Any], overview: Overview, flags: argparse.Namespace, out: TextIO
) -> None:
    if flags.json:
        told = {
            "all_encrypted": overview.all_encrypted,
            "tunnels_total": len(overview.rows),
            "tunnels_encrypted": overview.encrypted,
            "summary": summary(overview),
        }
        out.write(json.dumps({"summary": told, **status}) + "\n")
        out.flush()
        return
    try:
        from rich.console import Console

        from ovn_ipsec.status.table import render
    except ImportError as error:
        raise OvnIpsecError(
            "the table needs the package rich: pip install ovn-ipsec[status]; or use --json"
        ) from error
    console = Console(file=out, highlight=False)
    if flags.watch and console.is_terminal:
        console.clear()
    console.print(render(overview, console.width, problems_only=flags.problems))
