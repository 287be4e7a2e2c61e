"""What agents believe of the authority's CRLs, whatever becomes of its log and its clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from ca import backup, office
from ca.authority import crl_number
from ca.directory import bundle_pem
from ca.entries import How, Issued, Revoked
from ca.files import RealFiles
from ca.requests import ByOperator, crls_pem
from ca.rollover import Step
from ca.store import Batch
from ovn_ipsec.sources.files import MAX_FILE_BYTES
from ovn_ipsec.sources.pem import certificate_fact
from ovn_ipsec.sources.revocation import Revocations
from tests.unit.ca.disk import Disk
from tests.unit.ca.people import START, STATE, Office, csr, serial_of


class Agent:
    """Reads what an authority publishes, as the agent of a node does."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "crl.pem"
        self._agent = Revocations()

    def denied(self, world: Office) -> set[str]:
        """Who is denied by what is published now; it must be believed."""
        new = self._path.with_suffix(".new")
        new.write_bytes(crls_pem(world.desk.crls()))
        new.replace(self._path)
        bundle = certificate_fact("bundle", bundle_pem(world.desk))
        fact = self._agent.snapshot(str(self._path), bundle)
        assert not fact.problems
        return set(fact.denied)


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path)


def sign(world: Office, *names: str) -> None:
    for name in names:
        world.desk.sign(csr(name), ByOperator(name))


def number_of(world: Office) -> int:
    crl = x509.load_der_x509_crl(world.desk.crls()[0])
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def restored(world: Office, file: Path) -> Office:
    """The authority of a backup, at the lost one's time."""
    disk = Disk()
    backup.restore(RealFiles(), file, disk, STATE, world.clock())
    again = Office(files=disk)
    again.clock.now = world.clock()
    again.open()
    return again


@pytest.mark.parametrize("ahead_days", [0, 400], ids=["clock right", "clock was ahead"])
def test_after_a_restore_agents_believe_new_lists_and_those_who_joined_later_can_be_denied(
    tmp_path: Path, agent: Agent, ahead_days: int
) -> None:
    world = Office()
    world.clock.forward(days=ahead_days)
    sign(world, "evil")
    world.clock.forward(days=-ahead_days)
    backup.back_up(RealFiles(), world.store, tmp_path / "backup", world.clock())
    for number in range(20):
        world.clock.forward(hours=1)
        sign(world, f"later-{number}")
    office.revoke_node(world.desk, "later-3")
    assert agent.denied(world) == {"later-3"}
    world.clock.forward(hours=1)
    again = restored(world, tmp_path / "backup")
    office.revoke_node(again.desk, "evil")
    office.revoke_node(again.desk, "Later-3")
    assert agent.denied(again) == {"evil", "later-3"}


def test_when_the_clock_is_put_back_numbers_go_on_growing_also_after_a_restart(
    agent: Agent,
) -> None:
    world = Office()
    world.clock.forward(days=300)
    sign(world, "a", "b", "c")
    office.revoke_node(world.desk, "a")
    assert agent.denied(world) == {"a"}
    world.clock.forward(days=-300)
    office.revoke_node(world.desk, "b")
    assert agent.denied(world) == {"a", "b"}
    world.open()
    office.revoke_node(world.desk, "c")
    assert agent.denied(world) == {"a", "b", "c"}


def flooded(world: Office, **counts: int) -> None:
    """Ids with as many certificates as older releases gave them; all are revoked, by name, too."""

    def work(batch: Batch, now: datetime) -> None:
        for number, (name, count) in enumerate(counts.items(), 1):
            serials = [f"{number:016x}{n:016x}" for n in range(count)]
            span = now, now + timedelta(days=365)
            for serial in serials:
                der = serial.encode()
                batch.add(Issued(now, serial, name, How.OPERATOR, "", "", "", *span, der))
            batch.add(Revoked(now, name, tuple(serials), node=True))

    world.desk.submit(work)


def test_list_stays_small_by_leaving_out_serials_of_those_with_most_who_are_denied_by_name(
    agent: Agent,
) -> None:
    world = Office()
    sign(world, "thief", "c")
    office.revoke_node(world.desk, "thief")
    office.revoke_serial(world.desk, serial_of(world.desk.sign(csr("d"), ByOperator("d"))))
    flooded(world, evil=12_000, many=3_000)
    world.desk.take_step(Step.START)
    assert len(crls_pem(world.desk.crls())) < MAX_FILE_BYTES
    assert agent.denied(world) == {"evil", "many", "thief"}
    for der in world.desk.crls():
        assert len(x509.load_der_x509_crl(der)) == 3_002


def test_number_is_larger_than_those_of_releases_that_counted_entries_first() -> None:
    world = Office()
    sign(world, "a")
    most = ((1 << 64) - 1) << 40 | (1 << 40) - 1
    assert number_of(world) > most
    assert crl_number(datetime.fromtimestamp(1, UTC), 0, START) > most
    last = datetime.max.replace(tzinfo=UTC)
    assert crl_number(last, (1 << 64) - 1, last).bit_length() < 20 * 8
