"""PEM files as facts: real files, real certificates, every way in which they go wrong."""

from __future__ import annotations

import os
import ssl
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovn_ipsec.model.facts import NodeFact, PkiFact, TunnelFact
from ovn_ipsec.sources.certificates import (
    CHECK_S,
    SETTLE_S,
    SETTLING_CHECK_S,
    CertificateFiles,
    CredentialPaths,
)
from ovn_ipsec.sources.files import MAX_FILE_BYTES
from tests.unit.odd_certificates import ODD_CERTIFICATES
from tools.lab.pki import Authority, KeyType, Pair, key_pem, self_signed

EC = KeyType.P256


class Files:
    """A node's three files."""

    def __init__(self, directory: Path) -> None:
        self.certificate = directory / "cert.pem"
        self.key = directory / "key.pem"
        self.ca = directory / "ca.pem"
        self.authority = Authority.create(kind=EC)
        self.ca.write_bytes(self.authority.pem)
        self.pair = self.issue()
        self.paths = CredentialPaths(str(self.certificate), str(self.key), str(self.ca))
        self.source = CertificateFiles()

    def issue(self, authority: Authority | None = None) -> Pair:
        pair = (authority or self.authority).issue("left", kind=EC)
        pair.write(self.certificate, self.key)
        return pair

    def snapshot(self, now: float = 0.0) -> PkiFact:
        return self.source.snapshot(self.paths, now)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def seen(pki: PkiFact) -> str | None:
    return pki.certificate.fingerprint if pki.certificate else None


def test_good_files_are_read_whole(files: Files) -> None:
    pki = files.snapshot()
    fact, key, ca = pki.certificate, pki.private_key, pki.ca_cert
    assert fact and key and ca
    assert (fact.problem, key.problem, ca.problem, pki.issued_by_ca) == (None, None, None, True)
    assert (fact.common_name, fact.dns_names, fact.subject) == (
        "left",
        ("left",),
        "CN=left,O=ovn-ipsec lab",
    )
    assert (fact.fingerprint, fact.pem.encode()) == (files.pair.fingerprint, files.pair.pem)
    assert fact.public_key_hash == key.public_key_hash
    assert (fact.is_ca, ca.is_ca, fact.key_type) == (False, True, "ec")
    assert key.pem.reveal().encode() == key_pem(files.pair.key)
    assert "PRIVATE" not in repr(pki)
    assert files.source.next_check_s == CHECK_S


def test_new_content_at_the_same_path_is_noticed(files: Files) -> None:
    files.snapshot()
    renewed = files.issue()
    assert seen(files.snapshot(1)) == renewed.fingerprint


def test_content_replaced_by_rename_within_a_clock_tick_is_noticed(files: Files) -> None:
    before = files.certificate.stat()
    files.snapshot()
    other = files.authority.issue("left", key=files.pair.key)
    new = files.certificate.with_suffix(".new")
    new.write_bytes(other.pem)
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.rename(files.certificate)
    assert seen(files.snapshot(1)) == other.fingerprint


def test_unchanged_files_are_not_parsed_again(files: Files) -> None:
    first, second = files.snapshot(), files.snapshot(5)
    assert first.certificate is second.certificate
    assert first.private_key is second.private_key


def test_pair_written_one_after_the_other_is_given_as_it_was_until_both_are_there(
    files: Files,
) -> None:
    old = files.pair.fingerprint
    files.snapshot(0)
    renewed = files.authority.issue("left", kind=EC)
    files.key.write_bytes(key_pem(renewed.key))
    assert seen(files.snapshot(100)) == old
    assert files.source.next_check_s == SETTLING_CHECK_S
    pki = files.snapshot(100 + SETTLE_S - 0.1)
    assert pki.certificate and pki.private_key
    assert pki.certificate.public_key_hash == pki.private_key.public_key_hash
    files.certificate.write_bytes(renewed.pem)
    assert seen(files.snapshot(109)) == renewed.fingerprint
    assert files.source.next_check_s == CHECK_S


def test_mismatch_that_stays_is_reported_after_the_wait(files: Files) -> None:
    files.snapshot(0)
    files.key.write_bytes(key_pem(files.authority.pair.key))
    files.snapshot(100)
    pki = files.snapshot(100 + SETTLE_S)
    assert pki.certificate and pki.private_key
    assert pki.certificate.public_key_hash != pki.private_key.public_key_hash


def test_new_ca_and_certificate_written_one_after_the_other_settle_too(files: Files) -> None:
    files.snapshot(0)
    other = Authority.create("other", kind=EC)
    renewed = files.issue(other)
    assert files.snapshot(1).issued_by_ca is True
    files.ca.write_bytes(other.pem)
    pki = files.snapshot(2)
    assert (seen(pki), pki.issued_by_ca) == (renewed.fingerprint, True)


def test_signature_of_any_ca_of_a_bundle_counts_and_a_namesake_does_not(files: Files) -> None:
    namesake = Authority.create(kind=EC)
    files.ca.write_bytes(namesake.pem + files.authority.pem)
    pki = files.snapshot()
    assert pki.issued_by_ca is True
    assert pki.ca_cert and len(pki.ca_cert.chain) == 2
    files.ca.write_bytes(namesake.pem)
    assert CertificateFiles().snapshot(files.paths, 0).issued_by_ca is False


def encrypted(pair: Pair) -> bytes:
    return pair.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"word"),
    )


