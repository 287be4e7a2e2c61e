"""The libreswan driver when a tunnel, pluto or the disk is not as it should be."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from ovn_ipsec.drivers.command import Completed
from ovn_ipsec.drivers.libreswan import Libreswan
from ovn_ipsec.drivers.pluto import Pluto
from ovn_ipsec.model.conns import CertificateAuth
from ovn_ipsec.model.steps import (
    AddConnection,
    InitiateConnection,
    Listen,
    RecordConnection,
    ReplaceConnection,
    Step,
)
from tests.contract.pluto_daemon import (
    WITHIN_S,
    Daemon,
    config,
    errors,
    run,
)
from tools.lab.container import wait_until

pytestmark = pytest.mark.contract


def test_one_bad_tunnel_of_a_batch_gets_its_own_reason_and_leaves_no_file(
    daemon: Daemon, driver: Libreswan
) -> None:
    unknown = config("10.91.0.5", keywords=(("bogus", "1"),))
    no_cert = replace(config("10.91.0.6"), auth=CertificateAuth("a", "b", "nonesuch", None))
    outcomes = driver.apply(
        [
            AddConnection("t1", 1, config("10.91.0.4")),
            AddConnection("t2", 1, unknown),
            AddConnection("t3", 1, no_cert),
            AddConnection("t4", 1, config("10.91.0.7", psk="x" * 2000)),
            AddConnection("t5", 1, config("10.91.0.8")),
        ]
    )
    got = errors(outcomes)
    assert got[0] is None and got[4] is None
    assert got[1] is not None and "bogus" in got[1]
    assert got[2] is not None and "t3-in-1" in got[2]
    assert got[3] is not None and "2000 bytes" in got[3]
    assert {name.split("-")[0] for name in driver.observe().loaded} == {"t1", "t5"}
    # What libreswan's parser rejects must never wait in the directory for pluto's next start.
    assert not list(daemon.paths.tunnels_dir.glob("t2*"))
    daemon.stop()
    daemon.start()
    assert "t5-out-1" in driver.observe().loaded


def test_a_bad_word_in_many_rows_costs_a_check_of_each_kind_of_row(
    driver: Libreswan, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks: list[str] = []
    addconn = Pluto.addconn

    def noted(pluto: Pluto, text: str, *words: str) -> Completed:
        checks.extend(word for word in words if word == "--checkconfig")
        return addconn(pluto, text, *words)

    monkeypatch.setattr(Pluto, "addconn", noted)
    good = [AddConnection(f"g{n}", 1, config(f"10.91.2.{n}")) for n in range(1, 9)]
    bogus = (("bogus", "1"),)
    bad = [AddConnection(f"b{n}", 1, config(f"10.91.3.{n}", keywords=bogus)) for n in range(1, 9)]
    got = errors(driver.apply([*good, *bad]))
    assert got[:8] == [None] * 8
    for step, error in zip(bad, got[8:], strict=True):
        assert error is not None and error.startswith(f"tunnel {step.tunnel}: libreswan rejects")
    assert len(checks) == 3  # all at once, then the two kinds


def test_a_connection_deleted_behind_our_back_is_noticed_from_its_sas(
    daemons: list[Daemon], driver: Libreswan
) -> None:
    daemon, _ = daemons
    step = AddConnection("t", 1, config("10.91.0.200", lead=True))
    assert errors(driver.apply([step])) == [None]
    wait_until(lambda: driver.observe().ike_sas != (), WITHIN_S, "pluto tries")
    daemon.whack("--name", "t-in-1", "--delete")
    daemon.whack("--name", "t-out-1", "--delete")
    assert driver.observe().loaded == frozenset()


def test_initiating_what_is_not_loaded_says_so(driver: Libreswan, daemon: Daemon) -> None:
    (outcome,) = driver.apply([InitiateConnection("t", ("t-in-1",))])
    assert outcome.error is not None and "t-in-1 is not loaded" in outcome.error


def test_without_pluto_steps_fail_each_with_a_reason_and_records_are_still_written(
    daemons: list[Daemon],
) -> None:
    driver = Libreswan(daemons[0].paths)
    assert not driver.observe().running
    steps: list[Step] = [
        AddConnection("t", 1, config()),
        InitiateConnection("u", ("u-in-1",)),
        Listen(),
        RecordConnection("v", 7, config("10.91.0.3")),
    ]
    got = errors(driver.apply(steps))
    assert all(error is not None and "no IKE daemon" in error for error in got[:3])
    assert got[3] is None
    assert Libreswan(daemons[0].paths).observe_installed()["v"].version == 7


def test_a_full_disk_fails_only_the_steps_that_write_and_leaves_the_old_files(
    daemon: Daemon, driver: Libreswan
) -> None:
    tunnels = daemon.paths.tunnels_dir
    tunnels.mkdir(mode=0o700)
    run("mount", "-t", "tmpfs", "-o", "size=16k,mode=700", "tmpfs", str(tunnels))
    try:
        assert errors(driver.apply([AddConnection("t", 1, config())])) == [None]
        descriptor = os.open(tunnels / "blocker", os.O_CREAT | os.O_WRONLY)
        with pytest.raises(OSError, match="No space"):
            while True:
                os.write(descriptor, bytes(512))
        os.close(descriptor)
        before = {p.name: p.read_bytes() for p in tunnels.glob("*.*")}
        new = config(keywords=(("dpddelay", "9"),))
        names = ("t-in-1", "t-out-1")
        outcomes = driver.apply(
            [
                ReplaceConnection("t", names, 2, new),
                AddConnection("u", 1, config("10.91.0.5")),
                Listen(),
            ]
        )
        got = errors(outcomes)
        assert got[2] is None
        assert all(error is not None and "No space left" in error for error in got[:2])
        assert {p.name: p.read_bytes() for p in tunnels.glob("*.*")} == before
        assert driver.observe(full=True).loaded == set(names)
    finally:
        run("umount", str(tunnels))
