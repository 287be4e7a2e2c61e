"""``python3 -m tools.lab``: build the lab's machine, and run something in it."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tools.lab.machine.build import BuildError
from tools.lab.machine.cache import say
from tools.lab.machine.qemu import Size, end_machines_when_terminated
from tools.lab.machine.recipe import SUITES
from tools.lab.machine.report import empty_tiers, read_junit
from tools.lab.machine.rootfs import build_images
from tools.lab.machine.session import (
    PROJECT,
    Session,
    new_results_directory,
    run,
    run_native,
    run_on_host,
    run_sharded,
)

_DEFAULT_TIMEOUT_S = 3000.0
_NO_TESTS = 5


def main(arguments: list[str]) -> int:
    """The exit status of what ran in the machine; 1 also if its images cannot be built."""
    parsed = _parser().parse_args(arguments)
    if os.environ.get("LAB") == "host":
        return run_on_host(_command(parsed), new_results_directory("host"))
    try:
        if parsed.action == "build":
            build_images(parsed.root, PROJECT)
            return 0
        session = Session(
            suite=parsed.root,
            argv=_command(parsed),
            timeout_s=parsed.timeout,
            environment=_environment(),
            interactive=parsed.action == "shell",
            size=Size(parsed.cpus),
            node_image=parsed.image,
        )
        results = new_results_directory(parsed.root)
        if parsed.action != "pytest":
            return run(session, results)
        if parsed.native:
            statuses = [run_native(parsed.root, session.argv, results / "shard-1")]
        else:
            statuses = run_sharded(session, results, parsed.shards)
        return _judge(parsed.root, results, statuses, parsed.arguments)
    except BuildError as error:
        say(str(error))
        return 1


def _judge(suite: str, results: Path, statuses: list[int], arguments: list[str]) -> int:
    """Add up what the machines report, and fail a tier that ran no test, or skipped one."""
    shares = range(1, len(statuses) + 1)
    tally = read_junit(results / f"shard-{number}" / "junit.xml" for number in shares)
    empty = empty_tiers(tally, arguments)
    for tier in empty:
        say(f"no test of {tier} ran")
    if tally.skipped.total():
        say("a test was skipped, which counts as failed here")
    print(f"{suite}: {tally.line()}")
    # 5 is pytest's status for a share without tests, which is no failure by itself.
    worst = max(0 if status == _NO_TESTS else status for status in statuses)
    return worst or (_NO_TESTS if empty or tally.skipped.total() or not tally.passed else 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m tools.lab", description=__doc__)
    parser.add_argument("--root", choices=SUITES, default=os.environ.get("LAB_ROOT", SUITES[0]))
    parser.add_argument("--timeout", type=float, default=_DEFAULT_TIMEOUT_S, metavar="SECONDS")
    parser.add_argument("--cpus", type=int, default=1, help="of the virtual machine")
    parser.add_argument(
        "--image",
        action="store_true",
        help="the machine has our container image, built if need be",
    )
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("build", help="build the images and stop")
    actions.add_parser("shell", help="a root shell in the machine")
    for name, text in (
        ("run", "run a program in the machine"),
        ("pytest", "run pytest in the machine"),
        ("demo", "run the demo in the machine"),
    ):
        action = actions.add_parser(name, help=text)
        if name == "pytest":
            action.add_argument("--shards", type=int, default=1, help="machines side by side")
            action.add_argument(
                "--native", action="store_true", help="on this machine's kernel, without a VM"
            )
        action.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser


def _command(parsed: argparse.Namespace) -> list[str]:
    if parsed.action == "shell":
        return ["/bin/bash", "-l"]
    arguments: list[str] = parsed.arguments
    if parsed.action == "demo":
        return ["python", "-m", "tools.lab.demo", *arguments]
    if parsed.action == "pytest":
        junit = "--junitxml=/results/junit.xml"
        return ["python", "-m", "pytest", "-p", "no:cacheprovider", junit, *arguments]
    return arguments


def _environment() -> dict[str, str]:
    """What the guest should know of the caller's environment: names that start with LAB_."""
    return {key: value for key, value in os.environ.items() if key.startswith("LAB_")}


if __name__ == "__main__":
    end_machines_when_terminated()
    sys.exit(main(sys.argv[1:]))
