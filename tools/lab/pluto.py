"""libreswan on a host: pluto's life, its connections, what the kernel has of them."""

from __future__ import annotations

import signal

from tools.lab.container import wait_until
from tools.lab.host import Host

PLUTO_LOG = "/var/log/pluto.log"
_WHACK = "/usr/libexec/ipsec/whack"


class PlutoHost(Host):
    """A host that can run pluto, from the distribution's configuration and default paths."""

    def start_pluto(self, *, check_configuration: bool = False, open_files: int = 0) -> None:
        """Start pluto with the packaged unit's command line; returns when it answers.

        `check_configuration` also runs the unit's ExecStartPre lines, which takes seconds in an
        emulated machine. They flush XFRM (bookworm) and check NSS, so they matter after a crash.
        pluto needs two `open_files` for each address of the node (udp/500 and udp/4500); without
        a word about them it may have as many as its parent.
        """
        fast = {} if check_configuration else {"SKIP_EXEC_START_PRE": "1"}
        limit = ["prlimit", f"--nofile={open_files}"] if open_files else []
        self.run([*limit, "systemctl", "start", "ipsec"], environment=fast)

    def ipsec_restart(self) -> None:
        """``ipsec restart``: the packaged unit's stop and start sequences."""
        self.run(["ipsec", "restart"])

    def kill_pluto(self) -> None:
        """SIGKILL; the kernel keeps every state and policy."""
        self.kill_all(signal.SIGKILL, "libexec/ipsec/pluto")
        wait_until(lambda: not self.pluto_runs(), 5, f"{self.name}: pluto is gone")

    def crash_pluto(self) -> None:
        """SIGKILL, and then what systemd does by itself: ExecStopPost, and a restart."""
        self.kill_pluto()
        self.run(["systemctl", "on-failure", "ipsec"])

    def shutdown_pluto(self, *, leave_state: bool = False) -> None:
        """``whack --shutdown``; with `leave_state` the kernel keeps states and policies."""
        self.whack("--shutdown", *(["--leave-state"] if leave_state else []), check=False)
        wait_until(lambda: not self.pluto_runs(), 20, f"{self.name}: pluto shuts down")

    def pluto_runs(self) -> bool:
        """Whether there is a pluto process."""
        return self.attempt(["pgrep", "-f", "libexec/ipsec/pluto"]).returncode == 0

    def whack(self, *arguments: str, check: bool = True, timeout_s: float = 60) -> str:
        """``whack ARGUMENTS``; its exit status says little, its output much."""
        return self.run([_WHACK, *arguments], check=check, timeout_s=timeout_s)

    def load_connections(self, *names: str) -> None:
        """Add connections of /etc/ipsec.conf to pluto, all with one addconn."""
        ctl = "/run/pluto/pluto.ctl"
        self.run(
            [
                "/usr/libexec/ipsec/addconn",
                "--config",
                "/etc/ipsec.conf",
                "--ctlsocket",
                ctl,
                *names,
            ]
        )

    def pluto_log(self) -> str:
        return self.read_file(PLUTO_LOG)

    def xfrm_policy(self) -> str:
        """``ip -s xfrm policy``, without the exceptions that sockets (pluto's) have."""
        return self.run(["ip", "-s", "xfrm", "policy", "list", "nosock"])

    def sa_count(self) -> int:
        """Security associations in the kernel, both directions, larval ones left out."""
        listed = self.run(["ip", "xfrm", "state", "list", "nokeys"])
        return sum(
            " spi 0x" in line and " 0x00000000 " not in line for line in listed.splitlines()
        )

    def flush_xfrm(self, what: str) -> None:
        """``ip xfrm state|policy flush``, behind everybody's back."""
        self.run(["ip", "xfrm", what, "flush"])

    def nft(self, *arguments: str, ruleset: str | None = None, check: bool = True) -> str:
        """``nft ARGUMENTS``, with a ruleset on standard input for ``nft -f -``."""
        return self.run(["nft", *arguments], stdin=ruleset, check=check)
