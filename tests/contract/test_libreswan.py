"""The libreswan driver against a real pluto in a network namespace of its own.

The kernel need not know ESP: everything up to the IKE SA is tested here, traffic in the lab.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovn_ipsec.drivers import libreswan_text as text
from ovn_ipsec.drivers.libreswan import Libreswan
from ovn_ipsec.drivers.libreswan_files import LibreswanPaths
from ovn_ipsec.errors import DriverError
from ovn_ipsec.model.conns import (
    CertificateAuth,
    Protocol,
    PskAuth,
    Secret,
    TunnelConfig,
    connection_name,
)
from ovn_ipsec.model.steps import (
    AddConnection,
    DropConnection,
    InitiateConnection,
    Listen,
    Outcome,
    RecordConnection,
    ReplaceConnection,
    Step,
)

pytestmark = pytest.mark.contract

LOCAL = "10.91.0.1"
PEER = "10.91.0.2"
KEYWORDS = (
    ("ike", "aes_gcm256-sha2_256"),
    ("esp", "aes_gcm256"),
    ("ikev2", "insist"),
    ("leftupdown", "%disabled"),
)


def config(
    remote: str = PEER,
    *,
    psk: str = "a secret",
    port: int | None = 6081,
    protocol: Protocol = Protocol.UDP,
    lead: bool = False,
    keywords: tuple[tuple[str, str], ...] = (),
    local: str = LOCAL,
) -> TunnelConfig:
    return TunnelConfig(
        protocol=protocol,
        port=port,
        local=local,
        remote=remote,
        auth=PskAuth(Secret(psk)),
        keywords=KEYWORDS + keywords,
        lead=lead,
    )


UNREACHED = config("fd00::9", local="fd00::77")
"""Neither address is the node's."""


