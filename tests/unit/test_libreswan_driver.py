"""The driver before strict stand-ins for whack and ip: what it makes of their failures."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ovn_ipsec.drivers.libreswan import Libreswan
from ovn_ipsec.drivers.libreswan_files import LibreswanPaths
from ovn_ipsec.drivers.pluto import Pluto
from ovn_ipsec.errors import DriverError, ObservationError

WHACK = """#!/bin/sh
echo "$*" >>{root}/asked
case "$*" in
*--version) echo "Libreswan 4.10" ;;
*--trafficstatus) cat {root}/states ;;
*--trafficstatus\\ --name*) echo "000 " ;;
*--briefstatus) echo "000 " ;;
*--status) cat {root}/loaded; echo "000 Total IPsec connections: loaded 0, active 0" ;;
*) echo "unknown: $*" >&2; exit 99 ;;
esac
"""
WHACK_WITHOUT_PLUTO = """#!/bin/sh
echo 'whack: Pluto is not running (no "pluto.ctl")' >&2
exit 33
"""
IP = """#!/bin/sh
[ ! -e {root}/broken-$2 ] || exit 1
case "$*" in
"xfrm policy list") cat {root}/policies ;;
"xfrm state list nokeys") ;;
*) echo "unknown: $*" >&2; exit 99 ;;
esac
"""
UP = """\
000 #3: "tun-in-1":500 STATE_V2_ESTABLISHED_CHILD_SA (established Child SA); IKE SA #1; idle;
006 #3: "tun-in-1", type=ESP, add_time={add_time}, inBytes=0, outBytes=0, maxBytes=2^63B, id='b'
"""
POLICY = "src 10.0.0.1/32 dst 10.0.0.2/32 proto udp dport 6081\n\tdir out priority 1 ptype main\n"


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LibreswanPaths:
    paths = LibreswanPaths.from_flags(str(tmp_path))
    program(paths.libexec_dir / "whack", WHACK.format(root=tmp_path))
    (tmp_path / "states").write_text("000 \n")
    (tmp_path / "loaded").touch()
    paths.run_dir.mkdir(parents=True)
    paths.ctl.touch()
    program(tmp_path / "bin/ip", IP.format(root=tmp_path))
    (tmp_path / "policies").write_text(POLICY)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return paths


def test_what_one_pluto_said_is_not_what_the_next_one_means(
    paths: LibreswanPaths, tmp_path: Path
) -> None:
    driver = Libreswan(paths)

    def made_at(said: int) -> int | None:
        (tmp_path / "states").write_text(UP.format(add_time=said))
        (child,) = driver.observe().children
        return child.add_time

    assert [made_at(100), made_at(99)] == [100, 100], "it wavers by a second"
    paths.ctl.rename(tmp_path / "old.ctl")
    paths.ctl.touch()
    assert made_at(99) == 99


@pytest.mark.parametrize(
    ("state", "count", "by_name", "all_of_them"),
    [("PARENT_I1", 3, 3, 0), ("PARENT_I1", 20, 0, 0), ("ESTABLISHED_IKE_SA", 20, 0, 1)],
    ids=["a few attempts", "many attempts", "SAs"],
)
def test_attempts_that_end_cost_no_list_of_all_connections_and_sas_do(
    paths: LibreswanPaths, tmp_path: Path, state: str, count: int, by_name: int, all_of_them: int
) -> None:
    """libreswan 5.2 rests after an attempt that nobody answered; a deleted connection is gone."""
    names = [f"d{number}-in-1" for number in range(count)]
    ends = ": 10.0.0.1/32===10.0.0.1...10.0.0.2===10.0.0.2/32; unrouted;"
    (tmp_path / "loaded").write_text("".join(f'000 "{name}"{ends}\n' for name in names))
    shown = "".join(
        f'000 #{serial}: "{name}":500 STATE_V2_{state} (said); idle;\n'
        for serial, name in enumerate(names, 1)
    )
    driver = Libreswan(paths)
    (tmp_path / "states").write_text(shown)
    assert driver.observe().loaded == set(names)
    (tmp_path / "states").write_text("000 \n")
    (tmp_path / "asked").unlink()
    assert driver.observe().loaded == set(names)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert sum("--name" in words for words in asked) == by_name
    assert sum(words.endswith("--status") for words in asked) == all_of_them


@pytest.mark.parametrize("table", ["policy", "state"])
def test_kernel_table_that_could_not_be_read_is_read_again_before_it_is_believed(
    paths: LibreswanPaths, tmp_path: Path, table: str
) -> None:
    driver = Libreswan(paths)
    assert len(driver.observe().kernel.policies) == 1
    (tmp_path / "policies").write_text("")
    (tmp_path / f"broken-{table}").touch()
    with pytest.raises(ObservationError):
        driver.observe(kernel_changed=lambda: True)
    with pytest.raises(ObservationError):
        driver.observe()
    (tmp_path / f"broken-{table}").unlink()
    assert driver.observe().kernel.policies == frozenset()


def test_pluto_that_cannot_be_started_for_want_of_a_directory_is_a_named_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = LibreswanPaths.from_flags(str(tmp_path))
    program(paths.libexec_dir / "whack", WHACK_WITHOUT_PLUTO)
    monkeypatch.setattr(Pluto, "_refuse_second", lambda self: None)  # asks this machine's kernel
    (tmp_path / "var").touch()  # where /var/lib/ipsec/nss should be made
    with pytest.raises(DriverError, match="Not a directory"):
        Pluto(paths, 5).start()


def test_kernel_without_process_descriptors_costs_only_the_early_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int, flags: int = 0) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    pluto = Pluto(LibreswanPaths.from_flags(str(tmp_path)), 5)
    monkeypatch.setattr(os, "pidfd_open", refuse)
    monkeypatch.setattr(pluto, "pid", os.getpid)
    assert pluto.pidfd() is None
