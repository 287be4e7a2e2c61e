"""What NSS, which checks certificates for pluto, makes of those that our authority builds."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca import authority
from ca.authority import Issuer
from ca.csr import KeyKind

pytestmark = pytest.mark.contract

NOW = datetime.now(UTC).replace(microsecond=0)
VALIDITY = (NOW - timedelta(hours=1), NOW + timedelta(days=1))


@pytest.fixture(scope="module", params=[KeyKind.P256, KeyKind.P384, KeyKind.RSA_3072])
def issuer(request: pytest.FixtureRequest) -> Issuer:
    key = authority.make_key(request.param)
    subject = authority.root_subject("ovn-ipsec", "the root")
    return Issuer(authority.build_root(subject, key, VALIDITY, "01"), key)


def _verified(directory: Path, issuer: Issuer, leaf: x509.Certificate, usage: str) -> str:
    database = f"sql:{directory}"

    def certutil(*argv: str) -> str:
        command = ["certutil", argv[0], "-d", database, *argv[1:]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout + done.stderr

    certutil("-N", "--empty-password")
    for name, trust, certificate in (("root", "CT,,", issuer.certificate), ("leaf", ",,", leaf)):
        file = directory / f"{name}.der"
        file.write_bytes(certificate.public_bytes(Encoding.DER))
        certutil("-A", "-n", name, "-t", trust, "-i", str(file))
    return certutil("-V", "-n", "leaf", "-u", usage)


@pytest.mark.parametrize("usage", ["V", "C"], ids=["server", "client"])
def test_leaf_of_our_template_is_valid_at_both_ends_of_a_connection(
    tmp_path: Path, issuer: Issuer, usage: str
) -> None:
    key = authority.make_key(KeyKind.P256).public_key()
    leaf = authority.build_leaf("node-1", key, issuer, "ovn-ipsec", VALIDITY, "02")
    assert "certificate is valid" in _verified(tmp_path, issuer, leaf, usage)


def test_root_vouches_for_no_other_organization(tmp_path: Path, issuer: Issuer) -> None:
    key = authority.make_key(KeyKind.P256).public_key()
    leaf = authority.build_leaf("node-1", key, issuer, "another", VALIDITY, "02")
    assert "certificate is invalid" in _verified(tmp_path, issuer, leaf, "V")
