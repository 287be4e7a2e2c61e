"""Takes the steps of a roll-out, one by one, and says what it waits for."""

from __future__ import annotations

from collections.abc import Callable, Collection

from ovn_ipsec.cluster.databases import Northbound, Southbound, read_cluster
from ovn_ipsec.cluster.stages import (
    Cluster,
    ClusterNode,
    Done,
    Goal,
    SetGuard,
    SetIpsec,
    Step,
    Wait,
    lacks,
    next_step,
)
from ovn_ipsec.errors import ClusterError

POLL_S = 2.0
_NAMED = 10


class RollOut:
    """One command's. ``clock``: Unix time; ``say`` gets each line for people."""

    def __init__(
        self,
        northbound: Northbound,
        southbound: Southbound,
        clock: Callable[[], float],
        say: Callable[[str], None],
        ignored: Collection[str] = (),
    ) -> None:
        self._northbound = northbound
        self._southbound = southbound
        self._clock = clock
        self._say = say
        self._ignored = ignored
        self._said = ""

    def reach(
        self, goal: Goal, time_is_up: Callable[[], bool], sleep: Callable[[float], object]
    ) -> bool:
        """Go on until the goal is reached; False when time is up. Raises ClusterError.

        A database that is away for a while is waited for, as nodes are.
        """
        while True:
            try:
                step = self._step(goal)
            except ClusterError as error:
                if time_is_up():
                    raise
                self._tell(str(error))
                step = Wait(())
            if isinstance(step, Done):
                self._tell(f"{goal}: done")
                return True
            if isinstance(step, Wait):
                if time_is_up():
                    return False
                sleep(POLL_S)

    def status(self) -> bool:
        """Say how each node is; whether none lacks anything. Raises ClusterError."""
        cluster = read_cluster(self._northbound, self._southbound)
        self._say(f"IPsec: {'on' if cluster.ipsec else 'off'}")
        self._say(f"Guards: {cluster.guard or 'in the mode of each node'}")
        lacking = 0
        for node in cluster.nodes:
            why = lacks(node, cluster, self._clock(), self._ignored)
            lacking += bool(why)
            self._say(f"{_shown(node)}: {why or 'in order'}{_numbers(node)}")
        self._say(f"{len(cluster.nodes)} nodes, {lacking} of them not in order")
        return not lacking

    def _step(self, goal: Goal) -> Step:
        cluster = read_cluster(self._northbound, self._southbound)
        self._check_ignored(cluster)
        step = next_step(goal, cluster, self._clock(), self._ignored)
        match step:
            case SetGuard(stage):
                self._northbound.set_guard(stage)
                self._tell(f"guards: {stage or 'in the mode of each node'}")
            case SetIpsec(on):
                self._northbound.set_ipsec(on)
                self._tell(f"IPsec: {'on' if on else 'off'}")
            case Wait(lacking):
                lines = [f"  {name}: {why}" for name, why in lacking[:_NAMED]]
                if len(lacking) > _NAMED:
                    lines.append(f"  and {len(lacking) - _NAMED} more")
                waiting = f"waiting for {len(lacking)} of {len(cluster.nodes)} nodes"
                self._tell("\n".join([waiting, *lines]))
        return step

    def _check_ignored(self, cluster: Cluster) -> None:
        known = {name for node in cluster.nodes for name in (node.name, node.hostname)}
        unknown = sorted(set(self._ignored) - known)
        if unknown:
            raise ClusterError(f"--ignore {', '.join(unknown)}: there is no such chassis")

    def _tell(self, text: str) -> None:
        """Each change once."""
        if text != self._said:
            self._say(text)
        self._said = text


def _shown(node: ClusterNode) -> str:
    other = f" ({node.hostname})" if node.hostname not in ("", node.name) else ""
    return f"{node.name}{other}"


def _numbers(node: ClusterNode) -> str:
    report = node.report
    if report is None:
        return ""
    numbers = f"{report.encrypted} of {report.wanted} tunnels encrypted"
    return f" ({numbers}, {report.plain} plain, guard {report.guard or 'unknown'})"
