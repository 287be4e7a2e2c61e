"""A real ovsdb-server on a socket of its own, which a test can stop, start and change."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ovs.poller

from ovn_ipsec.sources.ovsdb import OvsdbSource


def program(name: str) -> str:
    """The path of a program; the test fails, never skips, where it is missing."""
    path = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    assert path is not None, f"{name} is not installed; contract tests need Open vSwitch"
    return path


def vswitch_schema() -> dict[str, Any]:
    """Open vSwitch's schema, as installed beside ovsdb-server."""
    prefix = Path(program("ovsdb-server")).parent.parent
    text = (prefix / "share/openvswitch/vswitch.ovsschema").read_text()
    schema: dict[str, Any] = json.loads(text)
    return schema


class OvsdbServer:
    """One database file and the server that serves it while started."""

    def __init__(self, directory: Path, schema: dict[str, Any] | None = None) -> None:
        self.directory = directory
        self.socket = directory / "db.sock"
        self.remote = f"unix:{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None
        self.create(vswitch_schema() if schema is None else schema)

    def create(self, schema: dict[str, Any]) -> None:
        """A new, empty database in the place of the old one."""
        schema_file = self.directory / "schema"
        schema_file.write_text(json.dumps(schema))
        self._database.unlink(missing_ok=True)
        subprocess.run(
            [program("ovsdb-tool"), "create", self._database, schema_file], check=True, timeout=20
        )

    @property
    def _database(self) -> Path:
        return self.directory / "conf.db"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                program("ovsdb-server"),
                "--no-chdir",
                f"--unixctl={self.directory / 'ctl'}",
                f"--remote=p{self.remote}",
                "-vconsole:off",
                self._database,
            ]
        )
        deadline = time.monotonic() + 20
        while not self._listens():
            assert time.monotonic() < deadline, "ovsdb-server does not listen"
            time.sleep(0.02)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def kill(self) -> None:
        """SIGKILL, as a crash: the socket file stays behind."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(timeout=20)
            self._process = None

    def vsctl(self, *arguments: str) -> None:
        """Change the database as ``ovs-vsctl`` does."""
        subprocess.run(
            [program("ovs-vsctl"), f"--db={self.remote}", "--no-wait", *arguments],
            check=True,
            timeout=20,
        )


def drive(source: OvsdbSource, until: Callable[[], bool], timeout_s: float = 20) -> int:
    """Run the source's loop until the condition holds; how often ``run`` reported a change."""
    changes = 0
    deadline = time.monotonic() + timeout_s
    while True:
        changes += source.run()
        if until():
            return changes
        remaining = deadline - time.monotonic()
        assert remaining > 0, f"not reached; problem: {source.problem}, {source.snapshot()}"
        poller = ovs.poller.Poller()
        source.wait(poller)
        poller.timer_wait(int(remaining * 1000) + 1)
        poller.block()


def idle(source: OvsdbSource, seconds: float) -> int:
    """Run the source's loop for a while; how often ``run`` reported a change."""
    end = time.monotonic() + seconds
    return drive(source, lambda: time.monotonic() >= end - 0.01, seconds + 5)
