"""Programs that we did not write accept what the authority makes, and refuse what it revoked."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca import office
from ca.authority import DENIED_NAMES_OID
from ca.csr import KeyKind
from ca.errors import StoreError
from ca.lifetime import renewal_moment, validity
from ca.requests import ByCertificate, ByOperator
from ca.rollover import Step
from tests.unit.ca.people import (
    SETTINGS,
    START,
    Key,
    Office,
    csr,
    key,
    public_key_der,
    rsa_key,
    serial_of,
)

needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not here")
AT = str(int(START.timestamp()) + 1)


def openssl(*words: str | Path) -> tuple[bool, str]:
    result = subprocess.run(["openssl", *words], capture_output=True, text=True, timeout=30)
    return result.returncode == 0, result.stdout + result.stderr


def pem_file(path: Path, *ders: bytes) -> Path:
    certificates = map(x509.load_der_x509_certificate, ders)
    path.write_bytes(b"".join(item.public_bytes(Encoding.PEM) for item in certificates))
    return path


def verify(tmp_path: Path, leaf: bytes, roots: tuple[bytes, ...], *more: str | Path) -> str:
    """Empty when openssl accepts the leaf."""
    trusted = pem_file(tmp_path / "roots.pem", *roots)
    subject = pem_file(tmp_path / "leaf.pem", leaf)
    words = ["verify", "-x509_strict", "-attime", AT, "-CAfile", trusted, *more, subject]
    accepted, text = openssl(*words)
    return "" if accepted else text


@needs_openssl
@pytest.mark.parametrize("kind", [KeyKind.P256, KeyKind.P384, KeyKind.RSA_3072])
def test_openssl_accepts_root_and_leaf_for_every_use(tmp_path: Path, kind: KeyKind) -> None:
    world = Office(replace(SETTINGS, key_kind=kind))
    leaf = world.desk.sign(csr("node.1"), ByOperator("node.1"))
    for purpose in ("sslclient", "sslserver"):
        assert not verify(tmp_path, leaf, world.desk.bundle(), "-purpose", purpose)
    server = world.desk.server_certificate(public_key_der("s"), ("ca.example", "10.0.0.1"))[0]
    for name in (("-verify_hostname", "ca.example"), ("-verify_ip", "10.0.0.1")):
        assert not verify(tmp_path, server, world.desk.bundle(), "-purpose", "sslserver", *name)
    assert verify(tmp_path, server, world.desk.bundle(), "-purpose", "sslclient")


@needs_openssl
def test_original_monitor_finds_the_name(tmp_path: Path) -> None:
    leaf = Office().desk.sign(csr("node-1"), ByOperator("node-1"))
    path = pem_file(tmp_path / "leaf.pem", leaf)
    _, text = openssl("x509", "-noout", "-subject", "-nameopt", "RFC2253", "-in", path)
    found = re.search(r"CN=(.+?),", text)
    assert found is not None and found.group(1) == "node-1"


@pytest.mark.parametrize("own", [key("n"), rsa_key(3072)], ids=["P-256", "RSA"])
def test_leaf_says_what_the_template_says(own: Key) -> None:
    world = Office()
    leaf = x509.load_der_x509_certificate(world.desk.sign(csr("n", own=own), ByOperator("n")))
    root = x509.load_der_x509_certificate(world.desk.bundle()[0])
    values = {item.value.__class__: item for item in leaf.extensions}
    constraints = values[x509.BasicConstraints]
    assert constraints.critical and constraints.value == x509.BasicConstraints(False, None)
    key_usage = values[x509.KeyUsage]
    assert key_usage.critical and key_usage.value.digital_signature
    # NSS takes an RSA certificate for a server's only with it.
    assert key_usage.value.key_encipherment == (own is rsa_key(3072))
    names = values[x509.SubjectAlternativeName].value
    assert names == x509.SubjectAlternativeName([x509.DNSName("n")])
    usage = [oid.dotted_string for oid in values[x509.ExtendedKeyUsage].value]
    assert usage == ["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2", "1.3.6.1.5.5.7.3.17"]
    assert len(leaf.extensions) == 6
    root_constraints = root.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert root_constraints == x509.BasicConstraints(True, 0)


@needs_openssl
def test_during_a_rollover_old_and_new_leaves_verify_with_the_bundle(tmp_path: Path) -> None:
    world = Office(replace(SETTINGS, settle_s=0))
    old_leaf = world.desk.sign(csr("a"), ByOperator("a"))
    old_root = world.desk.bundle()[0]
    world.desk.take_step(Step.START)
    world.desk.take_step(Step.SWITCH, force=True)
    new_leaf = world.desk.sign(csr("a", own=key("a2")), ByCertificate(old_leaf))
    for leaf in (old_leaf, new_leaf):
        for bundle in (world.desk.bundle(), tuple(reversed(world.desk.bundle()))):
            assert not verify(tmp_path, leaf, bundle)
    # Who knows one root only gets to the other by a link.
    new_by_old, old_by_new = world.desk.cross()
    link = pem_file(tmp_path / "link.pem", new_by_old)
    assert "error" in verify(tmp_path, new_leaf, (old_root,))
    assert not verify(tmp_path, new_leaf, (old_root,), "-untrusted", link)
    back = pem_file(tmp_path / "back.pem", old_by_new)
    new_root = world.desk.bundle()[0]
    assert not verify(tmp_path, old_leaf, (new_root,), "-untrusted", back)


@needs_openssl
def test_crl_stops_the_revoked_certificate_and_names_its_node(tmp_path: Path) -> None:
    world = Office()
    leaves = {name: world.desk.sign(csr(name), ByOperator(name)) for name in ("Node-A", "b")}
    office.revoke_node(world.desk, "node-a")
    crl = x509.load_der_x509_crl(world.desk.crls()[0])
    (tmp_path / "crl.pem").write_bytes(crl.public_bytes(Encoding.PEM))
    check = ("-crl_check", "-CRLfile", tmp_path / "crl.pem")
    assert "revoked" in verify(tmp_path, leaves["Node-A"], world.desk.bundle(), *check)
    assert not verify(tmp_path, leaves["b"], world.desk.bundle(), *check)
    denied = crl.extensions.get_extension_for_oid(DENIED_NAMES_OID)
    assert isinstance(denied.value, x509.UnrecognizedExtension)
    assert denied.value.value == b"\x0c\x06node-a" and not denied.critical


def test_during_a_rollover_each_root_signs_a_crl_of_all_that_is_revoked() -> None:
    world = Office(replace(SETTINGS, settle_s=0))
    serial = int(serial_of(world.desk.sign(csr("a"), ByOperator("a"))), 16)
    world.desk.take_step(Step.START)
    world.desk.take_step(Step.SWITCH, force=True)
    office.revoke_node(world.desk, "a")
    for root, der in zip(world.desk.bundle(), world.desk.crls(), strict=True):
        crl = x509.load_der_x509_crl(der)
        public_key = x509.load_der_x509_certificate(root).public_key()
        assert isinstance(public_key, ec.EllipticCurvePublicKey)
        assert crl.is_signature_valid(public_key)
        assert crl.get_revoked_certificate_by_serial_number(serial)


def test_crl_is_renewed_by_age_with_a_higher_number() -> None:
    world = Office()
    first = x509.load_der_x509_crl(world.desk.crls()[0])
    world.clock.forward(days=3)
    assert world.desk.crls()[0] == first.public_bytes(Encoding.DER)
    world.clock.forward(days=1)
    second = x509.load_der_x509_crl(world.desk.crls()[0])
    numbers = [c.extensions.get_extension_for_class(x509.CRLNumber).value for c in (first, second)]
    assert numbers[0].crl_number < numbers[1].crl_number
    assert second.next_update_utc is not None and second.next_update_utc > world.clock()


def test_crl_of_a_clock_that_was_ahead_is_made_anew_when_the_clock_is_right() -> None:
    world = Office()
    world.clock.forward(days=300)
    world.open()
    world.clock.forward(days=-300)
    assert x509.load_der_x509_crl(world.desk.crls()[0]).last_update_utc <= world.clock()


def test_root_that_is_not_valid_yet_signs_nothing_and_the_error_names_the_clock() -> None:
    world = Office()
    world.clock.forward(hours=-1)
    with pytest.raises(StoreError, match="is valid only from .* clock"):
        world.desk.sign(csr("a"), ByOperator("a"))
    with pytest.raises(StoreError, match="clock"):
        world.desk.server_certificate(public_key_der("server"), ("ca.example",))


@pytest.mark.parametrize(
    ("life", "earliest", "latest"),
    [
        (timedelta(days=5 * 365), timedelta(days=5 * 365 * 0.85), timedelta(days=5 * 365 * 0.9)),
        (timedelta(seconds=60), timedelta(seconds=34), timedelta(seconds=38)),
    ],
)
def test_renewal_is_spread_and_comes_after_the_certificate_is_made(
    life: timedelta, earliest: timedelta, latest: timedelta
) -> None:
    begin, end = validity(START, life)
    assert end - START == life
    slack = timedelta(seconds=1)
    for jitter, wanted in ((1.0, earliest), (0.0, latest)):
        assert abs(renewal_moment(begin, end, jitter) - START - wanted) <= slack + life * 0.001
