"""A machine of its own, as far as programs can tell: a set of namespaces on one kernel."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

LAB_DIRECTORY = Path(os.environ.get("LAB_DIRECTORY", "/lab"))
"""Everything that labs keep while they run. Short, as UNIX socket paths end after 107 bytes."""

PROJECT = Path(__file__).resolve().parents[2]

_GUEST = Path(__file__).parent / "guest"
_PRIVATE = (
    "run",
    "tmp",
    "etc",
    "var/log",
    "var/lib/openvswitch",
    "var/lib/ovn",
    "var/lib/ipsec",
)
_PATH = "/run/lab-bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class LabError(Exception):
    """Something in the lab itself did not work; no statement about the program under test."""


class CommandError(LabError):
    """A program in a container failed; the message has its output."""

    def __init__(self, container: str, argv: Sequence[str], status: int, output: str) -> None:
        super().__init__(f"{container}: {' '.join(argv)} exited with {status}:\n{output}")
        self.status = status
        self.output = output


class Container:
    """Private network, processes, mounts and host name; /run, /etc and all state are its own.

    Programs find their default paths, and unmodified scripts behave as on an installed machine.
    """

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self._prepare()
        self._init = subprocess.Popen(
            ["unshare", "--net", "--mount", "--uts", "--pid", "--ipc", "--fork", "--kill-child"]
            + [str(_GUEST / "container.sh"), str(directory), name, *_PRIVATE],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._init.stdout is not None
        if self._init.stdout.readline() != "ready\n":
            raise LabError(f"container {name} did not start")
        children = f"/proc/{self._init.pid}/task/{self._init.pid}/children"
        self.pid = int(Path(children).read_text().split()[0])
        """Of its first process, as seen from outside."""

    @property
    def netns(self) -> Path:
        """The file that stands for its network namespace."""
        return Path(f"/proc/{self.pid}/ns/net")

    @property
    def enter(self) -> list[str]:
        """What to put before a command so that it runs in the container."""
        spaces = ["--mount", "--net", "--uts", "--pid", "--ipc"]
        return ["nsenter", f"--target={self.pid}", *spaces, "--"]

    def path(self, inside: str) -> Path:
        """Where a private file of the container lies for us; LabError if it is not private."""
        relative = inside.lstrip("/")
        if not any(relative == part or relative.startswith(f"{part}/") for part in _PRIVATE):
            raise LabError(f"{inside} is not private to {self.name}")
        return self.directory / relative

    def write_file(self, inside: str, content: str, mode: int = 0o644) -> None:
        """Write a file, with its directories."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(mode)

    def read_file(self, inside: str) -> str:
        """The text of a file, or "" if there is none."""
        path = self.path(inside)
        return path.read_text(errors="replace") if path.exists() else ""

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: str | None = None,
        timeout_s: float = 60.0,
        check: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Run a program to its end and return what it printed, standard error included.

        CommandError if it fails and `check` is set, TimeoutError after `timeout_s`.
        """
        return self.attempt(
            argv, stdin=stdin, timeout_s=timeout_s, check=check, environment=environment
        ).stdout

    def attempt(
        self,
        argv: Sequence[str],
        *,
        stdin: str | None = None,
        timeout_s: float = 60.0,
        check: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Like `run`, for callers who want the exit status."""
        process = self.popen(
            argv,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            environment=environment,
        )
        try:
            output, _ = process.communicate(stdin, timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            message = f"{self.name}: {' '.join(argv)} took more than {timeout_s} s"
            raise TimeoutError(message) from error
        if check and process.returncode != 0:
            raise CommandError(self.name, argv, process.returncode, output)
        return subprocess.CompletedProcess(list(argv), process.returncode, output)

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdin: int | IO[str] | None = subprocess.DEVNULL,
        stdout: int | IO[str] | None = subprocess.DEVNULL,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a program in the container; standard error goes where standard output goes."""
        return subprocess.Popen(
            [*self.enter, *argv],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
            env={"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8", **(environment or {})},
            start_new_session=True,
        )

    def kill_all(self, signal_number: int, pattern: str) -> None:
        """Send a signal to every process of the container whose command line matches."""
        self.attempt(["pkill", f"-{signal_number}", "-f", pattern])

    def stop(self) -> None:
        """End every process in it; its files stay until `remove`."""
        self._init.kill()
        self._init.wait()
        if self._init.stdout is not None:
            self._init.stdout.close()

    def remove(self) -> None:
        """Stop it and delete its files."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _prepare(self) -> None:
        template = _template()
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", str(template), str(self.directory)], check=True)


def wait_until(
    condition: Callable[[], bool],
    timeout_s: float,
    what: str,
    *,
    interval_s: float = 0.05,
    late_share: float = 0.0,
) -> float:
    """Poll until `condition` holds; seconds it took. TimeoutError names `what` otherwise.

    Asking is work, too: it may be noticed late by `late_share` of the time waited, where that is
    more than `interval_s`.
    """
    started = time.monotonic()
    while not condition():
        waited = time.monotonic() - started
        if waited > timeout_s:
            raise TimeoutError(f"not within {timeout_s} s: {what}")
        time.sleep(max(interval_s, late_share * waited))
    return time.monotonic() - started


def _template() -> Path:
    """The private directories of a freshly installed machine; made once per boot."""
    template = LAB_DIRECTORY / ".template"
    if template.exists():
        return template
    unfinished = LAB_DIRECTORY / f".template.{os.getpid()}"
    subprocess.run([str(_GUEST / "template.sh"), str(unfinished), *_PRIVATE], check=True)
    unfinished.rename(template)
    return template
