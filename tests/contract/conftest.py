"""A pluto, and the libreswan driver on it; a network namespace of the test's own."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovn_ipsec.drivers.libreswan import Libreswan
from tests.contract.pluto_daemon import LOCAL, PEER, WITHIN_S, Daemon, run
from tools.lab.container import wait_until

_NEWNET = 0x40000000


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[list[Daemon]]:
    holder = subprocess.Popen(["unshare", "--net", "sleep", "600"])
    enter = ("nsenter", "--target", str(holder.pid), "--net")
    made: list[Daemon] = []
    try:
        netns = Path(f"/proc/{holder.pid}/ns/net")
        own = Path("/proc/self/ns/net").stat().st_ino
        wait_until(lambda: netns.stat().st_ino != own, WITHIN_S, "a namespace of its own")
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


@pytest.fixture
def private_network() -> Iterator[None]:
    """A network namespace for this thread and the programs it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    assert libc.unshare(_NEWNET) == 0, os.strerror(ctypes.get_errno())
    try:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    finally:
        assert libc.setns(own, _NEWNET) == 0
        os.close(own)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "guard.json"
