"""Pages that are made from code say what the code says, and the shell completes it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ovn_ipsec.cli import COMMANDS
from ovn_ipsec.model.causes import CauseCode
from tools.commands import authority_commands, node_commands
from tools.reference import DOCS, PROJECT, pages

COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _ovn_ipsec
echo "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.name)
def test_page_is_what_the_code_gives(path: Path) -> None:
    assert path.read_text() == pages()[path], "run python -m tools.reference"


def test_every_command_and_option_says_what_it_is_for() -> None:
    commands = (*node_commands(), *authority_commands())
    for command in commands:
        assert command.description, command.words
        for one in command.arguments:
            assert one.help or one.choices or not one.names, (command.words, one.names)
    assert {command.words[1] for command in node_commands()} == set(COMMANDS)


def test_every_cause_is_explained() -> None:
    page = (DOCS / "causes.md").read_text()
    for code in CauseCode:
        assert f"`{code}`" in page, code


def complete(*words: str) -> set[str]:
    script = PROJECT / "share/bash-completion/completions/ovn-ipsec"
    done = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", script, *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return set(done.stdout.split())


def test_shell_completes_commands_and_their_options() -> None:
    assert complete("ovn-ipsec", "st") == {"status"}
    assert complete("/usr/bin/ovn-ipsec", "guard", "") >= {"apply", "show", "remove"}
    assert complete("ovn-ipsec", "web", "--on") == {"--once"}
    assert complete("ovn-ipsec", "cluster", "e") == {"enable"}
    assert complete("ovn-ipsec", "cluster", "enable", "--n") == {"--nb"}
    assert complete("ovn-ipsec-ca", "revok") == {"revoke"}
    assert "--state" in complete("ovn-ipsec-ca", "revoke", "--")
