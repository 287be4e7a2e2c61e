"""The pluto process: is it there, which one is it, ask it something, start it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ovn_ipsec.drivers.command import Completed, run
from ovn_ipsec.drivers.libreswan_files import LibreswanPaths
from ovn_ipsec.drivers.libreswan_status import Dialect, parse_version
from ovn_ipsec.drivers.libreswan_text import hide_secrets
from ovn_ipsec.errors import CommandError, CommandTimeoutError, DriverError, ObservationError

_START_WAIT_S = 15.0
_WHACK_WAIT_S = 10.0
_TELL_WAIT_S = 2.0
_ADDCONN_WAIT_S = 30.0
_ADDCONN_EACH_S = 0.5
"""Longer by this for each connection: pluto may be busy with peers that came first."""
_ENDED = -1
"""In place of the exit code of a program that we ended."""
_NOT_RUNNING = 33
"""whack's exit code when the control socket is absent or refuses."""
_UNKNOWN = re.compile(r'no (?:such )?connection (?:or alias(?:ed connection)? )?named "')
_NOBODY = re.compile(r"pluto_ctl\) failed|Pluto is not running|timeout waiting on pluto socket")


def _loads(child: str) -> bool:
    """Whether a child of pluto is an addconn, or will be: it has just been forked."""
    try:
        return Path(f"/proc/{child}/comm").read_text("ascii", "replace") in (
            "addconn\n",
            "pluto\n",
        )
    except OSError:
        return False


def is_unknown(reply: str) -> bool:
    """Whether pluto says that no connection has the name it was asked about."""
    return _UNKNOWN.search(reply) is not None


class PlutoDownError(DriverError):
    """pluto does not answer on its control socket because there is none."""


