"""The state in Kubernetes objects: whole after a death at any write, and never two histories."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ca import backup, kubernetes_state, roots
from ca.entries import NodeBound
from ca.errors import LogTamperedError, StoreError
from ca.files import RealFiles
from ca.kubernetes_files import KubernetesFiles, NotLeader
from ca.requests import ByNode
from ca.rollover import Step
from ca.store import Store
from tests.unit.ca.disk import PowerCut
from tests.unit.ca.objects import Interleaved, Objects
from tests.unit.ca.people import SETTINGS, START, STATE, Office, csr, serial_of

_SERIALS = itertools.count(1 << 64)
_BOUND = NodeBound(START, "node-9", "worker-9")


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Iterator[None]:
    """So that lines and batches cross the borders of blocks all the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kubernetes_state, "BLOCK", 700)
        yield


def _files(objects: Objects, identity: str = "") -> KubernetesFiles:
    files = KubernetesFiles(objects, "ovn-ipsec", "ca")
    if identity:
        files.take(identity)
    return files


def _make(objects: Objects) -> None:
    serials = (f"{number:032x}" for number in _SERIALS)
    roots.init_authority(_files(objects), STATE, SETTINGS, START, lambda: next(serials))


def _sign(office: Office, number: int) -> str:
    name = f"node-{number}"
    return serial_of(office.desk.sign(csr(name), ByNode(f"worker-{number}", name)))


def test_what_was_issued_is_there_when_the_state_is_opened_again() -> None:
    objects = Objects()
    _make(objects)
    office = Office(files=_files(objects))
    serials = [_sign(office, number) for number in range(20)]
    again = Office(files=_files(objects))
    assert list(again.store.inventory.issued) == serials
    assert len([path for path in objects.objects if "-log-" in path]) > 20


@settings(max_examples=60)
@given(
    cut_at=st.integers(1, 40),
    cut_after=st.booleans(),
    second_cut=st.integers(1, 6),
    before=st.integers(0, 4),
)
def test_after_a_death_at_any_write_all_that_was_answered_is_there_and_work_goes_on(
    cut_at: int, cut_after: bool, second_cut: int, before: int
) -> None:
    objects = Objects()
    _make(objects)
    answered: list[str] = []
    numbers = itertools.count()
    objects.cut_at, objects.cut_after = objects.writes + cut_at, cut_after
    for extra in (second_cut, None):
        with contextlib.suppress(PowerCut):
            office = Office(files=_files(objects, f"replica-{extra}"))
            for _ in range(before + 5):
                answered.append(_sign(office, next(numbers)))
        objects.cut_at = None if extra is None else objects.writes + extra
    objects.cut_at = None
    office = Office(files=_files(objects, "last"))
    answered.append(_sign(office, next(numbers)))
    whole = Office(files=_files(objects)).store
    assert set(answered) <= whole.inventory.issued.keys()
    assert whole.unfinished_bytes() == 0


def test_an_authority_whose_making_was_interrupted_is_made_by_the_next_leader() -> None:
    for cut_at, cut_after in itertools.product((1, 2, 3), (False, True)):
        objects = Objects()
        objects.cut_at, objects.cut_after = cut_at, cut_after
        with pytest.raises(PowerCut):
            _make(objects)
        if not _files(objects).exists():
            _make(objects)
        _sign(Office(files=_files(objects)), 1)


def test_a_log_whose_secret_is_lost_is_not_overwritten_by_a_new_authority() -> None:
    objects = Objects()
    _make(objects)
    _sign(Office(files=_files(objects)), 1)
    before = dict(objects.objects)
    del objects.objects["/api/v1/namespaces/ovn-ipsec/secrets/ca"]
    del before["/api/v1/namespaces/ovn-ipsec/secrets/ca"]
    with pytest.raises(StoreError, match="put the Secret back"):
        _make(objects)
    assert {path: objects.objects[path] for path in before} == before


