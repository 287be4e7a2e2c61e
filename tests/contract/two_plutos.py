"""Two plutos on a wire of their own. The kernel need not know ESP: IKE SAs suffice here."""

from __future__ import annotations

import datetime as dt
import subprocess
import time
from pathlib import Path
from types import TracebackType

from ovn_ipsec.drivers.nss import Nss

_HOLD = ["unshare", "--net", "sh", "-c", "ip link set lo up; echo ready; exec sleep infinity"]
_IS_5 = "5." in subprocess.run(["ipsec", "--version"], capture_output=True, text=True).stdout


class Pluto:
    """One end: a network namespace, a pluto in it, an NSS database."""

    def __init__(self, name: str, address: str, directory: Path) -> None:
        self.name = name
        self.address = address
        self.directory = directory / name
        self.run_directory = self.directory / "run"
        self.nss_directory = self.directory / "nss"
        self.log = self.directory / "pluto.log"
        self.run_directory.mkdir(parents=True)
        self._holder = subprocess.Popen(_HOLD, stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"
        self.holder_pid = self._holder.pid
        control = str(self.run_directory / "pluto.ctl")
        self.enter = ["nsenter", f"--net=/proc/{self.holder_pid}/ns/net"]
        self.whack_argv = [*self.enter, "ipsec", "whack", "--ctlsocket", control]
        if _IS_5:
            self.whack_argv[-2:] = ["--rundir", str(self.run_directory)]
        self._control = control

    def nss(self) -> Nss:
        """A driver that has seen nothing yet, as after a start of the agent."""
        return Nss(lambda: dt.datetime.now(dt.UTC), self.nss_directory, self.whack_argv)

    def start(self) -> None:
        """Start pluto; returns when it answers."""
        config, secrets = self.directory / "ipsec.conf", self.directory / "ipsec.secrets"
        config.write_text("config setup\n")
        secrets.write_text("")
        argv = [*self.enter, "ipsec", "pluto", "--config", str(config)]
        argv += ["--ipsecdir", str(self.directory), "--nssdir", str(self.nss_directory)]
        argv += ["--secretsfile", str(secrets), "--rundir", str(self.run_directory)]
        subprocess.run([*argv, "--logfile", str(self.log)], check=True)
        deadline = time.monotonic() + 10
        while not self.alive():
            assert time.monotonic() < deadline, "pluto does not answer"
            time.sleep(0.05)
        self.whack("--listen")

    def whack(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.whack_argv, *argv], capture_output=True, text=True, timeout=30
        )

    def alive(self) -> bool:
        return self.whack("--briefstatus").returncode == 0

    @property
    def pid(self) -> int:
        return int((self.run_directory / "pluto.pid").read_text().split()[0])

    def connect(self, peer: Pluto, **keywords: str) -> None:
        """Load connection ``c`` to the peer."""
        lines = {
            "left": self.address,
            "right": peer.address,
            "leftid": f"@{self.name}",
            "rightid": f"@{peer.name}",
            "leftcert": f"ovs_certkey_{self.name}",
            "type": "transport",
            "rightca": "%any",
            "leftupdown": "%disabled",
        }
        self.load("c", lines | keywords)

    def load(self, name: str, keywords: dict[str, str]) -> None:
        """Load a connection of these keywords."""
        file = self.directory / f"{name}.conf"
        words = "".join(f"    {key}={value}\n" for key, value in keywords.items())
        file.write_text(f"conn {name}\n" + words)
        argv = [*self.enter, "/usr/libexec/ipsec/addconn", "--config", str(file)]
        done = subprocess.run(
            [*argv, "--ctlsocket", self._control, name], capture_output=True, text=True
        )
        assert "failed" not in done.stdout + done.stderr, done

    def authenticate(self, peer: Pluto) -> str:
        """Negotiate a new IKE SA; what the peer logs of it, empty when it was refused."""
        for end in (self, peer):
            end.whack("--name", "c", "--terminate")
        mark, own_mark = peer.log.stat().st_size, self.log.stat().st_size
        self.whack("--name", "c", "--asynchronous", "--initiate")
        deadline = time.monotonic() + 8
        while time.monotonic() < deadline:
            for line in peer.log.read_bytes()[mark:].decode().splitlines():
                if "authenticated peer" in line:
                    return line
                if "authentication failed" in line:
                    return ""
            if b"fatal error" in self.log.read_bytes()[own_mark:]:
                return ""
            time.sleep(0.05)
        return ""

    def stop(self) -> None:
        """Shut pluto down; returns when it is gone."""
        self.whack("--shutdown")
        deadline = time.monotonic() + 10
        while (self.run_directory / "pluto.ctl").exists():
            assert time.monotonic() < deadline, "pluto does not stop"
            time.sleep(0.05)

    def close(self) -> None:
        self.whack("--shutdown")
        self._holder.terminate()
        self._holder.wait()


class TwoPlutos:
    """``left`` and ``right``; a context manager."""

    def __init__(self, directory: Path) -> None:
        self.left = Pluto("left", "10.90.0.1", directory)
        self.right = Pluto("right", "10.90.0.2", directory)
        pids = [str(end.holder_pid) for end in self.ends]
        link = ["ip", "link", "add", "eth0", "netns", pids[0], "type", "veth"]
        subprocess.run([*link, "peer", "name", "eth0", "netns", pids[1]], check=True)
        for end in self.ends:
            ip = [*end.enter, "ip"]
            subprocess.run([*ip, "addr", "add", f"{end.address}/24", "dev", "eth0"], check=True)
            subprocess.run([*ip, "link", "set", "eth0", "up"], check=True)

    @property
    def ends(self) -> tuple[Pluto, Pluto]:
        return self.left, self.right

    def start(self, **keywords: str) -> None:
        """Both plutos, with connection ``c`` to each other."""
        for end in self.ends:
            end.start()
        self.left.connect(self.right, **keywords)
        self.right.connect(self.left, **keywords)

    def __enter__(self) -> TwoPlutos:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for end in self.ends:
            end.close()
