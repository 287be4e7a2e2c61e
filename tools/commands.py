"""The command lines, read from their parsers: what ``--help`` says is the one source."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import ovs.daemon
import ovs.dirs
import ovs.util
import ovs.vlog

from ca.cli import authority_parser
from ovn_ipsec.cluster.settings import cluster_parser
from ovn_ipsec.identity.settings import enroll_parser
from ovn_ipsec.render.command import render_parser
from ovn_ipsec.settings import agent_parser, guard_parser
from ovn_ipsec.status.command import status_parser
from ovn_ipsec.support.bundle import bundle_parser
from ovn_ipsec.verify.command import verify_parser
from ovn_ipsec.web.settings import web_parser


@dataclass(frozen=True, slots=True)
class Argument:
    """An option or an argument by its place."""

    names: tuple[str, ...]
    """Empty for one by its place."""
    value: str
    """What it takes, for people; empty for a flag."""
    help: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Command:
    """One way to call a program."""

    words: tuple[str, ...]
    """Program and subcommands."""
    description: str
    epilog: str
    arguments: tuple[Argument, ...]


def node_commands() -> tuple[Command, ...]:
    """Of ``ovn-ipsec``."""
    parsers = (
        _agent_parser(),
        guard_parser(),
        status_parser(),
        verify_parser(),
        web_parser(),
        bundle_parser(),
        enroll_parser(),
        cluster_parser(),
        render_parser(),
    )
    return tuple(command for parser in parsers for command in _walk(parser))


def _agent_parser() -> argparse.ArgumentParser:
    """With python-ovs's options, whose help names files after the program that runs."""
    before = (ovs.util.PROGRAM_NAME, ovs.dirs.RUNDIR)
    ovs.util.PROGRAM_NAME, ovs.dirs.RUNDIR = "ovs-monitor-ipsec", "/var/run/openvswitch"
    try:
        return agent_parser("ovn-ipsec agent", (ovs.vlog.add_args, ovs.daemon.add_args))
    finally:
        ovs.util.PROGRAM_NAME, ovs.dirs.RUNDIR = before


def authority_commands() -> tuple[Command, ...]:
    """Of ``ovn-ipsec-ca``."""
    return tuple(_walk(authority_parser()))


def _walk(parser: argparse.ArgumentParser, description: str = "") -> Iterator[Command]:
    inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for action in inner:
        told = {choice.dest: choice.help or "" for choice in action._choices_actions}
        for name, sub in action.choices.items():
            yield from _walk(sub, told.get(name, ""))
    if not inner:
        arguments = tuple(_argument(a, parser) for a in parser._actions if _is_shown(a))
        text = parser.description or description
        yield Command(tuple(parser.prog.split()), text, parser.epilog or "", arguments)


def _is_shown(action: argparse.Action) -> bool:
    return action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction)


def _argument(action: argparse.Action, parser: argparse.ArgumentParser) -> Argument:
    values = {**vars(action), "prog": parser.prog}
    text = " ".join((action.help % values).split()) if action.help else ""
    choices = tuple(map(str, action.choices or ()))
    value = ""
    if action.nargs != 0:
        metavar = action.metavar if isinstance(action.metavar, str) else None
        value = metavar or ("|".join(choices) if choices else action.dest.upper())
    return Argument(tuple(action.option_strings), value, text, choices)
