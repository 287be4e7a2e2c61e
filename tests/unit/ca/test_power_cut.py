"""The disk fails, or the power, at every single operation: nothing told to anybody is lost."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from hashlib import sha256

import pytest

from ca import office, roots
from ca.errors import StoreError
from ca.requests import ByCertificate, ByOperator, ByToken, Requester, bundle_digest
from ca.rollover import Step
from ca.store import Store
from tests.unit.ca.disk import Disk, PowerCut
from tests.unit.ca.people import SETTINGS, START, STATE, Office, csr, key, serial_of

FAST = replace(SETTINGS, settle_s=0)


@dataclass
class Told:
    """What the authority has told somebody."""

    certificates: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    """Request and certificate, by name of the step."""
    revoked: list[str] = field(default_factory=list)
    signing: bytes = b""
    """The root that signs since the switch."""


def live_through(world: Office, told: Told) -> None:
    """A life of an authority: join, renewal, roll-over, revocation. Stops where the disk stops."""

    def sign(step: str, chassis_id: str, requester: Requester) -> bytes:
        request = csr(chassis_id, own=key(step))
        der = desk.sign(request, requester)
        told.certificates[step] = request, der
        return der

    desk = world.desk
    mine = ByCertificate(sign("a", "a", ByToken("a", world.token("a"))))
    sign("b", "b", ByOperator("b"))
    desk.take_step(Step.START)
    desk.acknowledge("a", bundle_digest(desk.bundle()))
    sign("a2", "a", mine)
    desk.acknowledge("b", bundle_digest(desk.bundle()))
    desk.take_step(Step.SWITCH)
    told.signing = desk.bundle()[0]
    office.revoke_node(desk, "b")
    told.revoked.append("b")
    sign("a3", "a", mine)
    desk.take_step(Step.RETIRE)


@pytest.fixture(scope="module")
def fresh() -> Disk:
    """An authority that has done nothing yet."""
    disk = Office(FAST).files
    assert isinstance(disk, Disk)
    return disk


def check(world: Office, told: Told) -> None:
    """Hold the authority to its word, and let it go on."""
    world.store.refresh()
    inventory = world.store.inventory
    for request, der in told.certificates.values():
        assert inventory.issued[serial_of(der)].der == der
        assert inventory.issued[serial_of(der)].csr == sha256(request).hexdigest()
    for name in told.revoked:
        assert not list(inventory.live(name, world.clock()))
    if told.signing:
        assert world.desk.bundle()[0] == told.signing
    if "a" in told.certificates:
        assert all(token.used_for for token in inventory.tokens.values())
    before = set(inventory.issued)
    der = world.desk.sign(csr("next"), ByOperator("next"))
    assert serial_of(der) not in before
    again = Store(world.files, STATE)
    assert set(again.inventory.issued) == before | {serial_of(der)}
    again.issuer(again.inventory.signing)


def operations_of(fresh: Disk, *, writes: bool) -> int:
    disk = fresh.copy()
    disk.operations = disk.writes = 0
    live_through(Office(FAST, disk), Told())
    return disk.writes if writes else disk.operations


def test_power_cut_at_any_write_loses_nothing_that_was_told(fresh: Disk) -> None:
    for number in range(1, operations_of(fresh, writes=True) + 1):
        disk, told = fresh.copy(), Told()
        disk.writes, disk.cut_at = 0, number
        with pytest.raises(PowerCut):
            live_through(Office(FAST, disk), told)
        for seed in range(4):
            check(Office(FAST, disk.after_power_cut(seed)), told)


def test_disk_error_at_any_operation_loses_nothing_that_was_told(fresh: Disk) -> None:
    for number in range(1, operations_of(fresh, writes=False) + 1):
        disk, told = fresh.copy(), Told()
        disk.operations, disk.fail_at = 0, number
        try:
            world = Office(FAST, disk)
        except StoreError:
            continue  # says so, and has done nothing
        with pytest.raises(StoreError):
            live_through(world, told)
        # The same process goes on, and another one sees the same.
        check(world, told)
        check_again = Office(FAST, disk)
        assert check_again.store.head == world.store.head


def test_interrupted_init_leaves_no_half_authority(fresh: Disk) -> None:
    for number in itertools.count(1):
        disk = Disk()
        disk.cut_at = number
        try:
            roots.init_authority(disk, STATE, FAST, START, Office(FAST, fresh.copy()).serial)
        except PowerCut:
            survivor = disk.after_power_cut(seed=number)
            try:
                Office(FAST, survivor)
            except StoreError as error:
                assert "no authority is here" in str(error)
        else:
            break
    assert number > 10
