"""What a Kubernetes Node may have, once the API server has said which Node asks."""

from __future__ import annotations

import pytest

from ca import office
from ca.requests import ByNode, ByOperator, CaBusy, RequestDenied
from tests.unit.ca.people import Office, csr, key, serial_of

ME = "chassis-1"
MINE = ByNode("worker-1", ME)
THEIRS = ByNode("worker-2", ME)


def reasons(world: Office, request: bytes, requester: ByNode) -> str:
    with pytest.raises(RequestDenied) as denied:
        world.desk.sign(request, requester)
    return "\n".join(denied.value.reasons)


def test_a_node_renews_with_new_keys_and_its_older_certificates_go_on_counting() -> None:
    world = Office()
    request = csr(ME)
    first = world.desk.sign(request, MINE)
    assert world.desk.sign(request, MINE) == first, "the same request, the same certificate"
    second = world.desk.sign(csr(ME, own=key("next")), MINE)
    live = [item.serial for item in world.store.inventory.live(ME, world.clock())]
    assert live == [serial_of(first), serial_of(second)]


def test_an_id_stays_with_its_node_also_after_a_restart_until_its_certificates_end() -> None:
    world = Office()
    world.desk.sign(csr(ME), MINE)
    world.open()
    assert "is Node worker-1, which has" in reasons(world, csr(ME, own=key("b")), THEIRS)
    world.clock.forward(days=6 * 365)
    world.desk.sign(csr(ME, own=key("c")), THEIRS)
    assert "is Node worker-2, which has" in reasons(world, csr(ME, own=key("d")), MINE)


def test_the_case_of_letters_makes_no_other_id() -> None:
    world = Office()
    world.desk.sign(csr(ME), MINE)
    shouting = ByNode("worker-2", ME.upper())
    assert "is Node worker-1" in reasons(world, csr(ME.upper(), own=key("b")), shouting)


def test_an_id_that_was_certified_elsewhere_is_not_given_to_a_node() -> None:
    world = Office()
    world.desk.sign(csr(ME), ByOperator(ME))
    assert "that no Node was given" in reasons(world, csr(ME, own=key("b")), MINE)


def test_of_two_that_claim_an_id_only_the_one_that_has_it_gets_it() -> None:
    world = Office()
    contested = ByNode("worker-1", ME, claimants=("worker-2",))
    assert "claimed by other Nodes, too: worker-2" in reasons(world, csr(ME), contested)
    world.desk.sign(csr(ME), MINE)
    world.desk.sign(csr(ME, own=key("b")), contested)


def test_what_was_denied_for_the_clusters_sake_is_granted_once_it_is_mended() -> None:
    world = Office()
    lost = ByNode("worker-1", "", doubts=("Node worker-1 has no annotation",))
    assert "has no annotation" in reasons(world, csr(ME), lost)
    renamed = ByNode("worker-1", "chassis-2")
    assert "the requester is 'chassis-2'" in reasons(world, csr(ME), renamed)
    world.desk.sign(csr(ME), MINE)


def test_doubts_are_recorded_at_most_ten_times_a_minute() -> None:
    world = Office()
    for number in range(30):
        reasons(world, csr(f"node-{number}"), ByNode("", "", doubts=("nobody",)))
    assert len(world.store.inventory.refusals) == 10


def test_a_node_in_a_hurry_waits() -> None:
    world = Office()
    for number in range(10):
        world.desk.sign(csr(ME, own=key(f"key {number}")), MINE)
    with pytest.raises(CaBusy):
        world.desk.sign(csr(ME, own=key("one more")), MINE)
    world.clock.forward(minutes=1)
    world.desk.sign(csr(ME, own=key("one more")), MINE)


def test_a_revoked_node_comes_back_once_with_each_admission_and_never_with_its_old_key() -> None:
    world = Office()
    for number in range(2):
        world.desk.sign(csr(ME, own=key(f"key {number}")), MINE)
        office.revoke_node(world.desk, ME)
        assert "was revoked" in reasons(world, csr(ME, own=key("other")), MINE)
        office.admit_node(world.desk, ME)
        world.open()
        assert "revoked certificate" in reasons(world, csr(ME, own=key(f"key {number}")), MINE)
    assert ME in world.store.inventory.denied_names
    world.desk.sign(csr(ME, own=key("last")), MINE)
    assert ME not in world.store.inventory.denied_names
