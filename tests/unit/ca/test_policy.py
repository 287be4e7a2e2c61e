"""What a node, or somebody who says so, may not have: the attacks, one by one."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from ca import office
from ca.csr import CsrFacts, read_csr
from ca.policy import Grant, Rules, Standing, TokenStanding, chassis_id_fault, decide
from ca.requests import ByCertificate, ByOperator, ByToken, CaBusy, RequestDenied, Requester
from tests.unit.ca.people import (
    START,
    Office,
    csr,
    key,
    public_key_der,
    rsa_key,
    serial_of,
)

ME = "chassis-1"
FOREIGN_NAMES = [
    pytest.param(csr("chassis-2"), "names 'chassis-2'", id="another node's name"),
    pytest.param(csr(ME, "chassis-2"), "2 common names", id="two common names"),
    pytest.param(csr(ME, san=[x509.DNSName(ME), x509.DNSName("x")]), "2 DNS names", id="two DNS"),
    pytest.param(csr(ME, san=[x509.DNSName("chassis-2")]), "names 'chassis-2'", id="other in SAN"),
    pytest.param(csr("*"), "not a chassis id", id="wildcard"),
    pytest.param(csr("*.example"), "not a chassis id", id="wildcard domain"),
    pytest.param(csr(ME, san=[x509.DNSName("*")]), "not a chassis id", id="wildcard in SAN"),
    pytest.param(csr(f"{ME}\nCN=root"), "not a chassis id", id="line break"),
    pytest.param(csr(f"{ME}."), "not a chassis id", id="trailing dot"),
    pytest.param(csr(ME, san=[x509.IPAddress(ip_address("10.0.0.1"))]), "kind IP", id="IP"),
    pytest.param(csr(ME, san=[x509.UniformResourceIdentifier("a:b")]), "kind URI", id="URI"),
    pytest.param(csr(ME, san=[x509.RFC822Name("a@b")]), "kind email", id="email"),
    pytest.param(
        csr(ME, extensions=(x509.BasicConstraints(ca=True, path_length=None),)),
        "CA:TRUE",
        id="CA",
    ),
]
KEYS = [
    pytest.param(rsa_key(2048), "2048 bits", id="RSA 2048"),
    pytest.param(ec.generate_private_key(ec.SECP521R1()), "secp521r1", id="P-521"),
    pytest.param(ec.generate_private_key(ec.SECP256K1()), "secp256k1", id="K-256"),
    pytest.param(ed25519.Ed25519PrivateKey.generate(), "Ed25519", id="Ed25519"),
]


def reasons(world: Office, request: bytes, requester: Requester) -> str:
    with pytest.raises(RequestDenied) as denied:
        world.desk.sign(request, requester)
    return "\n".join(denied.value.reasons)


@pytest.mark.parametrize(("request_der", "reason"), FOREIGN_NAMES)
def test_request_for_what_was_not_proven_is_denied(request_der: bytes, reason: str) -> None:
    world = Office()
    token = world.token(ME)
    assert reason in reasons(world, request_der, ByToken(ME, token))
    world.open()
    assert [entry.chassis_id for entry in world.store.inventory.refusals.values()] == [ME]
    assert not world.store.inventory.issued


@pytest.mark.parametrize(("own", "reason"), KEYS)
def test_weak_and_unusual_keys_are_denied(own: ec.EllipticCurvePrivateKey, reason: str) -> None:
    assert reason in reasons(Office(), csr(ME, own=own), ByOperator(ME))


@pytest.mark.parametrize(
    "own",
    [rsa_key(3072), ec.generate_private_key(ec.SECP384R1()), key(ME)],
    ids=["RSA 3072", "P-384", "P-256"],
)
def test_accepted_key_goes_into_the_certificate_and_nothing_else_does(
    own: ec.EllipticCurvePrivateKey,
) -> None:
    usage = x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.2.3.4")])
    der = Office().desk.sign(csr(ME, own=own, extensions=(usage,)), ByOperator(ME))
    certificate = x509.load_der_x509_certificate(der)
    assert certificate.public_key() == own.public_key()
    given_usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert x509.ObjectIdentifier("1.2.3.4") not in given_usage


def test_changed_request_is_denied_for_its_signature() -> None:
    request = bytearray(csr(ME))
    at = request.index(ME.encode())
    request[at : at + len(ME)] = b"chassis-7"
    assert "signature is wrong" in reasons(Office(), bytes(request), ByOperator("chassis-7"))


@pytest.mark.parametrize("rubbish", [b"", b"\x30\x03abc", b"x" * 70_000, csr(ME)[:-1]])
def test_rubbish_is_denied_and_not_an_error(rubbish: bytes) -> None:
    reasons(Office(), rubbish, ByOperator(ME))


def test_all_reasons_are_given_at_once() -> None:
    request = csr(
        "other",
        own=rsa_key(2048),
        san=[x509.IPAddress(ip_address("::1"))],
        extensions=(x509.BasicConstraints(ca=True, path_length=None),),
    )
    text = reasons(Office(), request, ByOperator(ME))
    for part in ("names 'other'", "2048 bits", "kind IP", "CA:TRUE"):
        assert part in text


def test_one_key_under_two_ids_is_denied() -> None:
    world = Office()
    world.desk.sign(csr("a", own=key("shared")), ByOperator("a"))
    text = reasons(world, csr("b", own=key("shared")), ByToken("b", world.token("b")))
    assert "belongs to another chassis; make a new key" in text


def test_id_in_other_letters_is_the_same_id_and_keeps_its_first_spelling() -> None:
    world = Office()
    world.desk.sign(csr("Node-A"), ByOperator("Node-A"))
    assert "has a certificate" in reasons(world, csr("node-a"), ByOperator("node-a"))
    der = world.desk.sign(csr("NODE-A"), ByOperator("NODE-A", replace=True))
    alternative = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert alternative.value.get_values_for_type(x509.DNSName) == ["Node-A"]


def test_live_id_is_not_taken_over_by_a_token_unless_an_operator_says_so() -> None:
    world = Office()
    token = world.token(ME)
    first = world.desk.sign(csr(ME), ByOperator(ME))
    assert "has a certificate" in reasons(world, csr(ME, own=key("thief")), ByToken(ME, token))
    allowed = world.token(ME, replace=True)
    world.desk.sign(csr(ME, own=key("new machine")), ByToken(ME, allowed))
    # The machine that was replaced has no way back.
    text = reasons(world, csr(ME, own=key("old machine")), ByCertificate(first))
    assert "replaced on an operator's word" in text


def test_same_request_gives_the_same_certificate_also_after_a_restart() -> None:
    world = Office()
    request, token = csr(ME), world.token(ME)
    first = world.desk.sign(request, ByToken(ME, token))
    world.open()
    assert world.desk.sign(request, ByToken(ME, token)) == first
    assert world.desk.sign(request, ByCertificate(first)) == first
    assert len(world.store.inventory.issued) == 1


def test_node_that_keeps_its_request_gets_a_new_certificate_when_renewal_is_due() -> None:
    world = Office()
    request = csr(ME)
    first = world.desk.sign(request, ByOperator(ME))
    world.clock.forward(days=365 * 4)
    assert world.desk.sign(request, ByCertificate(first)) == first
    world.clock.forward(days=170)
    assert world.desk.sign(request, ByCertificate(first)) != first


def valid_now(world: Office, der: bytes) -> bool:
    return x509.load_der_x509_certificate(der).not_valid_before_utc <= world.clock()


@pytest.mark.parametrize("proof", ["token", "operator", "certificate"])
def test_certificate_of_a_clock_that_was_ahead_is_not_given_again_to_the_same_request(
    proof: str,
) -> None:
    world = Office()
    request = csr(ME)
    requester: Requester = ByOperator(ME)
    if proof == "token":
        requester = ByToken(ME, world.token(ME, life_s=365 * 86400))
    elif proof == "certificate":
        requester = ByCertificate(world.desk.sign(csr(ME, own=key("first")), ByOperator(ME)))
    world.clock.forward(days=300)
    early = world.desk.sign(request, requester)
    world.clock.forward(days=-299)
    second = world.desk.sign(request, requester)
    assert second != early and valid_now(world, second)
    world.open()
    assert world.desk.sign(request, requester) == second


def test_certificate_that_is_not_valid_yet_lets_no_other_request_in() -> None:
    world = Office()
    token = world.token(ME, life_s=365 * 86400)
    world.clock.forward(days=300)
    world.desk.sign(csr(ME), ByToken(ME, token))
    world.clock.forward(days=-299)
    assert "used before" in reasons(world, csr(ME, own=key("thief")), ByToken(ME, token))
    assert "has a certificate" in reasons(world, csr(ME, own=key("new")), ByOperator(ME))


@pytest.mark.parametrize("case", ["revoked", "expired", "foreign", "server"])
def test_certificate_that_does_not_count_renews_nothing(case: str) -> None:
    world = Office()
    mine = world.desk.sign(csr(ME), ByOperator(ME))
    if case == "revoked":
        office.revoke_node(world.desk, ME)
    elif case == "expired":
        world.clock.forward(days=365 * 5, seconds=1)
    elif case == "foreign":
        mine = Office().desk.sign(csr(ME), ByOperator(ME))
    else:
        mine = world.desk.server_certificate(public_key_der("server"), (ME,))[0]
    before = len(world.store.inventory.issued)
    text = reasons(world, csr(ME, own=key("next")), ByCertificate(mine))
    assert "the certificate presented" in text
    assert len(world.store.inventory.issued) == before


def test_revoked_node_returns_only_with_a_new_token_and_a_new_key() -> None:
    world = Office()
    early = world.token(ME, replace=True)
    world.desk.sign(csr(ME), ByOperator(ME))
    office.revoke_node(world.desk, ME)
    assert "taken back" in reasons(world, csr(ME, own=key("n1")), ByToken(ME, early))
    again = world.token(ME)
    assert "revoked certificate" in reasons(world, csr(ME), ByToken(ME, again))
    world.desk.sign(csr(ME, own=key("n2")), ByToken(ME, again))
    assert not world.store.inventory.denied_names


def test_denied_is_final_for_the_same_proof_and_recorded_once() -> None:
    world = Office()
    token, request = world.token("b"), csr("b", own=key("a"))
    world.desk.sign(csr("a"), ByOperator("a"))
    first = reasons(world, request, ByToken("b", token))
    world.clock.forward(hours=-2)
    world.open()
    assert reasons(world, request, ByToken("b", token)) == first
    assert len(world.store.inventory.refusals) == 1


def test_node_in_a_hurry_waits_and_others_do_not() -> None:
    world = Office()
    mine = ByCertificate(world.desk.sign(csr(ME), ByOperator(ME)))
    other = ByCertificate(world.desk.sign(csr("b"), ByOperator("b")))
    with pytest.raises(CaBusy) as busy:
        for number in range(12):
            world.desk.sign(csr(ME, own=key(f"hurry {number}")), mine)
    assert 0 < busy.value.retry_after_s <= 60
    world.desk.sign(csr("b", own=key("b2")), other)
    world.clock.forward(seconds=busy.value.retry_after_s + 1)
    world.desk.sign(csr(ME, own=key("patient")), mine)


def test_id_with_the_most_certificates_gets_no_more_until_an_operator_revokes_some() -> None:
    world = Office()
    world.desk.sign(csr("b"), ByOperator("b"))
    mine = ByCertificate(world.desk.sign(csr(ME), ByOperator(ME)))
    own, most = key("renews for ever"), Rules().live_per_id
    for _ in range(most - 1):
        world.clock.forward(minutes=1)
        last = world.desk.sign(csr(ME, own=own), mine)
    entries = world.store.head.count
    for requester in (mine, ByOperator(ME, replace=True)):
        text = reasons(world, csr(ME, own=own), requester)
        assert f"{ME} has {most} certificates" in text and "revoke --serial" in text
    assert world.store.head.count == entries
    world.desk.sign(csr("b", own=key("b2")), ByOperator("b", replace=True))
    office.revoke_serial(world.desk, serial_of(last))
    world.desk.sign(csr(ME, own=key("after")), mine)
    office.revoke_node(world.desk, ME)
    world.desk.sign(csr(ME, own=key("anew")), ByToken(ME, world.token(ME)))


def test_flood_of_false_tokens_neither_fills_the_log_nor_stops_the_node() -> None:
    world = Office()
    token = world.token(ME)
    for number in range(60):
        reasons(world, csr(ME), ByToken(ME, f"{number:027}"))
    assert len(world.store.inventory.refusals) == Rules().unproven_per_window
    assert world.desk.sign(csr(ME), ByToken(ME, token))


def test_flood_without_proof_leaves_little_a_day_on_record_and_a_count_in_the_servers_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world, most, refused = Office(), Rules().unproven_per_day, 0
    size = world.store.head.size
    names = [x509.DNSName(f"{number:063}") for number in range(20)]
    for minute in range(most // 10 + 5):
        for number in range(10):
            request = csr(f"node-{minute}-{number}", san=[*names], own=key("flood"))
            reasons(world, request, ByToken("\U0001f600" * 200, "x" * 27))
            refused += 1
        world.clock.forward(minutes=1)
    assert len(world.store.inventory.refusals) == most
    assert world.store.head.size - size < most * 600
    world.desk.keep_house()
    world.desk.keep_house()
    (told,) = [r.getMessage() for r in caplog.records if r.name == "ca.unrecorded"]
    assert told.startswith(f"{refused - most} requests")
    world.clock.forward(days=1)
    reasons(world, csr("z"), ByToken("z", "x" * 27))
    assert len(world.store.inventory.refusals) == most + 1


def test_of_a_request_without_proof_the_record_has_the_proofs_reason_and_an_id_that_is_one() -> (
    None
):
    world = Office()
    request = csr("other", own=rsa_key(2048))
    for claimed in ("node-1", "no id \u00e9"):
        first = reasons(world, request, ByToken(claimed, "x" * 27))
        assert "2048 bits" in first and "no join token" in first
        assert reasons(world, request, ByToken(claimed, "x" * 27)) == first
    entries = list(world.store.inventory.refusals.values())
    assert [entry.chassis_id for entry in entries] == ["node-1", ""]
    assert all(len(entry.reasons) == 1 and "token" in entry.reasons[0] for entry in entries)


@given(st.text(max_size=70))
def test_only_plain_names_of_64_characters_are_ids(name: str) -> None:
    plain = name.isascii() and all(c.isalnum() or c in "._-" for c in name)
    edges = name[:1] not in (".", "-") and name[-1:] != "."
    assert (chassis_id_fault(name) is None) == (plain and edges and 1 <= len(name) <= 64)


ids = st.sampled_from(["a", "A", "b", "a.b"])
tokens = st.builds(
    TokenStanding,
    handle=st.just("t"),
    chassis_id=ids,
    expires=st.sampled_from([START - timedelta(1), START + timedelta(1)]),
    replace=st.booleans(),
    used_for=st.sampled_from([None, "this", "that"]),
    void=st.booleans(),
)
requests = st.builds(
    CsrFacts,
    digest=st.just("this"),
    names=st.lists(ids, max_size=2).map(tuple),
    public_key=st.sampled_from([None, key("a").public_key()]),
    key_digest=st.just("key"),
    faults=st.lists(st.just("a fault"), max_size=1).map(tuple),
)
standings = st.builds(
    Standing,
    token=st.none() | tokens,
    key_owners=st.frozensets(st.sampled_from(["a", "b"])),
    key_revoked=st.booleans(),
)


@given(requests, ids, standings)
def test_whoever_gets_a_certificate_has_broken_no_rule(
    request_facts: CsrFacts, claimed: str, standing: Standing
) -> None:
    outcome = decide(request_facts, ByToken(claimed, "x"), standing, Rules(), START)
    token = standing.token
    if not isinstance(outcome, Grant):
        return
    assert token is not None
    assert not token.void and token.used_for is None and START < token.expires
    assert outcome.chassis_id == token.chassis_id
    assert not request_facts.faults and not standing.key_revoked
    assert {name.lower() for name in request_facts.names} <= {token.chassis_id.lower()}
    assert standing.key_owners <= {token.chassis_id.lower()}


def test_reading_a_request_never_raises_whichever_byte_is_changed() -> None:
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    request = csr(ME, san=[x509.DNSName(ME)], extensions=(constraints,))
    for at, byte in enumerate(request):
        for value in {0, byte ^ 1, byte ^ 0x20, byte ^ 0x80, 0xA3} - {byte}:
            facts = read_csr(request[:at] + bytes([value]) + request[at + 1 :])
            assert facts.faults


@pytest.mark.parametrize("names", [b"\x30\x02\xa3\x00", b"\x30\x02\xa5\x00", b"\x05\x00", b""])
def test_alternative_names_that_nobody_can_read_are_denied(names: bytes) -> None:
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), names)
    assert "not a readable" in reasons(Office(), csr(ME, extensions=(extension,)), ByOperator(ME))


@given(st.binary(max_size=200))
def test_reading_rubbish_never_raises(rubbish: bytes) -> None:
    assert read_csr(rubbish).faults
