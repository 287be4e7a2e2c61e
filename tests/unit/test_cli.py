"""What the command line's root sees to before and around the agent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import ovs.jsonrpc
import pytest

from ovn_ipsec import cli, commands
from ovn_ipsec.commands.agent import serve_queries
from ovn_ipsec.commands.log import keep_rows_out_of_the_log
from ovn_ipsec.errors import OvnIpsecError


def test_debug_log_of_ovsdb_shows_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    log = SimpleNamespace(dbg=said.append, dbg_is_enabled=lambda: True)
    monkeypatch.setattr(ovs.jsonrpc, "vlog", log)
    row = {"Interface": {"options": ["map", [["psk", "swordfish"]]]}}

    def talk() -> str:
        connection = ovs.jsonrpc.Connection(SimpleNamespace(name="unix:db.sock", send=len))
        connection.send(ovs.jsonrpc.Message.create_notify("update3", [row]))
        return "".join(said)

    assert "swordfish" in talk(), "python-ovs logs otherwise now: look for where"
    said.clear()
    keep_rows_out_of_the_log()
    assert "swordfish" not in talk()


def test_control_socket_that_cannot_be_made_is_a_named_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVS_RUNDIR", str(tmp_path / "missing"))
    with pytest.raises(OvnIpsecError, match="missing.*control socket"):
        serve_queries(None)  # type: ignore[arg-type]  # never asked: the socket comes first


def test_each_command_has_a_module_of_its_own() -> None:
    modules = {path.stem for path in Path(commands.__path__[0]).glob("*.py")}
    for name in cli.COMMANDS:
        assert cli.command(name).__module__ == f"ovn_ipsec.commands.{name.replace('-', '_')}"
    helpers = {"__init__", "control", "log", "signals"}
    assert modules - helpers == {name.replace("-", "_") for name in cli.COMMANDS}


def test_agent_loads_nothing_that_only_other_commands_need() -> None:
    program = """
import sys
from ovn_ipsec import cli
cli.command("agent")
print(*sys.modules)
"""
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    others = {"rich", "yaml", "kubernetes", "ovn_ipsec.identity.node", "ovn_ipsec.web.page"}
    assert "ovn_ipsec.agent.node" in loaded and not others & set(loaded)


AGENT_WITHOUT_XFRM = """
import sys
from ovn_ipsec import cli
from ovn_ipsec.commands import agent
from ovn_ipsec.errors import SourceError

def refuse():
    raise SourceError("netlink family 6: cannot be opened")

agent.KernelEvents = refuse
agent.GuardEvents = lambda tables: None
sys.exit(cli.main(["agent", "unix:x", "--guard-on-unknown=enforce", *sys.argv[1:]]))
"""


def test_agent_that_cannot_be_built_leaves_the_guard_closed(tmp_path: Path) -> None:
    nft = tmp_path / "nft"
    nft.write_text(f"#!/bin/sh\n[ \"$*\" = '-j -f -' ] || exit 1\ncat > {tmp_path}/transaction\n")
    nft.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", AGENT_WITHOUT_XFRM, f"--guard-file={tmp_path}/guard.json"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1 and "netlink family 6" in done.stderr
    assert "mode=enforce" in (tmp_path / "transaction").read_text()
    assert "mode=enforce" in (tmp_path / "guard.json").read_text()
    # python-ovs has no log file here: its last resort would be standard error again.
    assert done.stderr.count("guard counters are carried over") == 1
