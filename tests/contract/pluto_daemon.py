"""Plutos that share a network namespace, and the tunnels that the libreswan driver gives them.

The kernel need not know ESP: everything up to the IKE SA is tested with them, traffic in the lab.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ovn_ipsec.drivers.libreswan_files import LibreswanPaths
from ovn_ipsec.model.conns import Protocol, PskAuth, Secret, TunnelConfig
from ovn_ipsec.model.steps import Outcome
from tools.lab.container import wait_until

LOCAL = "10.91.0.1"
PEER = "10.91.0.2"
WITHIN_S = 10.0
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
        wait_until(lambda: "IKE SAs" in self.whack("--briefstatus"), WITHIN_S, "pluto answers")

    def stop(self) -> None:
        try:
            pid = int((self.paths.run_dir / "pluto.pid").read_text())
        except FileNotFoundError:
            return
        # Before the signal: afterwards it may be gone already, and its number nobody's.
        gone = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(gone, signal.SIGKILL)
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


def errors(outcomes: list[Outcome]) -> list[str | None]:
    return [outcome.error for outcome in outcomes]
