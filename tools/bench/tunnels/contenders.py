"""Who is measured: our agent, the distribution's monitor, and no monitor at all."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from tools.bench.tunnels.jsonrpc import Connection
from tools.bench.tunnels.stage import (
    OTHER_PSK,
    Stage,
    cpu_s,
    outside_pid,
    own_cpu_s,
    port_name,
    render_connection,
    rss_mb,
    write_secret,
)
from tools.lab.container import CommandError
from tools.lab.lab import Lab
from tools.lab.node import Node

OURS = "ovn_ipsec.cli agent"
"""What finds our agent by its command line."""
_QUERIES = ("tunnels/show", "ipsec/status")
_ASK_S = 1.0
"""Between two questions; more of them would be a load of their own."""
_FIRST_S = 0.1
"""Before the first: a handful of tunnels is up before a second has gone."""
SETTLE_S = 5.0
"""Until what was asked for has been done by whoever is idle otherwise."""
_ROLES = ("in", "out")
_LOAD_TIMEOUT_S = 600


class Contender(Protocol):
    """What keeps a node's tunnels up."""

    @property
    def name(self) -> str:
        """As the table calls it."""

    @property
    def pattern(self) -> str | None:
        """Of the monitor's command line; None: there is none."""

    def launch(self, node: Node) -> None:
        """Begin, with pluto, on a node that has no encrypted tunnel yet."""

    def encrypt(self, stage: Stage, remotes: Sequence[str]) -> None:
        """Make it known that these tunnels are to be encrypted."""

    def change(self, stage: Stage, remote: str) -> None:
        """Make it known that this tunnel has another secret now."""

    def remove(self, stage: Stage, remote: str) -> None:
        """Make it known that this tunnel is gone."""

    def restart(self, node: Node) -> None:
        """Kill the monitor and start it again; returns when it answers."""


class Ours:
    """``ovn-ipsec agent``."""

    name: str = "ovn-ipsec"
    pattern: str | None = OURS

    def launch(self, node: Node) -> None:
        node.start_pluto()
        node.start_agent("--guard-on-unknown=enforce")

    def encrypt(self, stage: Stage, remotes: Sequence[str]) -> None:
        stage.encrypt(remotes)

    def change(self, stage: Stage, remote: str) -> None:
        stage.encrypt([remote], OTHER_PSK)

    def remove(self, stage: Stage, remote: str) -> None:
        stage.remove(remote)

    def restart(self, node: Node) -> None:
        node.kill_agent(9)
        node.start_agent(*node.agent_flags)


class Original(Ours):
    """An ``ovs-monitor-ipsec``, unmodified."""

    def __init__(self, name: str, program: str) -> None:
        self.name = name
        self.pattern = "/".join(Path(program).parts[-2:])
        self._program = program

    def launch(self, node: Node) -> None:
        node.start_original_monitor(program=self._program)

    def restart(self, node: Node) -> None:
        assert self.pattern is not None
        node.kill_all(9, self.pattern)
        # A pluto that runs is left alone, as in an upgrade of the monitor.
        node.start_original_monitor("--no-restart-ike-daemon", program=self._program)


class Floor:
    """One addconn of all connections, which pluto then initiates: what pluto itself costs."""

    name: str = "floor"
    pattern: str | None = None

    def launch(self, node: Node) -> None:
        write_secret(node)
        node.start_pluto()

    def encrypt(self, stage: Stage, remotes: Sequence[str]) -> None:
        hub = stage.hub
        text = "".join(
            render_connection(f"{port_name(remote)}-{role}", hub.ipv4, remote, role, "start")
            for remote in remotes
            for role in _ROLES
        )
        hub.write_file("/etc/ipsec.conf", f"config setup\n\n{text}", 0o600)
        # Of the connections of this file, which are new: it would replace those of the same name.
        argv = ["/usr/libexec/ipsec/addconn", "--config", "/etc/ipsec.conf", "--autoall"]
        hub.run([*argv, "--ctlsocket", "/run/pluto/pluto.ctl"], timeout_s=_LOAD_TIMEOUT_S)

    def change(self, stage: Stage, remote: str) -> None:
        self.remove(stage, remote)
        write_secret(stage.hub, (stage.hub.ipv4, remote))
        stage.hub.whack("--rereadsecrets")
        self.encrypt(stage, [remote])

    def remove(self, stage: Stage, remote: str) -> None:
        for role in _ROLES:
            stage.hub.whack("--name", f"{port_name(remote)}-{role}", "--delete", check=False)

    def restart(self, node: Node) -> None:
        raise LookupError(f"{node.name}: the floor has no monitor")


def set_stage(lab: Lab, contender: Contender, alive: Sequence[str], dead: Sequence[str]) -> Stage:
    """A hub whose monitor runs, with ports to the living peers and nothing to encrypt yet."""
    stage = Stage(lab, alive, dead)
    contender.launch(stage.hub)
    stage.add_ports(alive)
    time.sleep(SETTLE_S)
    return stage


class Usage:
    """CPU seconds and memory of a monitor between two moments."""

    def __init__(self, node: Node, pattern: str) -> None:
        self._pid = outside_pid(node, int(pid_inside(node, pattern)))
        self._cpu_s, self._own_cpu_s = cpu_s(self._pid), own_cpu_s(self._pid)
        self._at = time.monotonic()

    def cpu_s(self) -> float:
        """Since the beginning, its ended children included."""
        return cpu_s(self._pid) - self._cpu_s

    def own_cpu_s(self) -> float:
        """The same without its children, and finer."""
        return own_cpu_s(self._pid) - self._own_cpu_s

    def core_share(self) -> float:
        """Of one core, on average."""
        return self.cpu_s() / (time.monotonic() - self._at)

    def rss_mb(self) -> float:
        """Now."""
        return rss_mb(self._pid)


class Asker:
    """Asks a monitor's control socket again and again, over one connection, and notes how long."""

    def __init__(self, node: Node, pattern: str) -> None:
        pid = pid_inside(node, pattern)
        socket = node.path(f"/run/openvswitch/ovs-monitor-ipsec.{pid}.ctl")
        self.latencies_s: list[float] = []
        self._stop = threading.Event()
        self._connection = Connection(socket)
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Asker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(120)
        self._connection.close()

    def _ask(self) -> None:
        pause_s = _FIRST_S
        while not self._stop.wait(pause_s):
            pause_s = _ASK_S
            for command in _QUERIES:
                start = time.monotonic()
                # "Not known yet" is an answer, too.
                with contextlib.suppress(LookupError):
                    self._connection.call(command, [])
                self.latencies_s.append(time.monotonic() - start)


def percentile(values: Iterable[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def pid_inside(node: Node, pattern: str) -> str:
    """The oldest process of the node whose command line matches."""
    found = node.attempt(["pgrep", "-o", "-f", pattern])
    if found.returncode:
        raise CommandError(node.name, ["pgrep", pattern], found.returncode, found.stderr)
    return found.stdout.split()[0]