@dataclass
class Daemon:
    """A pluto under a directory of its own, on one address of a shared namespace."""

    enter: tuple[str, ...]
    """The command that runs its arguments in the namespace."""
    base: Path
    address: str

    @property
    def paths(self) -> LibreswanPaths:
        etc = self.base / "etc"
        return LibreswanPaths(
            root_conf=etc / "ipsec.conf",
            root_secrets=etc / "ipsec.secrets",
            index_conf=etc / "ipsec.d/ovn-ipsec.conf",
            index_secrets=etc / "ipsec.d/ovn-ipsec.secrets",
            tunnels_dir=etc / "ipsec.d/ovn-ipsec",
            nss_dir=self.base / "nss",
            run_dir=self.base / "run",
            ctl=self.base / "run/pluto.ctl",
        )

    def prepare(self) -> None:
        etc = self.base / "etc"
        (etc / "ipsec.d").mkdir(parents=True)
        (self.base / "run").mkdir()
        (self.base / "nss").mkdir()
        (etc / "ipsec.conf").write_text(f"config setup\n\ninclude {etc}/ipsec.d/*.conf\n")
        (etc / "ipsec.secrets").write_text(f"include {etc}/ipsec.d/*.secrets\n")
        run("ipsec", "initnss", "--nssdir", str(self.base / "nss"))

    def start(self) -> None:
        paths = self.paths
        (paths.run_dir / "pluto.pid").unlink(missing_ok=True)
        argv = [*self.enter, str(paths.libexec_dir / "pluto")]
        argv += ["--config", str(paths.root_conf), "--nssdir", str(paths.nss_dir)]
        argv += ["--ipsecdir", str(self.base / "etc/ipsec.d"), "--rundir", str(paths.run_dir)]
        argv += ["--secretsfile", str(paths.root_secrets), "--listen", self.address]
        run(*argv, "--logfile", str(self.base / "log"))
        wait_for(lambda: "IKE SAs" in self.whack("--briefstatus"))

    def stop(self) -> None:
        try:
            pid = int((self.paths.run_dir / "pluto.pid").read_text())
        except FileNotFoundError:
            return
        os.kill(pid, signal.SIGKILL)
        gone = os.pidfd_open(pid)
        try:
            assert select.select([gone], [], [], 10.0)[0], "pluto did not end"
        finally:
            os.close(gone)

    def whack(self, *words: str) -> str:
        argv = [str(self.paths.libexec_dir / "whack"), "--ctlsocket", str(self.paths.ctl)]
        done = subprocess.run([*argv, *words], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def load(self, conf: str, secrets: str) -> None:
        """Load as somebody else would: no driver of ours."""
        (self.base / "etc/ipsec.d/zz.secrets").write_text(secrets)
        self.whack("--rereadsecrets")
        argv = [str(self.paths.libexec_dir / "addconn"), "--ctlsocket", str(self.paths.ctl)]
        subprocess.run(
            [*argv, "--config", "/dev/stdin", "--autoall"],
            input=conf,
            text=True,
            check=True,
            capture_output=True,
        )


def run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"


def wait_for(condition: object, timeout_s: float = 10.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[list[Daemon]]:
    holder = subprocess.Popen(["unshare", "--net", "sleep", "600"])
    enter = ("nsenter", "--target", str(holder.pid), "--net")
    made: list[Daemon] = []
    try:
        own = Path("/proc/self/ns/net").stat().st_ino
        wait_for(lambda: Path(f"/proc/{holder.pid}/ns/net").stat().st_ino != own)
        run(*enter, "ip", "link", "set", "lo", "up")
        for name, address in (("a", LOCAL), ("b", PEER)):
            run(*enter, "ip", "addr", "add", f"{address}/32", "dev", "lo")
            daemon = Daemon(enter, tmp_path / name, address)
            daemon.prepare()
            made.append(daemon)
        yield made
    finally:
        for daemon in made:
            daemon.stop()
        holder.kill()
        holder.wait()


@pytest.fixture
def daemon(daemons: list[Daemon]) -> Daemon:
    daemons[0].start()
    return daemons[0]


@pytest.fixture
def driver(daemon: Daemon) -> Libreswan:
    return Libreswan(daemon.paths)


def errors(outcomes: list[Outcome]) -> list[str | None]:
    return [outcome.error for outcome in outcomes]


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


def test_one_bad_tunnel_of_a_batch_gets_its_own_reason_and_leaves_no_file(
    daemon: Daemon, driver: Libreswan
) -> None:
    unknown = config("10.91.0.5", keywords=(("bogus", "1"),))
    no_cert = TunnelConfig(
        Protocol.UDP,
        6081,
        LOCAL,
        "10.91.0.6",
        CertificateAuth("a", "b", "nonesuch", None),
        KEYWORDS,
    )
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


def test_secrets_of_dropped_tunnels_are_forgotten_with_one_command(
    daemon: Daemon, driver: Libreswan
) -> None:
    remotes = ("10.91.0.4", "10.91.0.5")
    driver.apply([AddConnection(f"t{i}", 1, config(r)) for i, r in enumerate(remotes)])
    loaded = (daemon.base / "log").read_text()
    assert 'loading secrets from "' + str(daemon.paths.tunnels_dir / "t0.secrets") in loaded
    drops = [DropConnection(f"t{i}", (f"t{i}-in-1", f"t{i}-out-1")) for i in range(len(remotes))]
    assert errors(driver.apply(drops)) == [None, None]
    since = (daemon.base / "log").read_text().removeprefix(loaded)
    assert since.count("forgetting secrets") == 1
    assert "t0.secrets" not in since


def test_a_tunnel_with_a_certificate_is_started_and_pluto_forgets_no_key(
    daemon: Daemon, driver: Libreswan
) -> None:
    """A key that pluto forgets while a thread signs with it ends pluto."""
    database = ["-d", f"sql:{daemon.paths.nss_dir}", "-z", "/etc/hostname"]
    made = ["-n", "ovs_certkey_a", "-s", "CN=a", "-x", "-t", "u,u,u", "-k", "ec", "-q", "nistp384"]
    run("certutil", "-S", *made, *database)
    auth = CertificateAuth("a", "b", "ovs_certkey_a", None)
    signing = TunnelConfig(Protocol.UDP, 6081, LOCAL, PEER, auth, KEYWORDS, lead=True)
    before = (daemon.base / "log").read_text()
    assert errors(driver.apply([AddConnection("t", 1, signing)])) == [None]
    log = (daemon.base / "log").read_text().removeprefix(before)
    assert '"t-in-1" #1: initiating IKEv2 connection' in log
    assert '"t-out-1": queue Child SA; waiting on IKE SA "t-in-1" #1' in log
    assert "secrets" not in log


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
    secrets = text.render_secrets("t", mirrored)
    peer.load(text.render_connections("t", 1, mirrored), secrets or "")
    daemon.start()
    wait_for(lambda: any(sa.established for sa in driver.observe().ike_sas))
    after = driver.observe()
    assert after.generation != before
    assert after.loaded == {"t-in-1", "t-out-1", "u-in-1", "u-out-1"}
    assert after.unoriented == {"u-in-1", "u-out-1"}


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
    wait_for(lambda: any(sa.established for sa in driver.observe().ike_sas))


def test_a_connection_deleted_behind_our_back_is_noticed_from_its_sas(
    daemons: list[Daemon], driver: Libreswan
) -> None:
    daemon, _ = daemons
    driver.apply([AddConnection("t", 1, config("10.91.0.200", lead=True))])
    wait_for(lambda: driver.observe().ike_sas)
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


def test_cleanup_removes_ours_and_nothing_else(daemon: Daemon, driver: Libreswan) -> None:
    daemon.load(text.render_connections("theirs", 1, config("10.91.0.77")), "")
    driver.apply([AddConnection("t", 3, config()), AddConnection("a/../b", 1, UNREACHED)])
    driver.cleanup()
    assert driver.observe(full=True).loaded == {"theirs-in-1", "theirs-out-1"}
    left = {p.name for p in (daemon.base / "etc/ipsec.d").iterdir()}
    assert left == {"zz.secrets"}
    driver.cleanup()


HOSTILE = st.text(
    st.sampled_from(" \"'\\#={}[]%@\n\t\0;:/.*$&-éa0\u2028"), min_size=1, max_size=20
)
NAMES = HOSTILE | st.text(min_size=1, max_size=300)
NICKNAMES = st.builds("ovs_certkey_{}".format, NAMES)
TEXT_KEYWORDS = ("ike", "esp", "leftupdown", "rightca", "left", "also", "a\nb")


@st.composite
def hostile_tunnels(draw: st.DrawFn) -> tuple[str, int, TunnelConfig]:
    auth = draw(
        st.one_of(
            st.builds(PskAuth, st.builds(Secret, NAMES)),
            st.builds(CertificateAuth, NAMES, NAMES, NICKNAMES, st.none() | NICKNAMES),
        )
    )
    # 4.10 refuses a number as the value of any text keyword, and says so.
    values = NAMES.filter(lambda value: re.fullmatch("[0-9]+", value) is None)
    keywords = draw(st.lists(st.tuples(st.sampled_from(TEXT_KEYWORDS), values), max_size=1))
    made = TunnelConfig(
        protocol=draw(st.sampled_from(Protocol)),
        port=draw(st.integers(1, 65535)),
        local=LOCAL,
        remote=PEER,
        auth=auth,
        keywords=tuple(keywords),
        lead=draw(st.booleans()),
    )
    return draw(NAMES), draw(st.integers(1, 10**6)), made


def described(name: str, made: TunnelConfig) -> list[str]:
    """What libreswan's own reader must make of one connection: the lines that decide."""
    lines = [f"conn {name}", f"left={LOCAL}", f"right={PEER}"]
    for key, value in made.keywords:
        if key == "leftupdown":
            lines.append(f"leftupdown={value}")
    return [*lines, "auto=start" if made.lead else "auto=add"]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(hostile_tunnels(), min_size=10, max_size=30))
def test_whatever_is_written_libreswan_reads_back_as_intended_and_nothing_else(
    tunnels: list[tuple[str, int, TunnelConfig]],
) -> None:
    texts: list[str] = []
    expected: list[str] = []
    seen: set[str] = set()
    for name, version, made in tunnels:
        names = [connection_name(name, role, version) for role in made.selectors()]
        try:
            written = text.render_connections(name, version, made)
        except DriverError:
            continue
        if not seen.intersection(names):
            seen.update(names)
            texts.append(written)
            for each in names:
                expected += described(each, made)
    done = subprocess.run(
        ["/usr/libexec/ipsec/readwriteconf", "--config", "/dev/stdin"],
        input=text.join_batch(texts).encode(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    # 5.2 runs "auto=", "type=" and the next keyword together on one line.
    read = done.stdout.decode().replace("auto=\ttype=\t", "").split("\n")
    deciding = ("conn ", "left=", "right=", "leftupdown=", "auto=start", "auto=add")
    # A value with a space in it comes back in quotes, and no value of ours has quotes in it.
    got = [
        line.strip("\t").replace('leftupdown="', "leftupdown=").removesuffix('"')
        for line in read
        if line.strip("\t").startswith(deciding)
    ]
    assert sorted(got) == sorted(line.rstrip("\t") for line in expected)
    assert [line for line in got if line.startswith("conn ")] == [
        line for line in expected if line.startswith("conn ")
    ]


@given(NAMES, st.integers(1, 10**6), NAMES)
def test_a_record_that_was_written_is_read_back(name: str, version: int, psk: str) -> None:
    made = config(psk=psk)
    try:
        written = text.render_tunnel(name, version, made)
    except DriverError:
        return
    record = text.parse_record(written)
    assert (record.name, record.version, record.digest) == (name, version, made.digest)
