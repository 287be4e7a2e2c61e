"""The roll-over to a new root waits for every live node, and says for whom it waits."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from cryptography import x509

from ca import office
from ca.errors import RolloverError, StoreError
from ca.requests import ByCertificate, ByOperator, bundle_digest
from ca.rollover import Phase, Rollover, Step, survey
from ca.settings import CaSettings
from tests.unit.ca.disk import Disk
from tests.unit.ca.people import SETTINGS, Office, csr, key, public_key_der

NODES = ("a", "b", "c")


class Cluster:
    """Three nodes with certificates."""

    def __init__(self, settings: CaSettings = SETTINGS) -> None:
        self.world = Office(settings)
        self.mine = {n: self.world.desk.sign(csr(n), ByOperator(n)) for n in NODES}
        self.first_root = self.world.desk.bundle()[0]

    def acknowledge(self, *nodes: str) -> None:
        for name in nodes:
            self.world.desk.acknowledge(name, bundle_digest(self.world.desk.bundle()))

    def renew(self, *nodes: str) -> None:
        for name in nodes:
            request = csr(name, own=key(f"{name} {self.world.clock()}"))
            self.mine[name] = self.world.desk.sign(request, ByCertificate(self.mine[name]))

    def keep_house(self) -> None:
        """As the server does, and as another process after a restart would."""
        self.world.open()
        self.world.desk.keep_house()

    def phase(self) -> Phase:
        return self._survey().phase

    def laggards(self) -> tuple[str, ...]:
        return self._survey().laggards

    def _survey(self) -> Rollover:
        store = self.world.store
        return survey(store.inventory, store.settings, self.world.clock())


def issuer_key_id(der: bytes) -> bytes | None:
    extensions = x509.load_der_x509_certificate(der).extensions
    return extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier


def test_whole_rollover_happens_by_itself_and_waits_for_the_node_that_was_off() -> None:
    cluster = Cluster()
    desk = cluster.world.desk
    desk.take_step(Step.START)
    assert cluster.first_root == desk.bundle()[0] and len(desk.bundle()) == 2
    cluster.acknowledge("a", "b")
    cluster.world.clock.forward(days=30)
    cluster.keep_house()
    assert cluster.phase() is Phase.PUBLISHED and cluster.laggards() == ("c",)
    cluster.acknowledge("c")
    cluster.keep_house()
    assert cluster.phase() is Phase.PUBLISHED  # c's pluto may still know the old roots only
    cluster.world.clock.forward(seconds=360)
    cluster.keep_house()
    assert cluster.phase() is Phase.SWITCHED and cluster.laggards() == NODES
    new, old = cluster.world.desk.bundle()
    assert old == cluster.first_root
    cluster.renew("a", "b")
    cluster.world.clock.forward(days=30)
    cluster.keep_house()
    assert cluster.laggards() == ("c",)
    cluster.renew("c")
    cluster.world.clock.forward(seconds=360)
    cluster.keep_house()
    assert cluster.phase() is Phase.STEADY
    assert cluster.world.desk.bundle() == (new,) and not cluster.world.desk.cross()
    assert isinstance(cluster.world.files, Disk)
    assert len([path for path in cluster.world.files.now if path.suffix == ".pem"]) == 1


def test_new_root_has_the_name_of_the_old_one_and_another_key_and_serial() -> None:
    cluster = Cluster()
    cluster.world.desk.take_step(Step.START)
    old, new = map(x509.load_der_x509_certificate, cluster.world.desk.bundle())
    assert old.subject == new.subject
    assert old.public_key() != new.public_key() and old.serial_number != new.serial_number


def test_switch_is_refused_with_the_names_of_those_who_lag_and_forced_on_request() -> None:
    cluster = Cluster()
    desk = cluster.world.desk
    desk.take_step(Step.START)
    cluster.acknowledge("a")
    with pytest.raises(RolloverError, match=r"2 live nodes .*: b, c; .*--force"):
        desk.take_step(Step.SWITCH)
    with pytest.raises(RolloverError, match="phase is published"):
        desk.take_step(Step.RETIRE, force=True)
    desk.take_step(Step.SWITCH, force=True)
    assert desk.bundle()[1] == cluster.first_root
    with pytest.raises(RolloverError, match="phase is switched"):
        desk.take_step(Step.START)


def test_revoked_and_expired_nodes_keep_nobody_waiting() -> None:
    cluster = Cluster(replace(SETTINGS, leaf_life_s=86400))
    cluster.world.desk.take_step(Step.START)
    office.revoke_node(cluster.world.desk, "b")
    cluster.renew("a")
    assert cluster.laggards() == ("c",)
    cluster.world.clock.forward(hours=25)
    cluster.keep_house()
    assert cluster.phase() is Phase.SWITCHED


def test_acknowledgement_counts_for_the_present_bundle_and_known_nodes_only() -> None:
    cluster = Cluster()
    desk = cluster.world.desk
    before = bundle_digest(desk.bundle())
    desk.take_step(Step.START)
    now = bundle_digest(desk.bundle())
    for name, digest in (("a", before), ("b", "nonsense"), ("stranger", now)):
        desk.acknowledge(name, digest)
    assert cluster.laggards() == NODES
    desk.acknowledge("A", bundle_digest(tuple(reversed(desk.bundle()))))
    assert cluster.laggards() == ("b", "c")


def test_deadline_raises_an_alarm_once_and_decides_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster = Cluster()
    cluster.world.desk.take_step(Step.START)
    cluster.acknowledge("a")
    cluster.world.clock.forward(days=8)
    with caplog.at_level(logging.WARNING):
        cluster.world.desk.keep_house()
        cluster.world.desk.keep_house()
    assert [record.getMessage() for record in caplog.records if "b, c" in record.getMessage()]
    assert len(caplog.records) == 1
    assert cluster.phase() is Phase.PUBLISHED


def test_rollover_starts_by_itself_before_a_leaf_is_cut_short() -> None:
    cluster = Cluster(replace(SETTINGS, ca_life_s=1000, leaf_life_s=100, settle_s=0))
    cluster.world.clock.forward(seconds=890)
    cluster.keep_house()
    assert cluster.phase() is Phase.STEADY
    cluster.world.clock.forward(seconds=11)
    cluster.keep_house()
    assert cluster.phase() is Phase.PUBLISHED


def test_leaf_never_outlives_its_root_and_an_expired_root_signs_nothing() -> None:
    world = Office(replace(SETTINGS, ca_life_s=1000, leaf_life_s=500, automatic_rollover=False))
    root = x509.load_der_x509_certificate(world.desk.bundle()[0])
    world.clock.forward(seconds=900)
    leaf = x509.load_der_x509_certificate(world.desk.sign(csr("a"), ByOperator("a")))
    assert leaf.not_valid_after_utc == root.not_valid_after_utc
    assert leaf.not_valid_before_utc >= root.not_valid_before_utc
    world.clock.forward(seconds=100)
    with pytest.raises(StoreError, match="rotate-ca start"):
        world.desk.sign(csr("b"), ByOperator("b"))
    world.desk.take_step(Step.START)
    world.desk.take_step(Step.SWITCH, force=True)
    world.desk.sign(csr("b"), ByOperator("b"))


def test_server_follows_the_rollover_and_links_its_certificate_to_the_old_root() -> None:
    cluster = Cluster(replace(SETTINGS, settle_s=0))
    desk = cluster.world.desk
    names = ("ca.example", "10.0.0.1", "fd00::1")
    assert len(desk.server_certificate(public_key_der("server"), names)) == 1
    desk.take_step(Step.START)
    assert len(desk.server_certificate(public_key_der("server"), names)) == 1
    cluster.acknowledge(*NODES)
    desk.take_step(Step.SWITCH)
    leaf, link = desk.server_certificate(public_key_der("server"), names)
    assert issuer_key_id(leaf) != issuer_key_id(link)
    old = x509.load_der_x509_certificate(cluster.first_root)
    x509.load_der_x509_certificate(link).verify_directly_issued_by(old)
