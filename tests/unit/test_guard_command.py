"""``ovn-ipsec guard`` with an nft that keeps what it is told, and the unit that runs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ovn_ipsec import cli
from ovn_ipsec.drivers.nftables_text import render_guard
from ovn_ipsec.model.conns import Guard, GuardCounters, GuardMode, GuardPort, Protocol

UNITS = Path(__file__).parents[2] / "manifests" / "systemd"
LAST = Guard(GuardMode.ENFORCE, frozenset({GuardPort(Protocol.UDP, 6081)}))
NFT = """#!{python}
import json, pathlib, sys
table = pathlib.Path("{table}")
words = sys.argv[1:]
if words == ["-j", "-f", "-"]:
    done = json.load(sys.stdin)["nftables"]
    table.write_text(json.dumps({{"nftables": [one["add"] for one in done if "add" in one]}}))
elif words == ["list", "tables", "inet"]:
    print("table inet ovn_ipsec" if table.exists() else "")
elif table.exists():
    print(table.read_text())
else:
    sys.exit("Error: No such file or directory")
"""


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the last guard is kept; nothing is there yet, and no table."""
    nft = tmp_path / "nft"
    nft.write_text(NFT.format(python=sys.executable, table=tmp_path / "table"))
    nft.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path / "guard.json"


def test_last_guard_is_put_in_force_from_the_file_that_is_named(
    kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept.write_text(render_guard(LAST, GuardCounters(0, 0)))
    assert cli.main(["guard", "apply", f"--guard-file={kept}"]) == 0
    assert "mode=enforce" in (kept.parent / "table").read_text()
    assert "enforce" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong",
    [
        "--guard-on-unknown=enforced",
        "--guard-ports=udp/70000",
        "--guard-mode=enforce",
        "--guard-on-unknown",
    ],
)
def test_wrong_option_is_told_after_the_last_guard_was_put_in_force(
    kept: Path, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    kept.write_text(render_guard(LAST, GuardCounters(0, 0)))
    assert cli.main(["guard", "apply", wrong, f"--guard-file={kept}"]) == 1
    assert "mode=enforce" in (kept.parent / "table").read_text()
    said = capsys.readouterr().err
    assert wrong.partition("=")[0] in said
    assert "The guard of the last run is in force: enforce." in said


def test_wrong_option_makes_no_guard_where_none_was(
    kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["guard", "apply", "--guard-ports=x", f"--guard-file={kept}"]) == 1
    assert not (kept.parent / "table").exists() and not kept.exists()
    assert "none is now" in capsys.readouterr().err


@pytest.mark.parametrize("action", ["show", "remove", "aply"])
def test_wrong_option_of_another_action_touches_nothing(kept: Path, action: str) -> None:
    kept.write_text(render_guard(LAST, GuardCounters(0, 0)))
    assert cli.main(["guard", action, "--guard-ports=x", f"--guard-file={kept}"]) == 1
    assert not (kept.parent / "table").exists() and kept.exists()


def test_agent_starts_also_where_the_unit_of_the_guard_failed() -> None:
    for name in ("ovn-ipsec.service", "openvswitch-ipsec.service.d/ovn-ipsec.conf"):
        lines = (UNITS / name).read_text().splitlines()
        (wants,) = (line for line in lines if line.startswith("Wants="))
        (after,) = (line for line in lines if line.startswith("After="))
        assert "ovn-ipsec-guard.service" in wants and "ovn-ipsec-guard.service" in after
        assert not [line for line in lines if line.startswith(("Requires=", "BindsTo="))]
    guard = (UNITS / "ovn-ipsec-guard.service").read_text()
    assert "\nRestart=on-failure\n" in guard