BAD_TEXT = {
    "empty": (b"", "is empty"),
    "blank": (b"\n\n", "is empty"),
    "binary": (bytes(range(256)) * 20, "holds no PEM"),
    "truncated": (self_signed("x", kind=EC).pem[:200], "holds no readable PEM"),
    "huge": (b"-" * (MAX_FILE_BYTES + 1), "a PEM file is under"),
}


@pytest.mark.parametrize(("content", "reason"), BAD_TEXT.values(), ids=BAD_TEXT)
def test_bad_content_is_a_problem_that_names_the_file(
    files: Files, content: bytes, reason: str
) -> None:
    files.snapshot()
    for path in (files.certificate, files.key, files.ca):
        path.write_bytes(content)
    pki = files.snapshot(1)
    for fact, path in (
        (pki.certificate, files.certificate),
        (pki.private_key, files.key),
        (pki.ca_cert, files.ca),
    ):
        assert fact and fact.problem
        assert reason in fact.problem and repr(str(path)) in fact.problem


@pytest.mark.parametrize("der", ODD_CERTIFICATES.values(), ids=ODD_CERTIFICATES)
def test_certificate_that_openssl_reads_and_we_cannot_is_a_problem_of_its_file(
    files: Files, der: bytes
) -> None:
    files.certificate.write_text(ssl.DER_cert_to_PEM_cert(der))
    pki = files.snapshot()
    assert pki.certificate and "holds no readable PEM" in (pki.certificate.problem or "")


def test_key_that_cannot_be_used_is_told_without_its_content(files: Files) -> None:
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - to be refused
    other = ed25519.Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    pkcs8 = serialization.PrivateFormat.PKCS8
    plain = serialization.NoEncryption()
    for content, reason in (
        (encrypted(files.pair), "is encrypted with a passphrase"),
        (files.pair.pem, "holds no readable PEM private key"),
        (weak.private_bytes(pem, pkcs8, plain), "RSA key of 1024 bits"),
        (other.private_bytes(pem, pkcs8, plain), "libreswan cannot use"),
        (key_pem(files.pair.key)[:120], "holds no readable PEM private key"),
    ):
        files.key.write_bytes(content)
        key = files.snapshot().private_key
        assert key and key.problem and reason in key.problem
        body = [line for line in content.decode().splitlines() if "-----" not in line]
        assert not any(line in repr(key) for line in body)


def test_missing_file_is_told_at_once_and_read_when_it_is_back(files: Files) -> None:
    files.snapshot()
    files.certificate.rename(files.certificate.with_suffix(".away"))
    pki = files.snapshot(1)
    assert pki.certificate and pki.certificate.problem
    assert "No such file" in pki.certificate.problem
    files.certificate.with_suffix(".away").rename(files.certificate)
    assert seen(files.snapshot(2)) == files.pair.fingerprint


def test_things_that_are_no_files_never_block(tmp_path: Path) -> None:
    fifo, socket_like = tmp_path / "fifo", "/dev/zero"
    os.mkfifo(fifo)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    paths = [str(fifo), socket_like, str(tmp_path), str(loop), "relative.pem", "/a\0b", "/\udcff"]
    paths += ["/" + "x" * 5000, ""]
    source = CertificateFiles()
    begin = time.monotonic()
    pki = source.snapshot(CredentialPaths(remote=frozenset(paths)), 0)
    assert time.monotonic() - begin < 1
    assert len(pki.remote_certificates) == len(paths)
    assert all(fact.problem for fact in pki.remote_certificates.values())


def test_sparse_file_of_100_megabytes_is_not_read(files: Files) -> None:
    with files.certificate.open("r+b") as file:
        file.truncate(100 << 20)
    fact = files.snapshot().certificate
    assert fact and fact.problem and "bytes" in fact.problem


def test_paths_come_from_the_columns_of_the_original() -> None:
    node = NodeFact({"certificate": "/c", "private_key": "/k", "ca_cert": ""})
    tunnels = [
        TunnelFact("a", "geneve", {"remote_cert": "/r"}),
        TunnelFact("b", "geneve", {"remote_name": "b"}),
    ]
    assert CredentialPaths.from_ovsdb(node, tunnels) == CredentialPaths(
        "/c", "/k", None, frozenset({"/r"})
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(max_size=400), kind=st.sampled_from(["CERTIFICATE", "PRIVATE KEY"]))
def test_no_content_whatever_raises(tmp_path: Path, content: bytes, kind: str) -> None:
    path = tmp_path / "any.pem"
    for text in (content, f"-----BEGIN {kind}-----\n".encode() + content):
        path.write_bytes(text)
        paths = CredentialPaths(str(path), str(path), str(path), frozenset({str(path)}))
        pki = CertificateFiles().snapshot(paths, 0)
        assert pki.certificate and pki.certificate.problem


@settings(deadline=None, max_examples=60)
@given(name=st.text(min_size=1, max_size=64).filter(lambda text: "\0" not in text))
def test_any_subject_is_copied_as_it_is(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    try:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        pair = CA.issue("left", kind=EC, subject=subject)
    except (ValueError, UnicodeEncodeError):
        return  # not a subject that a certificate can have
    path = tmp_path_factory.mktemp("any") / "cert.pem"
    path.write_bytes(pair.pem)
    fact = CertificateFiles().snapshot(CredentialPaths(str(path)), 0).certificate
    assert fact and fact.problem is None and fact.common_name == name


CA = Authority.create(kind=EC)