class Pluto:
    """Talks to the pluto of one control socket. Not thread-safe."""

    def __init__(
        self, paths: LibreswanPaths, timeout_s: float, progress: Callable[[], None] = lambda: None
    ) -> None:
        self._paths = paths
        self._timeout_s = timeout_s
        self._progress = progress
        self._version: tuple[str, str, Dialect] | None = None

    def whack(self, *words: str) -> str:
        """One whack call; its output, whatever its exit code.

        whack's exit code is not the outcome (4.10: 0 for an unknown connection), so callers
        read the text. Raises PlutoDownError; CommandError: no answer in time.
        """
        argv = [str(self._paths.libexec_dir / "whack"), "--ctlsocket", str(self._paths.ctl)]
        self._progress()
        timeout_s = min(self._timeout_s, _WHACK_WAIT_S)
        return self._checked(run([*argv, *words], timeout_s=timeout_s, ok_codes=None))

    def initiate(self, name: str) -> str:
        """Have pluto negotiate a connection; its output as far as it came.

        ``--asynchronous`` should return at once, but 4.10 keeps whack waiting while the child
        SA is queued behind an exchange of its IKE SA, which may never end. pluto goes on with
        it all the same, so nobody has to wait. Raises as whack.
        """
        return self._tell("--asynchronous", "--name", name, "--initiate")

    def ask(self, name: str) -> str:
        """What pluto says of one connection; costs no list of all. Raises as whack."""
        return self.whack("--trafficstatus", "--name", name)

    def reread_secrets(self) -> None:
        """Have pluto forget all secrets and read the files' anew (ipsec_secrets(5)).

        Raises PlutoDownError, CommandError.
        """
        # Its output repeats a malformed secret in clear: never passed on.
        self.whack("--rereadsecrets")

    def delete_state(self, serial: int) -> None:
        """Have pluto delete an SA. It answers after the exchange with the peer, if that ends."""
        self._tell("--deletestate", str(serial))

    def _tell(self, *words: str) -> str:
        argv = [str(self._paths.libexec_dir / "whack"), "--ctlsocket", str(self._paths.ctl)]
        self._progress()
        try:
            return self._checked(run([*argv, *words], timeout_s=_TELL_WAIT_S, ok_codes=None))
        except CommandTimeoutError:
            return ""

    def addconn(self, config: str, *words: str) -> Completed:
        """One addconn on a configuration given as text, which leaves no file behind.

        It loads all and then initiates; as with ``initiate`` the latter may not end, so it is
        ended after a while. What is loaded tells the status. Raises PlutoDownError, CommandError.
        """
        # /dev/stdin does not exist in every container.
        argv = [str(self._paths.libexec_dir / "addconn"), "--config", "/proc/self/fd/0"]
        if "--checkconfig" not in words:
            argv += ["--ctlsocket", str(self._paths.ctl)]
        self._progress()
        wait_s = _ADDCONN_WAIT_S + _ADDCONN_EACH_S * config.count("\nconn ")
        timeout_s = min(self._timeout_s, wait_s)
        try:
            done = run([*argv, *words], timeout_s=timeout_s, stdin=config, ok_codes=None)
        except CommandTimeoutError:
            if "--autoall" not in words:
                raise
            return Completed(_ENDED, "", "")
        self._checked(done)
        return done

    def pid(self) -> int | None:
        """The process id in pluto's pidfile, when that process lives and is a pluto."""
        try:
            pid = int((self._paths.run_dir / "pluto.pid").read_text("ascii"))
            stat = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
        except (OSError, ValueError):
            return None
        # proc(5): "PID (NAME) STATE ..."; a zombie answers nobody.
        return pid if re.match(r"\d+ \(pluto\) [^ZX] ", stat) else None

    def pidfd(self) -> int | None:
        """A descriptor that becomes readable when pluto dies (pidfd_open(2)); caller closes.

        None also where the kernel (before Linux 5.3) or a seccomp filter refuses: then its death
        is noticed later, by the next observation.
        """
        pid = self.pid()
        if pid is None:
            return None
        try:
            return os.pidfd_open(pid)
        except OSError:
            return None

    def generation(self) -> str:
        """Another text for every other pluto process. Raises PlutoDownError."""
        pid = self.pid()
        try:
            if pid is not None:
                stat = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
                # proc(5): field 22 is the start time; the name in field 2 may hold spaces.
                return f"{pid}-{stat.rpartition(')')[2].split()[19]}"
            # Another process id namespace: the socket is made anew by every pluto.
            made = self._paths.ctl.stat()
        except OSError as error:
            raise PlutoDownError(f"{self._paths.ctl}: no IKE daemon") from error
        return f"{made.st_ino}-{made.st_ctime_ns}"

    def is_loading(self) -> bool:
        """Whether a pluto that has just started still loads its configuration.

        It does so through a child, addconn, made before it answers for the first time. Outside
        of pluto's process id namespace nothing is seen, and the answer is no.
        """
        pid = self.pid()
        if pid is None:
            return False
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
        except OSError:
            return False
        return any(map(_loads, children))

    def version(self, generation: str) -> tuple[str, Dialect]:
        """Version and dialect of the pluto of this generation, asked once. Raises as whack."""
        if self._version is None or self._version[0] != generation:
            argv = [str(self._paths.libexec_dir / "whack"), "--version"]
            said = run(argv, timeout_s=self._timeout_s, ok_codes=None).stdout
            self._version = (generation, *parse_version(said))
        return self._version[1:]

    def start(self) -> None:
        """Start pluto unless one is there; returns when it answers. NSS is kept as it is.

        Raises DriverError: the port is taken, the database cannot be made, no answer in time.
        """
        try:
            self.whack("--briefstatus")
        except PlutoDownError:
            pass
        else:
            return
        self._refuse_second()
        try:
            self._make_room()
        except OSError as error:
            raise DriverError(
                f"no IKE daemon is started: {error.filename}: {error.strerror}; check space and"
                " permissions"
            ) from error
        run(self._start_argv(), timeout_s=_START_WAIT_S)
        deadline = time.monotonic() + _START_WAIT_S
        while time.monotonic() < deadline:
            try:
                self.whack("--briefstatus")
            except PlutoDownError:
                time.sleep(0.05)
            else:
                return
        raise DriverError(
            f"pluto was started and does not answer on {self._paths.ctl} within"
            f" {_START_WAIT_S:g} s; look into its log"
        )

    def _make_room(self) -> None:
        """What pluto needs to find before it starts. Raises OSError, CommandError."""
        nss = str(self._paths.nss_dir)
        if not (self._paths.nss_dir / "cert9.db").exists():
            self._paths.nss_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            run([str(self._paths.ipsec), "initnss", "--nssdir", nss], timeout_s=self._timeout_s)
        self._paths.run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        # A killed pluto leaves its pidfile, and the next one refuses to start because of it.
        (self._paths.run_dir / "pluto.pid").unlink(missing_ok=True)

    def _start_argv(self) -> Sequence[str]:
        paths = self._paths
        if Path("/run/systemd/system").is_dir() and paths == LibreswanPaths():
            # Its own unit: a pluto in ours would be stopped with us.
            return ["systemctl", "start", "ipsec.service"]
        argv = [str(paths.libexec_dir / "pluto"), "--config", str(paths.root_conf)]
        argv += ["--secretsfile", str(paths.root_secrets), "--nssdir", str(paths.nss_dir)]
        argv += ["--rundir", str(paths.run_dir)]
        return argv if paths.pluto_log is None else [*argv, "--logfile", str(paths.pluto_log)]

    def _refuse_second(self) -> None:
        pid = self.pid()
        if pid is not None:
            raise DriverError(
                f"pluto (process {pid}) runs but does not answer on {self._paths.ctl}; it is not"
                " started a second time; check it and the --ipsec-ctl option"
            )
        for table in ("udp", "udp6"):
            if _port_taken(Path(f"/proc/net/{table}"), 500):
                raise DriverError(
                    "UDP port 500 is taken by another process, so no IKE daemon is started; use"
                    " the host's (--ipsec-ctl names its control socket) or stop it"
                )

    def _checked(self, done: Completed) -> str:
        said = done.stdout + done.stderr
        # 4.10's addconn ends with 0 when nobody listens, with 3 when there is no socket.
        if done.returncode == _NOT_RUNNING or _NOBODY.search(done.stderr):
            raise PlutoDownError(f"{self._paths.ctl}: no IKE daemon answers")
        if done.returncode < 0:
            raise CommandError(f"libreswan's tool was killed by signal {-done.returncode}")
        return said


def _port_taken(table: Path, port: int) -> bool:
    try:
        lines = table.read_text("ascii").splitlines()[1:]
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ObservationError(f"{table} cannot be read: {error.strerror}") from error
    return any(int(line.split()[1].rpartition(":")[2], 16) == port for line in lines)


def complaint(said: str, wanted: str = "") -> str:
    """The part of libreswan's words worth repeating: without codes, chatter and secrets."""
    chatter = ("loading secrets", "forgetting secrets", "listening for", "skipping interface")
    lines = [hide_secrets(line).strip() for line in said.splitlines() if line.strip()]
    lines = [line for line in lines if not any(word in line for word in chatter)]
    named = [line for line in lines if wanted and wanted in line]
    return "; ".join(named or lines)[-400:]


def parses(done: Completed) -> bool:
    """Whether ``addconn --checkconfig`` accepted every connection."""
    # 4.10 ends with 0 for a repeated keyword, and would skip the connection.
    return done.returncode == 0 and "while loading" not in done.stderr + done.stdout