def test_of_two_who_write_at_once_the_second_is_told_so_and_loses_nothing_of_the_first() -> None:
    objects = Objects()
    _make(objects)
    slow, fast = Office(files=_files(objects)), Office(files=_files(objects))
    with pytest.raises(StoreError, match="try again"), slow.store.transaction() as batch:
        first = _sign(fast, 1)
        batch.add(_BOUND)
    second = _sign(slow, 2)
    inventory = Office(files=_files(objects)).store.inventory
    assert list(inventory.issued) == [first, second]


@settings(max_examples=40)
@given(choices=st.lists(st.integers(0, 5), max_size=80), count=st.integers(1, 4))
def test_however_two_writers_take_turns_what_either_was_told_is_there(
    choices: list[int], count: int
) -> None:
    objects = Objects()
    _make(objects)
    answered: list[str] = []

    def writer(first: int) -> Callable[[Objects], None]:
        def write(mine: Objects) -> None:
            office: Office | None = None
            for number in range(first, first + count):
                for _ in range(2):
                    try:
                        office = office or Office(files=_files(mine))
                        answered.append(_sign(office, number))
                        break
                    except LogTamperedError:
                        raise
                    except StoreError:
                        continue  # somebody else wrote at the same time

        return write

    Interleaved(objects, iter(choices)).run(writer(0), writer(100))
    whole = Office(files=_files(objects)).store.inventory
    assert set(answered) <= whole.issued.keys()


def test_a_leader_that_was_replaced_in_the_middle_of_a_write_writes_no_more() -> None:
    objects = Objects()
    _make(objects)
    old = Office(files=_files(objects, "old"))
    with pytest.raises(StoreError, match="try again"), old.store.transaction() as batch:
        new = Office(files=_files(objects, "new"))
        batch.add(_BOUND)
    with pytest.raises(NotLeader, match="new leads now"):
        _sign(old, 1)
    serial = _sign(new, 2)
    assert list(Office(files=_files(objects)).store.inventory.issued) == [serial]


def test_a_backup_makes_a_state_of_lost_objects_and_none_beside_one_that_is_there(
    tmp_path: Path,
) -> None:
    objects = Objects()
    _make(objects)
    office = Office(files=_files(objects))
    serials = [_sign(office, number) for number in range(5)]
    backup.back_up(RealFiles(), office.store, tmp_path / "backup", START)
    with pytest.raises(StoreError, match="not empty"):
        backup.restore(RealFiles(), tmp_path / "backup", _files(objects), STATE, START)
    objects.objects.clear()
    backup.restore(RealFiles(), tmp_path / "backup", _files(objects), STATE, START)
    again = Office(files=_files(objects))
    assert list(again.store.inventory.issued) == serials
    _sign(again, 9)


def test_a_block_that_somebody_changed_is_noticed() -> None:
    objects = Objects()
    _make(objects)
    office = Office(files=_files(objects))
    for number in range(4):
        _sign(office, number)
    path = "/api/v1/namespaces/ovn-ipsec/configmaps/ca-log-00002"
    text = objects.objects[path]["data"]["log.jsonl"]
    objects.objects[path]["data"]["log.jsonl"] = text.replace("1", "2", 1)
    with pytest.raises(LogTamperedError):
        Store(_files(objects), STATE)


def test_a_write_costs_the_same_however_long_the_log_is() -> None:
    objects = Objects()
    _make(objects)
    office = Office(files=_files(objects))
    costs = []
    for number in range(40):
        before = objects.reads
        _sign(office, number)
        costs.append(objects.reads - before)
    assert max(costs[20:]) <= max(costs[:20])


def test_keys_of_retired_roots_are_destroyed_in_the_secret() -> None:
    objects = Objects()
    _make(objects)
    office = Office(files=_files(objects))
    for step in Step:
        office.desk.take_step(step, force=True)
    keys = objects.objects["/api/v1/namespaces/ovn-ipsec/secrets/ca"]["data"]
    assert [name for name in keys if name.startswith("key.")] == [
        f"key.{office.store.inventory.signing}.pem"
    ]
