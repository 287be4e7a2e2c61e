"""The program under test on a host, and the original that it replaces."""

from __future__ import annotations

import signal
import subprocess
import sys

from tools.lab.container import PROJECT, CommandError, wait_until
from tools.lab.host import PATIENT, Host

AGENT_LOG = "/var/log/openvswitch/ovn-ipsec.log"
ORIGINAL_LOG = "/var/log/openvswitch/ovs-monitor-ipsec.log"
ORIGINAL = "/opt/original/usr/share/openvswitch/scripts/ovs-monitor-ipsec"
_OVSDB = "unix:/run/openvswitch/db.sock"
_TARGET = "ovs-monitor-ipsec"


class MonitorHost(Host):
    """A host whose tunnels an IPsec agent watches: ours or the original."""

    agent_flags: tuple[str, ...] = ()
    _agent: subprocess.Popen[str] | None = None

    def start_agent(self, *flags: str, wait: bool = True) -> None:
        """Start our agent in the foreground, its output in AGENT_LOG.

        With `wait`, returns when it answers on its control socket; TimeoutError or CommandError
        (with the end of its log) otherwise.
        """
        self.agent_flags = flags
        pidfile = f"--pidfile=/run/openvswitch/{_TARGET}.pid"
        argv = [sys.executable, "-m", "ovn_ipsec.cli", "agent", pidfile, *flags, _OVSDB]
        with self.path(AGENT_LOG).open("a") as log:
            self._agent = self.popen(argv, stdout=log, environment=_python_environment())
        if wait:
            self.wait_for_monitor()

    def agent_pid(self) -> int | None:
        """The agent's process number inside the host, or None."""
        found = self.attempt(["pgrep", "-o", "-f", "ovn_ipsec.cli agent"])
        return int(found.stdout.split()[0]) if found.returncode == 0 else None

    def kill_agent(self, number: int = signal.SIGTERM, *, timeout_s: float = 15) -> None:
        """Send a signal and wait until the agent is gone; nothing if it does not run."""
        if self.agent_pid() is None:
            return
        self.kill_all(number, "ovn_ipsec.cli agent")
        wait_until(
            lambda: self.agent_pid() is None,
            timeout_s,
            f"{self.name}: agent ends by signal {number}",
        )
        if self._agent is not None:
            self._agent.wait()

    def restart_agent(self, *flags: str) -> None:
        """SIGTERM and start, with the same flags as before unless given."""
        self.kill_agent()
        self.start_agent(*(flags or self.agent_flags))

    def guard(self, *arguments: str) -> str:
        """``ovn-ipsec guard ARGUMENTS``; CommandError unless a guard is in force afterwards."""
        argv = [sys.executable, "-m", "ovn_ipsec.cli", "guard", *arguments]
        return self.run(argv, environment=_python_environment())

    def start_original_monitor(self, *flags: str, program: str = ORIGINAL) -> None:
        """Start the distribution's unmodified ovs-monitor-ipsec for libreswan, or another one.

        It runs on the system's Python, as the package has it. Without further flags it restarts
        pluto, as the package's own start does.
        """
        self._agent = None
        argv = [program, f"--pidfile=/run/openvswitch/{_TARGET}.pid", "--ike-daemon=libreswan"]
        # The original's default is the NSS directory of libreswan 3.
        argv += ["--ipsec-d", "/var/lib/ipsec/nss", f"--log-file={ORIGINAL_LOG}"]
        self.run([*argv, "--detach", *flags, _OVSDB], timeout_s=90)
        self.wait_for_monitor()

    def appctl(self, *arguments: str, timeout_s: float = 20) -> str:
        """The real ``ovs-appctl -t ovs-monitor-ipsec ...``; CommandError on an error reply."""
        return self.run(["ovs-appctl", PATIENT, "-t", _TARGET, *arguments], timeout_s=timeout_s)

    def wait_for_monitor(self, timeout_s: float = 60) -> None:
        """Until an agent, whichever, answers on the control socket."""

        def answers() -> bool:
            if self._agent is not None and self._agent.poll() is not None:
                log = self.read_file(AGENT_LOG)[-4000:]
                raise CommandError(self.name, ["agent"], self._agent.returncode, log)
            return self.attempt(["ovs-appctl", "-t", _TARGET, "version"]).returncode == 0

        wait_until(answers, timeout_s, f"{self.name}: the agent answers", interval_s=0.2)


def _python_environment() -> dict[str, str]:
    return {"PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
