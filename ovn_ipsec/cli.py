"""The command line: argv to the one module of ``ovn_ipsec.commands`` that does it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

import ovn_ipsec
from ovn_ipsec.errors import OvnIpsecError

COMMANDS = {
    "agent": "the node agent, also installed as ovs-monitor-ipsec",
    "guard": "the fail-closed table, also without an agent",
    "status": "is every tunnel encrypted, and if not, why?",
    "verify": "proof from the wire and the kernel",
    "support-bundle": "what a helper needs to see, without secrets",
    "enroll": "gets this node's certificate and keeps it renewed",
    "cluster": "switches IPsec on or off in a whole cluster, step by step",
    "web": "who is encrypted to whom in the whole cluster, as a page",
    "render": "Kubernetes manifests of a cluster network configuration",
}


def main(argv: Sequence[str] | None = None) -> int:
    """``ovn-ipsec``; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in COMMANDS:
        try:
            return command(words[0])(words[1:])
        except OvnIpsecError as error:
            print(f"ovn-ipsec: {error}", file=sys.stderr)
            return 1
    listing = "".join(f"  {name:15} {what}\n" for name, what in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="ovn-ipsec",
        usage="ovn-ipsec [-h] [--version] COMMAND ...",
        description=ovn_ipsec.__doc__,
        epilog=f"commands, each with a --help of its own:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=ovn_ipsec.__version__)
    parser.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS)
    parser.parse_args(words[:1])
    return 2


def monitor_main() -> int:
    """``ovs-monitor-ipsec``: the agent under the original's name."""
    return main(["agent", *sys.argv[1:]])


def command(name: str) -> Callable[[Sequence[str]], int]:
    """What does the command of that name; only its own modules are loaded.

    An agent lives for months on a node that has other uses for its memory, and ``status`` is
    asked by people who wait.
    """
    run: Callable[[Sequence[str]], int] = import_module(
        f"ovn_ipsec.commands.{name.replace('-', '_')}"
    ).run
    return run


if __name__ == "__main__":
    sys.exit(main())
