"""Renders a snapshot as Prometheus metrics. Pure: it reads nothing but the snapshot.

Label sets are bounded: states, causes and directions are fixed, and series per tunnel end where a
node has more than ``MOST_PEERS`` of them (every node has a series for every other: N x N).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

import ovn_ipsec
from ovn_ipsec.model.causes import CauseCode
from ovn_ipsec.model.conns import GuardMode
from ovn_ipsec.model.enrolment import EnrolmentState
from ovn_ipsec.model.snapshot import Snapshot, Subject, TunnelStatus
from ovn_ipsec.model.work import Durations
from ovn_ipsec.status.words import STATES, state_word

MOST_PEERS = 64
CONTENT_TYPE = "text/plain; version=0.0.4"
_PREFIX = "ovn_ipsec_"


def render_metrics(snapshot: Snapshot, now_s: float, *, most_peers: int = MOST_PEERS) -> bytes:
    """The text of ``/metrics`` at this moment of the agent's monotonic clock.

    Series that are of one tunnel are left out when there are more than ``most_peers``.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(snapshot, now_s, most_peers))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, snapshot: Snapshot, now_s: float, most_peers: int) -> None:
        self._snapshot = snapshot
        self._now_s = now_s
        self._most_peers = most_peers

    def collect(self) -> Iterator[Metric]:
        """Every family, in a fixed order."""
        snapshot = self._snapshot
        tunnels = snapshot.tunnels
        yield InfoMetricFamily(
            f"{_PREFIX}build", "The agent", value={"version": ovn_ipsec.__version__}
        )
        age_s = max(0.0, self._now_s - snapshot.taken_at_s)
        yield _gauge("snapshot_age_seconds", "Since the node was last looked at", age_s)
        yield _gauge("complete", "1: every source has reported", snapshot.complete)
        states = [state_word(tunnel) for tunnel in tunnels]
        counts = {state: states.count(state) for state in STATES}
        yield _labelled("tunnels", "Tunnels that ask for IPsec, by state", "state", counts)
        codes = [str(tunnel.cause.code) for tunnel in tunnels if tunnel.cause]
        down = {str(code): codes.count(code) for code in CauseCode}
        yield _labelled("tunnels_not_up", "Tunnels that are not up, by cause", "cause", down)
        wrong = {str(cause.code) for cause in snapshot.causes}
        node = {str(code): code in wrong for code in CauseCode}
        yield _labelled("node_problem", "1: the node as a whole has it", "cause", node)
        yield from self._sas(tunnels)
        yield from self._ike()
        yield from self._guard()
        yield from self._certificates()
        yield from self._enrolment()
        yield from self._work()
        if len(tunnels) <= self._most_peers:
            yield from self._by_tunnel(tunnels)

    def _sas(self, tunnels: Iterable[TunnelStatus]) -> Iterator[Metric]:
        wall_s = self._snapshot.taken_at.timestamp()
        ages = [age for tunnel in tunnels if (age := _age_s(tunnel, wall_s)) is not None]
        yield _gauge("oldest_sa_age_seconds", "Age of the oldest child SA", max(ages, default=0))
        children = sum(len(tunnel.connections) for tunnel in tunnels)
        yield _gauge("child_sas", "Connections with a child SA", children)

    def _ike(self) -> Iterator[Metric]:
        ike = self._snapshot.ike
        up = ike is not None and ike.running and self._snapshot.unread(Subject.IKE) is None
        yield _gauge("pluto_up", "1: pluto runs and answers", up)
        version = ike.version if ike else ""
        yield InfoMetricFamily(f"{_PREFIX}pluto", "The IKE daemon", value={"version": version})
        yield _gauge(
            "pluto_log_readable",
            "1: causes are as specific as can be",
            self._snapshot.log_problem is None,
        )

    def _guard(self) -> Iterator[Metric]:
        guard = self._snapshot.guard
        intact = guard is not None and guard.present and guard.intact
        yield _gauge("guard_intact", "1: the guard's table is as it must be", intact)
        mode = guard.mode if guard else None
        if guard and not guard.present and self._snapshot.guard_wanted is GuardMode.OFF:
            mode = GuardMode.OFF
        modes = {str(each): each is mode for each in GuardMode}
        yield _labelled("guard_mode", "1: what the guard does", "mode", modes)
        if guard is not None and guard.counters is not None:
            counters = guard.counters
            family = CounterMetricFamily(
                f"{_PREFIX}plaintext_packets",
                "Tunnel packets without IPsec that the guard met, since its table was made; "
                "passed only in mode audit",
                labels=["direction", "action"],
            )
            action = "passed" if mode is GuardMode.AUDIT else "dropped"
            family.add_metric(["out", action], counters.out_packets)
            family.add_metric(["in", action], counters.in_packets)
            yield family

    def _certificates(self) -> Iterator[Metric]:
        certificate = self._snapshot.certificate
        if certificate is None:
            return
        ends = {"node": certificate.not_after, "ca": certificate.ca_not_after}
        family = GaugeMetricFamily(
            f"{_PREFIX}certificate_expiry_timestamp_seconds",
            "When the node's certificate, and the first CA that it trusts, end",
            labels=["kind"],
        )
        for kind, moment in ends.items():
            if moment is not None:
                family.add_metric([kind], _timestamp(moment))
        yield family
        yield _gauge("certificate_usable", "1: no problem with it", certificate.problem is None)

    def _enrolment(self) -> Iterator[Metric]:
        enrolment = self._snapshot.enrolment
        if enrolment is None:
            return
        states = {str(each): float(each is enrolment.state) for each in EnrolmentState}
        yield _labelled("enrolment_state", "1: how ovn-ipsec enroll goes", "state", states)
        if enrolment.renew_at is not None:
            at_s = _timestamp(enrolment.renew_at)
            yield _gauge(
                "enrolment_renewal_timestamp_seconds", "When the next renewal begins", at_s
            )

    def _work(self) -> Iterator[Metric]:
        work = self._snapshot.work
        yield _summary("tick_duration_seconds", "Looks at the node", work.ticks)
        yield _summary("apply_duration_seconds", "Changes of the node", work.applies)
        yield _gauge("longest_tick_seconds", "Since the agent's start", work.ticks.longest_s)
        yield _counter("rekeys", "Child SAs that took another's place", work.rekeys)
        family = CounterMetricFamily(
            f"{_PREFIX}sa_bytes", "Bytes through child SAs", labels=["direction"]
        )
        family.add_metric(["in"], work.bytes_in)
        family.add_metric(["out"], work.bytes_out)
        yield family
        failures = CounterMetricFamily(
            f"{_PREFIX}failures", "Tunnels that began to be down, by cause", labels=["cause"]
        )
        for code in CauseCode:
            failures.add_metric([str(code)], work.failures.get(str(code), 0))
        yield failures
        errors = CounterMetricFamily(
            f"{_PREFIX}xfrm_errors", "Packets that the kernel's IPsec dropped", labels=["reason"]
        )
        for reason, count in sorted(work.xfrm_errors.items()):
            errors.add_metric([reason], count)
        yield errors

    def _by_tunnel(self, tunnels: Iterable[TunnelStatus]) -> Iterator[Metric]:
        wall_s = self._snapshot.taken_at.timestamp()
        parts: tuple[tuple[str, str, Callable[[TunnelStatus], float | None]], ...] = (
            ("tunnel_up", "1: encrypted", lambda each: float(state_word(each) == "encrypted")),
            ("tunnel_sa_age_seconds", "Oldest child SA", lambda each: _age_s(each, wall_s)),
            ("tunnel_sa_bytes_in", "Of its SAs now", lambda each: _bytes(each)[0]),
            ("tunnel_sa_bytes_out", "Of its SAs now", lambda each: _bytes(each)[1]),
        )
        for name, text, value in parts:
            family = GaugeMetricFamily(f"{_PREFIX}{name}", text, labels=["tunnel", "peer"])
            for tunnel in tunnels:
                if (told := value(tunnel)) is not None:
                    view = tunnel.view
                    peer = (view.remote_name or view.remote_ip) if view else ""
                    family.add_metric([_label(tunnel.name), _label(peer)], told)
            yield family


def _age_s(tunnel: TunnelStatus, wall_s: float) -> float | None:
    made = [active.add_time for active in tunnel.connections if active.add_time is not None]
    return max(0.0, wall_s - min(made)) if made else None


def _bytes(tunnel: TunnelStatus) -> tuple[int, int]:
    active = tunnel.connections
    return sum(each.bytes_in for each in active), sum(each.bytes_out for each in active)


def _label(text: str) -> str:
    """Rows of OVSDB may hold anything; the exposition format is UTF-8."""
    return text.encode("utf-8", "replace").decode()[:100]


def _timestamp(moment: datetime) -> float:
    return moment.timestamp()


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{_PREFIX}{name}", text, value=float(value))


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"{_PREFIX}{name}", text, value=value)


def _labelled(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"{_PREFIX}{name}", text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], float(value))
    return family


def _summary(name: str, text: str, durations: Durations) -> Metric:
    return SummaryMetricFamily(
        f"{_PREFIX}{name}", text, count_value=durations.count, sum_value=durations.total_s
    )
