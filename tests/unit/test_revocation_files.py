"""CRL files as facts: who is believed, and what losing or swapping the file cannot do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ovn_ipsec.model.deny_list import DENIED_NAMES
from ovn_ipsec.model.facts import NodeFact, RevocationFact
from ovn_ipsec.sources.certificates import CRL_CHECK_S, CertificateFiles, CredentialPaths
from ovn_ipsec.sources.crl import revocation_file, signer
from ovn_ipsec.sources.pem import PemProblem, certificate_fact
from tools.lab.pki import Authority, KeyType, self_signed

EC = KeyType.P256
CA = Authority.create(kind=EC)
NAMESAKE = Authority.create(kind=EC)


class Files:
    """The bundle and the CRL file of a node."""

    def __init__(self, directory: Path) -> None:
        self.ca = directory / "ca.pem"
        self.crl = directory / "crl.pem"
        self.ca.write_bytes(CA.pem)
        self.paths = CredentialPaths(ca_cert=str(self.ca), ca_crl=str(self.crl))
        self.source = CertificateFiles()

    def read(self, content: bytes | None = None) -> RevocationFact:
        """What is known after the file got this content (None: as it is)."""
        if content is not None:
            new = self.crl.with_suffix(".new")
            new.write_bytes(content)
            new.rename(self.crl)
        return self.source.snapshot(self.paths, 0.0).revocation


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_path_comes_from_other_config_and_is_looked_at_often(files: Files) -> None:
    paths = CredentialPaths.from_ovsdb(NodeFact({"ca_crl": "/crl"}), ())
    assert paths == CredentialPaths(ca_crl="/crl")
    files.read(CA.crl())
    assert files.source.next_check_s <= CRL_CHECK_S


@pytest.mark.parametrize("der", [False, True], ids=["PEM", "DER"])
def test_signed_list_tells_names_serials_and_its_end(files: Files, der: bool) -> None:
    text = CA.crl(denied=["Node-B", "c"], serials=[7, 2**127], lasts_s=3600)
    crl = x509.load_pem_x509_crl(text)
    fact = files.read(crl.public_bytes(Encoding.DER) if der else text)
    issuer = "CN=ovn-ipsec lab CA"
    assert fact == RevocationFact(
        denied=frozenset({"node-b", "c"}),
        serials=frozenset({(issuer, 7), (issuer, 2**127)}),
        next_update=crl.next_update_utc,
    )


def test_unchanged_file_gives_the_same_fact_and_a_newer_list_another(files: Files) -> None:
    first = files.read(CA.crl(denied=["b"], number=1))
    assert files.read() is first
    assert files.read(CA.crl(denied=["c"], number=2)).denied == {"c"}
    assert files.read(CA.crl(number=3)).denied == set()


def test_long_list_of_names_is_read_whole(files: Files) -> None:
    names = [f"node-{index}" for index in range(3000)]
    assert files.read(CA.crl(denied=names)).denied == set(names)


def test_list_that_a_foreign_ca_of_the_same_name_signed_is_refused(files: Files) -> None:
    fact = files.read(NAMESAKE.crl(denied=["b"]))
    assert fact.denied == set()
    assert "no CA of" in fact.problems[0]
    files.read(CA.crl(denied=["c"]))
    assert files.read(NAMESAKE.crl(number=9)).denied == {"c"}


def test_node_whose_certificate_is_in_the_bundle_denies_nobody(files: Files) -> None:
    leaf = CA.issue("b", kind=EC)
    files.ca.write_bytes(CA.pem + leaf.pem)
    assert files.read(Authority(leaf).crl(denied=["a"])).denied == set()


def test_older_signed_list_is_refused_as_a_replay(files: Files) -> None:
    old = CA.crl(number=4)
    files.read(CA.crl(denied=["b"], number=5))
    fact = files.read(old)
    assert fact.denied == {"b"}
    assert "is older than" in fact.problems[0]
    assert files.read(CA.crl(number=6)) == RevocationFact(next_update=files.read().next_update)


def test_lists_without_number_are_ordered_by_their_date(files: Files) -> None:
    files.read(CA.crl(denied=["b"], number=None, starts_in_s=-100))
    assert files.read(CA.crl(number=None, starts_in_s=-200)).denied == {"b"}
    assert files.read(CA.crl(number=None, starts_in_s=-50)).denied == set()
    files.read(CA.crl(denied=["c"], number=1))
    assert files.read(CA.crl(number=None, starts_in_s=-1)).denied == {"c"}


LOST = {
    "empty": b"",
    "garbage": bytes(range(256)),
    "half": CA.crl(denied=["x"])[:150],
    "no CRL": CA.pem,
    "of a stranger": NAMESAKE.crl(number=9),
    "a delta": CA.crl(number=9, extensions=[(x509.DeltaCRLIndicator(1), True)]),
    "damaged names": CA.crl(
        number=9, extensions=[(x509.UnrecognizedExtension(DENIED_NAMES, b"\x0c\x05b"), False)]
    ),
    "altered": CA.crl(number=9)[:-60] + b"A" * 8 + CA.crl(number=9)[-52:],
}


@pytest.mark.parametrize("content", LOST.values(), ids=LOST)
def test_bad_content_takes_nothing_back_and_says_so(files: Files, content: bytes) -> None:
    files.read(CA.crl(denied=["b"]))
    fact = files.read(content)
    assert fact.denied == {"b"}
    assert len(fact.problems) >= 1 and repr(str(files.crl)) in fact.problems[0]


def test_file_that_is_gone_takes_nothing_back_until_a_newer_list_comes(files: Files) -> None:
    files.read(CA.crl(denied=["b"], number=1))
    files.crl.unlink()
    fact = files.read()
    assert fact.denied == {"b"}
    assert "No such file" in fact.problems[0]
    assert files.read(CA.crl(number=2)).denied == set()


def test_forgotten_setting_or_lost_bundle_takes_nothing_back(files: Files) -> None:
    files.read(CA.crl(denied=["b"]))
    unset = files.source.snapshot(CredentialPaths(ca_cert=str(files.ca)), 0.0).revocation
    assert unset.denied == {"b"}
    assert "is not set any more" in unset.problems[0]
    files.ca.unlink()
    assert files.read(CA.crl(number=2)).denied == {"b"}
    files.ca.write_bytes(NAMESAKE.pem)
    assert files.read().denied == {"b"}


def test_without_setting_there_is_nothing_to_say() -> None:
    assert CertificateFiles().snapshot(CredentialPaths(), 0.0).revocation == RevocationFact()


def test_missing_file_at_the_start_is_a_problem(files: Files) -> None:
    os.mkfifo(files.crl)
    assert "regular file" in files.read().problems[0]
    assert files.read().denied == set()


def test_list_beside_a_damaged_one_counts(files: Files) -> None:
    damaged = b"-----BEGIN X509 CRL-----\nMIIB\n-----END X509 CRL-----\n"
    fact = files.read(damaged + CA.crl(denied=["b"]))
    assert fact.denied == {"b"}
    assert "cannot be read" in fact.problems[0]


def test_roll_over_counts_the_lists_of_both_roots_and_then_of_the_new_one(files: Files) -> None:
    files.ca.write_bytes(CA.pem + NAMESAKE.pem)
    both = CA.crl(denied=["b"], number=3) + NAMESAKE.crl(denied=["b", "c"], number=4)
    fact = files.read(both)
    assert fact.denied == {"b", "c"}
    assert fact.problems == ()
    fact = files.read(NAMESAKE.crl(number=5))
    assert fact.denied == {"b"}
    assert "lacks a list by each root" in fact.problems[0]
    files.ca.write_bytes(NAMESAKE.pem)
    fact = files.read()
    assert fact == RevocationFact(next_update=fact.next_update)


def test_several_lists_of_one_root_in_the_file_mean_the_newest(files: Files) -> None:
    lists = [CA.crl(number=8), CA.crl(denied=["b"], number=9), CA.crl(number=7)]
    fact = files.read(b"".join(lists))
    assert fact.denied == {"b"}
    assert fact.problems == ()


def test_root_that_signed_itself_without_being_a_ca_may_revoke(files: Files) -> None:
    root = self_signed("root", kind=EC)
    files.ca.write_bytes(root.pem)
    assert files.read(Authority(root).crl(denied=["b"])).denied == {"b"}


_BUNDLE = certificate_fact("/ca", CA.pem)
_DER = x509.load_pem_x509_crl(CA.crl(denied=["b", "c"], serials=[1, 2])).public_bytes(Encoding.DER)


@settings(deadline=None, max_examples=300)
@example(8, b"\0", False)  # a version that does not exist
@given(st.integers(0, len(_DER) - 1), st.binary(min_size=1, max_size=6), st.booleans())
def test_damaged_list_is_a_problem_or_unproven_and_never_another_error(
    at: int, change: bytes, cut: bool
) -> None:
    data = _DER[:at] + change + (b"" if cut else _DER[at + len(change) :])
    try:
        file = revocation_file("/crl", data)
    except PemProblem:
        return
    for each in file.lists:
        assert signer(each, _BUNDLE) is None or each.denied == {"b", "c"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(max_size=300), pem=st.booleans())
def test_no_content_whatever_raises_or_denies(tmp_path: Path, content: bytes, pem: bool) -> None:
    if pem:
        content = b"-----BEGIN X509 CRL-----\n" + content + b"\n-----END X509 CRL-----\n"
    files = Files(tmp_path)
    fact = files.read(content)
    assert fact.denied == set() and fact.problems
