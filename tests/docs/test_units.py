"""What is installed on a node, and the units as systemd reads them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import ovn_ipsec
from tools.reference import PROJECT

pytestmark = pytest.mark.docs

_OTHERS = ("/usr/bin/ovs-appctl",)
"""Of Open vSwitch's packages."""
_TARGETS = ("sysinit", "network-pre", "network-online", "multi-user", "basic", "shutdown")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("node")
    install = [PROJECT / "tools/install.sh"]
    subprocess.run(install, env={**os.environ, "DESTDIR": str(root)}, check=True)
    for program in _OTHERS:
        (root / program[1:]).parent.mkdir(parents=True, exist_ok=True)
        (root / program[1:]).write_text("#!/bin/sh\n")
        (root / program[1:]).chmod(0o755)
    for target in _TARGETS:
        (root / f"etc/systemd/system/{target}.target").write_text("[Unit]\n")
    return root


def said_by(root: Path, program: str, word: str) -> str:
    return subprocess.check_output([str(root / "opt/ovn-ipsec/bin" / program), word], text=True)


@pytest.mark.parametrize("program", ["ovn-ipsec", "ovs-monitor-ipsec"])
def test_installed_program_answers(installed: Path, program: str) -> None:
    assert program.split("-")[-1] in said_by(installed, program, "--help")


def test_installed_release_is_this_one(installed: Path) -> None:
    assert said_by(installed, "ovn-ipsec", "--version").strip() == ovn_ipsec.__version__


def test_systemd_finds_no_fault_with_the_units_and_every_program_of_theirs(
    installed: Path,
) -> None:
    units = sorted(path.name for path in (PROJECT / "manifests/systemd").glob("*.service"))
    argv = ["systemd-analyze", "verify", "--man=no", f"--root={installed}", *units]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
