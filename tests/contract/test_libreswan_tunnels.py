"""Tunnels that the libreswan driver loads, replaces and drops, as a real pluto then has them."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from functools import partial

import pytest

from ovn_ipsec.drivers import libreswan_text as text
from ovn_ipsec.drivers.command import Completed
from ovn_ipsec.drivers.libreswan import Libreswan
from ovn_ipsec.drivers.pluto import Pluto
from ovn_ipsec.model.conns import (
    CertificateAuth,
    Observed,
    Protocol,
    TunnelConfig,
    Unobserved,
)
from ovn_ipsec.model.steps import AddConnection, DropConnection, ReplaceConnection
from ovn_ipsec.plan import Memory, plan
from tests.contract.pluto_daemon import (
    LOCAL,
    PEER,
    UNREACHED,
    WITHIN_S,
    Daemon,
    config,
    errors,
    run,
)
from tests.unit.world import desired
from tools.lab.container import wait_until

pytestmark = pytest.mark.contract


def test_tunnels_are_loaded_in_order_and_recorded_for_the_next_agent(
    daemon: Daemon, driver: Libreswan
) -> None:
    steps = [
        AddConnection("ovn-b-0", 1, config("10.91.0.9")),
        AddConnection("gre-b", 4, config("10.91.0.8", protocol=Protocol.GRE, port=None)),
    ]
    assert errors(driver.apply(steps)) == [None, None]
    assert driver.observe().loaded == {"ovn-b-0-in-1", "ovn-b-0-out-1", "gre-b-4"}
    again = Libreswan(daemon.paths).observe_installed()
    assert {(i.name, i.version, i.digest) for i in again.values()} == {
        (s.tunnel, s.version, s.config.digest) for s in steps
    }
    assert driver.warnings == ()


@pytest.fixture
def asked(driver: Libreswan, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All words of whack since the driver has looked for the first time."""
    words_so_far: list[str] = []
    whack = Pluto.whack

    def noted(pluto: Pluto, *words: str) -> str:
        words_so_far.extend(words)
        return whack(pluto, *words)

    driver.observe()
    monkeypatch.setattr(Pluto, "whack", noted)
    return words_so_far


def test_a_few_loads_are_confirmed_by_name_and_what_pluto_cannot_orient_is_noticed(
    driver: Libreswan, asked: list[str]
) -> None:
    assert errors(driver.apply([AddConnection("t", 1, config(lead=True))])) == [None]
    assert "--status" not in asked
    assert driver.observe().loaded == {"t-in-1", "t-out-1"}
    assert errors(driver.apply([AddConnection("u", 1, UNREACHED)])) == [None]
    assert driver.observe().unoriented == {"u-in-1", "u-out-1"}


def test_a_connection_deleted_before_its_sa_was_seen_is_noticed(
    daemon: Daemon, driver: Libreswan, asked: list[str]
) -> None:
    steps = [AddConnection(f"t{n}", 1, config(f"10.91.0.{n}")) for n in range(2)]
    wanted = {f"{step.tunnel}-{role}-1" for step in steps for role in ("in", "out")}
    for step in steps:
        assert errors(driver.apply([step])) == [None]
    for _ in range(2):
        assert driver.observe().loaded == wanted
    daemon.whack("--name", "t0-in-1", "--delete")
    asked.clear()
    assert driver.observe(sas_unseen=True).loaded == wanted - {"t0-in-1"}
    assert "--name" in asked
    asked.clear()
    assert driver.observe().loaded == wanted - {"t0-in-1"}
    assert asked == ["--showstates", "--trafficstatus"]


def test_a_crowd_is_taken_for_loaded_and_what_lacks_an_sa_in_time_is_asked_for(
    daemon: Daemon, driver: Libreswan, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, late_s = time.monotonic, 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now() + late_s)
    many = [AddConnection(f"m{n}", 1, config(f"10.91.1.{n}")) for n in range(1, 11)]
    wanted = {f"{step.tunnel}-{role}-1" for step in many for role in ("in", "out")}
    assert errors(driver.apply(many)) == [None] * len(many)
    assert driver.observe().loaded == wanted
    assert "--status" not in asked
    # Gone without our knowing: as if pluto had refused them, which 4.10 tells nobody.
    daemon.whack("--name", "m3-in-1", "--delete")
    assert driver.observe().loaded == wanted
    late_s = 60.0
    assert driver.observe().loaded == wanted - {"m3-in-1"}
    asked.clear()
    assert driver.observe().loaded == wanted - {"m3-in-1"}
    assert "--status" not in asked
    # Of these only pluto's word counts now, for as long as it says no.
    addconn = Pluto.addconn

    def refused(pluto: Pluto, batch: str, *words: str) -> Completed:
        done = addconn(pluto, batch, *words)
        daemon.whack("--name", "m3-in-1", "--delete")
        return done

    monkeypatch.setattr(Pluto, "addconn", refused)
    for _ in range(3):
        asked.clear()
        failed = dict(zip(many, errors(driver.apply(many)), strict=True))
        assert [step.tunnel for step, error in failed.items() if error] == ["m3"]
        assert "--status" in asked
        assert driver.observe().loaded == wanted - {"m3-in-1"}
    monkeypatch.setattr(Pluto, "addconn", addconn)
    assert errors(driver.apply(many)) == [None] * len(many)
    assert driver.observe().loaded == wanted


