"""Man pages and shell completion, made of the parsers. man(7) macros; bash(1), complete."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

import ovn_ipsec
from tools.commands import Argument, Command

_DATE = "2026-11-22"
_NODE = (
    "Keeps every OVN/OVS tunnel packet of a cluster encrypted: it reads the tunnel interfaces "
    "that Open vSwitch has in its database, turns them into libreswan connections, keeps those "
    "up, and closes the node to tunnel packets in clear. It takes the place of ovs-monitor-ipsec."
)
_AUTHORITY = (
    "The authority that signs certificates of nodes, revokes them, and changes its own root "
    "without an outage."
)
_FILES = (
    ("/run/openvswitch/db.sock", "Open vSwitch's database, the usual DATABASE."),
    ("/run/openvswitch/ovs-monitor-ipsec.PID.ctl", "The agent's control socket, for ovs-appctl."),
    ("/etc/ipsec.d/ovn-ipsec/", "Connections of ours, which pluto includes."),
)
_STATUS = (
    ("0", "Done; of status, verify and web --once: all is encrypted."),
    ("1", "An error, which is told; also a wrong option of a command."),
    ("2", "There is no such command; of cluster, not done yet."),
    ("3", "Not all is encrypted."),
    ("4", "No agent answers."),
    ("130", "Of status: interrupted before anything was shown."),
)
_SEE = "ovs-appctl(8), ovs-vswitchd.conf.db(5), ipsec(8), ipsec.conf(5), nft(8)"


def node_page(commands: Sequence[Command]) -> str:
    """ovn-ipsec(8)."""
    lines = [*_head("ovn-ipsec", "encrypts the tunnels of OVN and Open vSwitch", _NODE)]
    lines += [*_commands(commands), *_list("EXIT STATUS", _STATUS), *_list("FILES", _FILES)]
    lines += [".SH SEE ALSO", _text(f"ovn-ipsec-ca(8), {_SEE}")]
    return "\n".join(lines) + "\n"


def authority_page(commands: Sequence[Command]) -> str:
    """ovn-ipsec-ca(8)."""
    lines = [*_head("ovn-ipsec-ca", "authority of the nodes' certificates", _AUTHORITY)]
    lines += [*_commands(commands), ".SH SEE ALSO", _text("ovn-ipsec(8)")]
    return "\n".join(lines) + "\n"


def completion(groups: Sequence[Sequence[Command]]) -> str:
    """For bash: subcommands, options, and files where a value is wanted."""
    cases = []
    programs = sorted({commands[0].words[0] for commands in groups})
    for commands in groups:
        offers: dict[tuple[str, ...], set[str]] = {}
        for command in commands:
            for depth in range(1, len(command.words)):
                offers.setdefault(command.words[:depth], set()).add(command.words[depth])
            flags = {name for one in command.arguments for name in one.names}
            places = {c for one in command.arguments if not one.names for c in one.choices}
            offers.setdefault(command.words, set()).update(flags | {"--help"} | places)
        for words, offered in sorted(offers.items()):
            cases.append(f'        "{" ".join(words)}") offer="{" ".join(sorted(offered))}" ;;')
    return _COMPLETION.format(cases="\n".join(cases), programs=" ".join(programs))


_COMPLETION = """# bash completion of ovn-ipsec; made by python -m tools.reference
_ovn_ipsec() {{
    local word offer known="${{COMP_WORDS[0]##*/}}" current="${{COMP_WORDS[COMP_CWORD]}}"
    _ovn_ipsec_offer "$known"
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case " $offer " in
            *" $word "*) [[ $word == -* ]] || {{ known+=" $word"; _ovn_ipsec_offer "$known"; }} ;;
        esac
    done
    _ovn_ipsec_offer "$known"
    mapfile -t COMPREPLY < <(compgen -W "$offer" -- "$current")
}}
_ovn_ipsec_offer() {{
    case "$1" in
{cases}
    esac
}}
complete -o default -F _ovn_ipsec {programs}
"""


def _head(name: str, does: str, description: str) -> Iterator[str]:
    yield f'.TH {name.upper()} 8 "{_DATE}" "ovn-ipsec {ovn_ipsec.__version__}"'
    yield ".SH NAME"
    yield f"{_text(name)} \\- {_text(does)}"
    yield ".SH SYNOPSIS"
    yield f".B {_text(name)}"
    yield ".I COMMAND"
    yield "[\\fIOPTION\\fR]..."
    yield ".SH DESCRIPTION"
    yield _text(description)


def _commands(commands: Sequence[Command]) -> Iterator[str]:
    yield ".SH COMMANDS"
    for command in commands:
        places = " ".join(f"\\fI{_text(a.value)}\\fR" for a in command.arguments if not a.names)
        yield f'.SS "{_text(" ".join(command.words[1:]))}{" " + places if places else ""}"'
        yield _text(" ".join(command.description.split()))
        for argument in command.arguments:
            if argument.names or argument.help or argument.choices:
                yield ".TP"
                yield _term(argument)
                yield _text(argument.help or f"one of {', '.join(argument.choices)}")
        if command.epilog:
            yield ".PP"
            yield _text(command.epilog)


def _term(argument: Argument) -> str:
    value = f"\\fI{_text(argument.value)}\\fR" if argument.value else ""
    names = ", ".join(f"\\fB{_text(name)}\\fR" for name in argument.names)
    return f"{names} {value}".strip()


def _list(title: str, entries: Sequence[tuple[str, str]]) -> Iterator[str]:
    yield f".SH {title}"
    for term, text in entries:
        yield ".TP"
        yield f"\\fB{_text(term)}\\fR"
        yield _text(text)


def _text(text: str) -> str:
    """As roff takes it: no macro at the beginning, hyphens that can be searched and copied."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    lines = textwrap.wrap(
        escaped.replace("'", "\\(aq"), 78, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(f"\\&{line}" if line.startswith(".") else line for line in lines)
