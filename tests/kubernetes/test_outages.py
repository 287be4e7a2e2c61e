"""The API server goes and comes back, replicas die and stall: nothing is lost or done twice."""

from __future__ import annotations

import json
import signal
import time
from functools import partial

import pytest

from tests.kubernetes.cluster import LEASES, Cluster, Replica, wait_for

pytestmark = pytest.mark.kubernetes

_OUTAGE_S = 30.0
_TAKE_OVER_S = 20.0


def test_the_signer_answers_again_after_the_api_server_was_gone_for_30_s(
    cluster: Cluster,
) -> None:
    cluster.signer()
    first, second = cluster.nodes[:2]
    cluster.certificate(cluster.ask(first.identity, first.chassis_id))
    cluster.plane.kill_server()
    time.sleep(_OUTAGE_S)
    cluster.plane.start()
    cluster.certificate(cluster.ask(second.identity, second.chassis_id))


def test_the_signer_answers_again_after_the_api_server_stalled_for_30_s(
    cluster: Cluster,
) -> None:
    cluster.signer()
    first, second = cluster.nodes[:2]
    cluster.certificate(cluster.ask(first.identity, first.chassis_id))
    cluster.plane.stall_server()
    time.sleep(_OUTAGE_S)
    cluster.plane.resume_server()
    cluster.certificate(cluster.ask(second.identity, second.chassis_id))


def test_when_the_leader_is_killed_the_other_replica_signs_within_20_s(cluster: Cluster) -> None:
    leader, other = _leader_and_other(cluster)
    leader.kill()
    node = cluster.nodes[0]
    name = cluster.ask(node.identity, node.chassis_id)
    cluster.certificate(name, _TAKE_OVER_S)
    wait_for(lambda: other.said(f"{name}: signed"))


def test_a_leader_that_is_asked_to_end_hands_over_at_once(cluster: Cluster) -> None:
    leader, _ = _leader_and_other(cluster)
    leader.signal(signal.SIGTERM)
    assert leader.process.wait(timeout=10) == 0
    node = cluster.nodes[0]
    cluster.certificate(cluster.ask(node.identity, node.chassis_id), within_s=6)


def test_a_leader_that_stalled_finds_another_one_and_signs_no_more(cluster: Cluster) -> None:
    leader, other = _leader_and_other(cluster)
    leader.signal(signal.SIGSTOP)
    names = [cluster.ask(node.identity, node.chassis_id) for node in cluster.nodes]
    for name in names:
        cluster.certificate(name, _TAKE_OVER_S)
    leader.signal(signal.SIGCONT)
    wait_for(lambda: leader.said("leads no more"))
    again = cluster.ask(cluster.nodes[0].identity, cluster.nodes[0].chassis_id)
    cluster.certificate(again)
    wait_for(lambda: other.said(f"{again}: signed"))
    assert not any(leader.said(f"{name}: signed") for name in [*names, again])
    _assert_one_certificate_each(cluster, [*names, again])


def test_a_leader_that_stalled_leads_again_when_its_successor_has_gone(cluster: Cluster) -> None:
    leader, other = _leader_and_other(cluster)
    leader.signal(signal.SIGSTOP)
    first, second = cluster.nodes[:2]
    cluster.certificate(cluster.ask(first.identity, first.chassis_id), _TAKE_OVER_S)
    other.signal(signal.SIGTERM)
    assert other.process.wait(timeout=10) == 0
    leader.signal(signal.SIGCONT)
    cluster.certificate(cluster.ask(second.identity, second.chassis_id))


def test_requests_during_a_series_of_kills_get_one_certificate_each(cluster: Cluster) -> None:
    """Whatever step a leader was at when it was killed."""
    names = []
    for round_number in range(4):
        replica = cluster.signer()
        wait_for(partial(replica.said, "answering requests"))
        names += [cluster.ask(node.identity, node.chassis_id) for node in cluster.nodes]
        time.sleep(0.02 * round_number)
        replica.kill()
        cluster.admin.delete(LEASES)  # who is killed does not hand over
    cluster.signer()
    for name in names:
        cluster.certificate(name)
    _assert_one_certificate_each(cluster, names)


def _leader_and_other(cluster: Cluster) -> tuple[Replica, Replica]:
    leader = cluster.signer()
    wait_for(lambda: leader.said("answering requests"))
    other = cluster.signer()
    wait_for(lambda: other.said("waiting"))
    return leader, other


def _assert_one_certificate_each(cluster: Cluster, names: list[str]) -> None:
    """What the authority has on record is what the requests have, and no more."""
    delivered = {f"{cluster.certificate(name).serial_number:032x}" for name in names}
    rows = json.loads(cluster.authority("list", "--all", "--json"))
    assert len(delivered) == len(names)
    assert {row["serial"] for row in rows} == delivered
    assert len(rows) == len(names)
