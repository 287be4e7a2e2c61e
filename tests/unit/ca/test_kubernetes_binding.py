"""Who a CertificateSigningRequest is from, and when its turn is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca.kubernetes_binding import (
    Asked,
    Nobody,
    NodeName,
    PodName,
    Stage,
    requester_of,
    stage_of,
)
from ca.kubernetes_queue import WorkQueue

ACCOUNT = "system:serviceaccount:ovn-ipsec:ovn-ipsec-node"
_PREFIX = "authentication.kubernetes.io"
Extra = dict[str, tuple[str, ...]]
NODE: Extra = {f"{_PREFIX}/node-name": ("w",)}
POD: Extra = {f"{_PREFIX}/pod-name": ("agent",), f"{_PREFIX}/pod-uid": ("u",)}
NODES = frozenset({"system:nodes"})


def _asked(user: str, extra: Extra, groups: frozenset[str] = frozenset()) -> Asked:
    return Asked("s", b"", (), user, groups, extra)


@pytest.mark.parametrize(
    ("asked", "who"),
    [
        (_asked(ACCOUNT, NODE), NodeName("w")),
        (_asked(ACCOUNT, POD), PodName("ovn-ipsec", "agent", "u")),
        (_asked(ACCOUNT, NODE | POD), NodeName("w")),
        (_asked("system:ovn-node:w", {}), NodeName("w")),
        (_asked("system:node:w", {}, NODES), NodeName("w")),
    ],
)
def test_each_proof_names_the_node_or_the_pod(asked: Asked, who: NodeName | PodName) -> None:
    assert requester_of(asked, frozenset({"ovn-ipsec/ovn-ipsec-node"})) == who


@pytest.mark.parametrize(
    "asked",
    [
        _asked(ACCOUNT, {}),
        _asked(ACCOUNT, {f"{_PREFIX}/node-name": ("w", "x")}),
        _asked(ACCOUNT, {f"{_PREFIX}/pod-name": ("agent",)}),
        _asked("system:serviceaccount:ovn-ipsec:other", NODE),
        _asked("system:serviceaccount:other:ovn-ipsec-node", NODE),
        _asked("system:serviceaccount:ovn-ipsec", NODE),
        _asked("system:node:w", {}),
        _asked("admin", NODE | POD, NODES),
        _asked("", {}),
    ],
)
def test_whoever_is_no_agent_is_nobody(asked: Asked) -> None:
    assert isinstance(requester_of(asked, frozenset({"ovn-ipsec/ovn-ipsec-node"})), Nobody)


@pytest.mark.parametrize(
    ("types", "certificate", "stage"),
    [
        ([], "", Stage.DECISION),
        (["Approved"], "", Stage.CERTIFICATE),
        (["Approved"], "x", Stage.NOTHING),
        (["Denied"], "", Stage.NOTHING),
        (["Approved", "Failed"], "", Stage.NOTHING),
    ],
)
def test_a_request_that_has_its_answer_waits_for_nothing(
    types: list[str], certificate: str, stage: Stage
) -> None:
    conditions = [{"type": kind} for kind in types]
    assert stage_of({"status": {"conditions": conditions, "certificate": certificate}}) is stage


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["put", "done", "again"]))))
def test_no_name_is_given_to_two_workers_and_none_that_was_put_in_is_lost(
    steps: list[tuple[str, str]],
) -> None:
    clock = _Clock()
    queue = WorkQueue(clock)
    wanted: set[str] = set()
    working: set[str] = set()
    for name, step in steps:
        if step == "put":
            queue.put(name)
            wanted.add(name)
        elif name in working:
            working.remove(name)
            if step == "again":
                queue.again(name)
            else:
                queue.done(name)
                wanted.discard(name)
        taken = queue.take(0.0)
        assert taken not in working
        if taken is not None:
            working.add(taken)
    clock.now += 3600.0
    for name in working & wanted:
        queue.again(name, 0.0)
    left = set()
    while (name_left := queue.take(0.0)) is not None:
        left.add(name_left)
    assert left >= wanted


def test_what_fails_is_tried_again_ever_later_but_for_ever() -> None:
    clock = _Clock()
    queue = WorkQueue(clock)
    queue.put("a")
    waits = []
    for _ in range(12):
        began = clock.now
        while queue.take(0.0) is None:
            clock.now += 0.25
        waits.append(clock.now - began)
        queue.again("a")
    assert waits[:4] == [0.0, 0.25, 0.5, 1.0]
    assert waits[-1] == 30.0