def test_a_replaced_tunnel_has_only_its_new_connections_and_foreign_ones_stay(
    daemon: Daemon, driver: Libreswan
) -> None:
    foreign = text.render_connections("theirs", 1, config("10.91.0.77"))
    daemon.load(foreign, "")
    driver.apply([AddConnection("t", 1, config("10.91.0.4"))])
    new = config("10.91.0.4", keywords=(("dpddelay", "5"),))
    step = ReplaceConnection("t", ("t-in-1", "t-out-1"), 2, new)
    assert errors(driver.apply([step])) == [None]
    theirs = {"theirs-in-1", "theirs-out-1"}
    assert driver.observe(full=True).loaded == {"t-in-2", "t-out-2"} | theirs
    assert errors(driver.apply([DropConnection("t", ("t-in-2", "t-out-2"))])) == [None]
    assert driver.observe(full=True).loaded == theirs
    assert driver.observe_installed() == {}
    assert list(daemon.paths.tunnels_dir.iterdir()) == []


def follow(driver: Libreswan, **tunnels: TunnelConfig) -> frozenset[str]:
    """Plan once and apply it; what pluto has then."""
    seen = Observed(
        driver.observe(full=True), driver.observe_installed(), (), Unobserved("not asked")
    )
    made = plan(desired(**tunnels), seen, Memory(), time.monotonic())
    assert set(errors(driver.apply(made.steps))) <= {None}
    return driver.observe(full=True).loaded


@pytest.mark.parametrize("changed", ["x", "x-in", "x-out"])
@pytest.mark.parametrize("port", [6081, None])
def test_a_tunnel_named_like_half_of_another_is_replaced_and_dropped_alone(
    driver: Libreswan, port: int | None, changed: str
) -> None:
    protocol = Protocol.GRE if port is None else Protocol.UDP
    tunnels = {
        name: config(f"10.91.0.{last}", protocol=protocol, port=port)
        for name, last in (("x", 7), ("x-in", 8), ("x-out", 9))
    }
    everything = follow(driver, **tunnels)
    others = everything - driver.observe_installed()[changed].connections
    assert len(everything) == (3 if port is None else 6)
    new = {changed: replace(tunnels.pop(changed), remote="10.91.0.10")}
    both = follow(driver, **tunnels, **new)
    assert both & everything == others
    assert both - others == driver.observe_installed()[changed].connections
    assert follow(driver, **tunnels) == others


def test_an_administrators_connection_with_a_name_of_ours_stays_whatever_becomes_of_ours(
    daemon: Daemon, driver: Libreswan
) -> None:
    theirs = replace(config("10.91.0.77"), protocol=Protocol.GRE, port=None)
    daemon.load(text.render_connections("vpn", 1, theirs), "")
    assert follow(driver, vpn=config()) == {"vpn-1", "vpn-in-2", "vpn-out-2"}
    gre = config("10.91.0.8", protocol=Protocol.GRE, port=None)
    assert follow(driver, vpn=gre) == {"vpn-1", "vpn-3"}
    assert follow(driver, vpn=gre) == {"vpn-1", "vpn-3"}
    driver.cleanup()
    assert driver.observe(full=True).loaded == {"vpn-1"}


def test_what_an_agent_that_was_killed_had_yet_to_delete_is_deleted_by_the_next(
    daemon: Daemon, driver: Libreswan, monkeypatch: pytest.MonkeyPatch
) -> None:
    gre = config("10.91.0.8", protocol=Protocol.GRE, port=None)
    follow(driver, x=gre)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Pluto, "addconn", killed)
        patch.setattr(Pluto, "whack", killed)
        with pytest.raises(KeyboardInterrupt):
            driver.apply([ReplaceConnection("x", ("x-1",), 2, config())])
    again = Libreswan(daemon.paths)
    assert follow(again, x=config()) == {"x-in-2", "x-out-2"}


