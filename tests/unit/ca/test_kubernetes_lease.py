"""One leader at a time, whatever the API server does, and watches that never end."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from ca.kubernetes_api import ApiRefused, ApiUnreachable, Gone, Json
from ca.kubernetes_lease import DURATION_S, GIVE_UP_S, RENEW_S, Lease
from ca.kubernetes_watch import Watched
from tests.unit.ca.objects import Objects


class _Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class _Door(Objects):
    """One replica's way to the API server, which may be cut."""

    def __init__(self, shared: Objects) -> None:
        super().__init__()
        self._shared = shared
        self.down = False

    def get(self, path: str) -> Json:
        if self.down:
            raise ApiUnreachable("no answer")
        return self._shared.get(path)

    def create(self, path: str, body: Json) -> Json:
        return self._shared.create(path, body)

    def replace(self, path: str, body: Json) -> Json:
        return self._shared.replace(path, body)


def _lease(objects: Objects, name: str, clock: _Clock) -> Lease:
    return Lease(objects, "ns", "lease", name, lambda: datetime(2026, 5, 1, tzinfo=UTC), clock)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0.1, RENEW_S)), max_size=60))
def test_two_replicas_never_lead_at_once_however_long_each_is_cut_off(
    steps: list[tuple[bool, bool, float]],
) -> None:
    clock = _Clock()
    shared = Objects()
    doors = [_Door(shared), _Door(shared)]
    leases = [_lease(door, f"replica-{n}", clock) for n, door in enumerate(doors)]
    for first_down, second_down, wait_s in steps:
        doors[0].down, doors[1].down = first_down, second_down
        leading = 0
        for lease in leases:
            try:
                leading += lease.hold()
            except ApiUnreachable:
                continue
        assert leading <= 1
        clock.now += wait_s


def test_a_dead_leaders_lease_is_taken_when_it_has_not_changed_for_its_duration() -> None:
    clock, objects = _Clock(), Objects()
    dead, other = _lease(objects, "dead", clock), _lease(objects, "other", clock)
    assert dead.hold() and not other.hold()
    clock.now += DURATION_S - 0.1
    assert not other.hold()
    clock.now += 0.1
    assert other.hold() and not dead.hold()


def test_a_leader_without_an_api_server_leads_on_for_a_while_and_then_no_more() -> None:
    clock, objects = _Clock(), _Door(Objects())
    lease = _lease(objects, "me", clock)
    assert lease.hold()
    objects.down = True
    clock.now += GIVE_UP_S - 0.1
    assert lease.hold()
    clock.now += 0.1
    try:
        assert not lease.hold()
    except ApiUnreachable:
        return


def test_a_lease_that_is_released_is_free_at_once() -> None:
    clock, objects = _Clock(), Objects()
    first, second = _lease(objects, "first", clock), _lease(objects, "second", clock)
    assert first.hold() and not second.hold()
    first.release()
    assert second.hold()


def test_a_leader_that_slept_while_another_one_led_knows_that_it_begins_anew() -> None:
    clock, objects = _Clock(), Objects()
    first, second = _lease(objects, "first", clock), _lease(objects, "second", clock)
    assert first.hold() and first.hold() and first.terms == 1
    assert not second.hold()
    clock.now += DURATION_S
    assert second.hold()
    second.release()
    assert first.hold() and first.terms == 2


class _Scripted(Objects):
    """A collection whose API server misbehaves in a certain order."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__()
        self._stop = stop
        self.lists = iter([["a", "b"], ["b", "c"]])
        steps: list[ApiRefused | list[tuple[str, str]]] = [
            ApiRefused("watch", 403, "forbidden: RBAC is not ready"),
            [("ADDED", "d"), ("BOOKMARK", "")],
            Gone("watch", 410, "too old"),
            [("DELETED", "c")],
        ]
        self.watches = iter(steps)
        self.asked_from: list[str] = []

    def list(self, path: str, query: Mapping[str, str]) -> Json:
        items = [_item(name) for name in next(self.lists)]
        return {"metadata": {"resourceVersion": "1"}, "items": items}

    def watch(self, path: str, query: Mapping[str, str]) -> Iterator[tuple[str, Json]]:
        self.asked_from.append(query["resourceVersion"])
        step = next(self.watches, None)
        if step is None:
            self._stop.set()
            return
        if isinstance(step, ApiRefused):
            raise step
        for number, (kind, name) in enumerate(step):
            yield kind, _item(name, f"{number + 2}")


def test_a_watch_survives_refusals_and_lists_again_when_the_server_has_forgotten() -> None:
    stop = threading.Event()
    objects = _Scripted(stop)
    told: list[str] = []
    watched = Watched(
        objects,
        "/things",
        {},
        lambda item: told.append(f"+{item['metadata']['name']}"),
        lambda item: told.append(f"-{item['metadata']['name']}"),
    )
    watched.run(stop)
    assert told[:3] == ["+a", "+b", "+d"]
    assert sorted(told[3:5]) == ["-a", "-d"], "what the second list lacks is gone"
    assert told[5:] == ["+b", "+c", "-c"]
    assert objects.asked_from == ["1", "1", "3", "1", "2"]


def _item(name: str, version: str = "1") -> Json:
    return {"metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": version}}
