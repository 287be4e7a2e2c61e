"""``python3 -m tools.lab``: build the lab's machine, and run something in it."""

from __future__ import annotations

import argparse
import os
import sys

from tools.lab.machine.cache import say
from tools.lab.machine.recipe import SUITES
from tools.lab.machine.rootfs import BuildError, build_images
from tools.lab.machine.session import PROJECT, Session, run

_DEFAULT_TIMEOUT_S = 3000.0


def main(arguments: list[str]) -> int:
    """The exit status of what ran in the machine, or 1 if its images cannot be built."""
    parsed = _parser().parse_args(arguments)
    try:
        if parsed.action == "build":
            build_images(parsed.root, PROJECT)
            return 0
        return run(
            Session(
                suite=parsed.root,
                argv=_command(parsed),
                timeout_s=parsed.timeout,
                environment=_environment(),
                interactive=parsed.action == "shell",
            )
        )
    except BuildError as error:
        say(str(error))
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m tools.lab", description=__doc__)
    parser.add_argument("--root", choices=SUITES, default=os.environ.get("LAB_ROOT", SUITES[0]))
    parser.add_argument("--timeout", type=float, default=_DEFAULT_TIMEOUT_S, metavar="SECONDS")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("build", help="build the images and stop")
    actions.add_parser("shell", help="a root shell in the machine")
    for name, text in (
        ("run", "run a program in the machine"),
        ("pytest", "run pytest in the machine"),
        ("demo", "run the demo in the machine"),
    ):
        action = actions.add_parser(name, help=text)
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
    sys.exit(main(sys.argv[1:]))