def test_secrets_of_dropped_tunnels_are_forgotten_with_one_command(
    daemon: Daemon, driver: Libreswan
) -> None:
    remotes = ("10.91.0.4", "10.91.0.5")
    driver.apply([AddConnection(f"t{i}", 1, config(r)) for i, r in enumerate(remotes)])
    loaded = (daemon.base / "log").read_text()
    keys = daemon.paths.tunnels_dir / "all.tunnels.secrets"
    assert f'loading secrets from "{keys}' in loaded
    drops = [DropConnection(f"t{i}", (f"t{i}-in-1", f"t{i}-out-1")) for i in range(len(remotes))]
    assert errors(driver.apply(drops)) == [None, None]
    since = (daemon.base / "log").read_text().removeprefix(loaded)
    assert since.count("forgetting secrets") == 1
    assert not keys.exists()
    assert str(keys) not in since


def test_keys_that_an_agent_wrote_and_did_not_tell_pluto_of_are_read_by_the_next(
    daemon: Daemon, driver: Libreswan
) -> None:
    driver.apply([AddConnection("t", 1, config())])
    mark = daemon.paths.tunnels_dir / "keys-unread"
    assert not mark.exists()
    mark.touch()
    before = (daemon.base / "log").read_text()
    Libreswan(daemon.paths).observe()
    assert "loading secrets" in (daemon.base / "log").read_text().removeprefix(before)
    assert not mark.exists()


def test_cleanup_removes_ours_and_nothing_else(daemon: Daemon, driver: Libreswan) -> None:
    daemon.load(text.render_connections("theirs", 1, config("10.91.0.77")), "")
    driver.apply([AddConnection("t", 3, config()), AddConnection("a/../b", 1, UNREACHED)])
    driver.cleanup()
    assert driver.observe(full=True).loaded == {"theirs-in-1", "theirs-out-1"}
    left = {p.name for p in (daemon.base / "etc/ipsec.d").iterdir()}
    assert left == {"zz.secrets"}
    driver.cleanup()


def test_a_tunnel_with_a_certificate_is_started_and_pluto_forgets_no_key(
    daemon: Daemon, driver: Libreswan
) -> None:
    """A key that pluto forgets while a thread signs with it ends pluto."""
    database = ["-d", f"sql:{daemon.paths.nss_dir}", "-z", "/etc/hostname"]
    made = ["-n", "ovs_certkey_a", "-s", "CN=a", "-x", "-t", "u,u,u", "-k", "ec", "-q", "nistp384"]
    run("certutil", "-S", *made, *database)
    auth = CertificateAuth("a", "b", "ovs_certkey_a", None)
    signing = replace(config(lead=True), auth=auth)
    log_file = daemon.base / "log"
    # At its start it reads them, and answers before it has: the last line of that, 4.10 and 5.2.
    ends = re.compile("no secrets filename matched|addconn: loading secrets")
    wait_until(lambda: ends.search(log_file.read_text()) is not None, WITHIN_S, "keys are read")
    before = log_file.read_text()
    assert errors(driver.apply([AddConnection("t", 1, signing)])) == [None]
    log = log_file.read_text().removeprefix(before)
    assert '"t-in-1" #1: initiating IKEv2 connection' in log
    assert '"t-out-1": queue Child SA; waiting on IKE SA "t-in-1" #1' in log
    assert "secrets" not in log


@pytest.mark.parametrize("psk", ["foo", "with space", "it's 0x41", "0x41", "0sQUI=", "#;é{", "\t"])
def test_a_psk_of_ours_is_the_one_that_others_write_in_quotes(
    daemons: list[Daemon], psk: str
) -> None:
    ours, theirs = daemons
    ours.start()
    theirs.start()
    mirrored = config(LOCAL, local=PEER)
    quoted = f'%any {LOCAL} : PSK "{psk}"\n'
    theirs.load(text.render_connections("t", 1, mirrored), quoted)
    driver = Libreswan(ours.paths)
    assert errors(driver.apply([AddConnection("t", 1, config(psk=psk, lead=True))])) == [None]
    wait_until(partial(established, driver), WITHIN_S, "the IKE SA is established")


def test_a_restarted_pluto_loads_and_starts_everything_without_an_agent(
    daemons: list[Daemon], driver: Libreswan
) -> None:
    daemon, peer = daemons
    driver.apply([AddConnection("t", 1, config(lead=True)), AddConnection("u", 1, UNREACHED)])
    before = driver.observe().generation
    daemon.stop()
    assert not driver.observe().running
    peer.start()
    mirrored = config(LOCAL, local=PEER, psk="a secret")
    secrets = text.render_secret("t", mirrored)
    peer.load(text.render_connections("t", 1, mirrored), secrets or "")
    daemon.start()
    wait_until(partial(established, driver), WITHIN_S, "the IKE SA is established")
    after = driver.observe()
    assert after.generation != before
    assert after.loaded == {"t-in-1", "t-out-1", "u-in-1", "u-out-1"}
    assert after.unoriented == {"u-in-1", "u-out-1"}


def established(driver: Libreswan) -> bool:
    return any(sa.established for sa in driver.observe().ike_sas)
