"""What is verified before an identity is used, and how it gets on disk, whatever happens."""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ca.requests import bundle_digest as authority_digest
from ovn_ipsec.errors import EnrolmentError
from ovn_ipsec.identity import certificates as certs
from ovn_ipsec.identity.certificates import Identity, check, make_key, make_request
from ovn_ipsec.identity.disk import Disk
from ovn_ipsec.identity.drop import DropDirectory
from ovn_ipsec.identity.generations import BUNDLE, CERTIFICATE, KEY, Generations
from ovn_ipsec.identity.model import KeyKind
from ovn_ipsec.identity.token import parse_token
from ovn_ipsec.model.conns import Secret
from tests.fake_desk import FakeDesk
from tests.unit.odd_certificates import ODD_CERTIFICATES, with_odd_key
from tools.lab.pki import Authority, KeyType, Pair, common_name, key_pem

CA = Authority.create(kind=KeyType.P256)
NOW = datetime.now(UTC)


def identity_of(pair: Pair, *roots: Authority) -> Identity:
    bundle = tuple(root.pair.certificate for root in roots or (CA,))
    return Identity(Secret(key_pem(pair.key).decode()), pair.certificate, bundle)


def issue(name: str = "node", authority: Authority = CA, **more: Any) -> Pair:
    return authority.issue(name, kind=KeyType.P256, **more)


def test_identity_whose_parts_belong_together_is_sound() -> None:
    check(identity_of(issue()), "node", NOW)
    check(identity_of(issue("Node")), "NODE", NOW)


STRANGER = Authority.create(kind=KeyType.P256)
WRONG: dict[str, tuple[Identity, str]] = {
    "another name": (identity_of(issue("other")), "common name is 'other'"),
    "another DNS name": (
        identity_of(issue("other", subject=common_name("node"))),
        "DNS names are ['other']",
    ),
    "no DNS name": (identity_of(issue(dns_name=False)), "DNS names are []"),
    "another key": (
        identity_of(Pair(issue().certificate, issue().key)),
        "it is for another key",
    ),
    "another CA of the same name": (identity_of(issue(authority=STRANGER)), "none of the trusted"),
    "no CA": (Identity(identity_of(issue()).key_pem, issue().certificate, ()), "none of the"),
    "a node for a CA": (
        identity_of(issue(authority=Authority(issue("lab", subject=CA.pair.certificate.subject)))),
        "none of the trusted",
    ),
    "expired": (identity_of(issue(starts_in_s=-86400, lasts_s=3600)), "it ended"),
    "from tomorrow on": (identity_of(issue(starts_in_s=86400)), "check this node's clock"),
}


@pytest.mark.parametrize(("identity", "reason"), WRONG.values(), ids=WRONG)
def test_identity_with_a_flaw_is_never_installed(identity: Identity, reason: str) -> None:
    with pytest.raises(EnrolmentError) as refused:
        check(identity, "node", NOW)
    assert reason in str(refused.value)


def test_root_that_has_ended_vouches_for_nobody() -> None:
    ended = Authority.create(kind=KeyType.P256, starts_in_s=-86400, lasts_s=3600)
    with pytest.raises(EnrolmentError, match="its root ended"):
        check(identity_of(issue(authority=ended), ended), "node", NOW)


def test_ca_certificate_is_no_identity() -> None:
    ca = identity_of(CA.pair)
    with pytest.raises(EnrolmentError, match="CA's own"):
        check(ca, "ovn-ipsec lab CA", NOW)


@pytest.mark.parametrize("kind", [KeyKind.P256, KeyKind.P384, KeyKind.RSA_3072])
def test_request_names_the_chassis_alone_and_is_signed_by_its_key(kind: KeyKind) -> None:
    key = make_key(kind)
    csr = x509.load_der_x509_csr(make_request(key, "node"))
    names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert csr.is_signature_valid and len(csr.extensions) == 1
    assert csr.subject.rfc4514_string() == "CN=node"
    assert list(names) == [x509.DNSName("node")]
    assert "PRIVATE" not in repr(key)


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a b", "*", "x" * 65, "ä", "a\nb", "-a", "."])
def test_chassis_id_that_is_no_name_is_a_named_error(name: str) -> None:
    with pytest.raises(EnrolmentError, match="system-id"):
        make_request(make_key(KeyKind.P256), name)


def test_node_and_authority_name_a_bundle_alike() -> None:
    desk = FakeDesk()
    desk.roll_over()
    roots = tuple(x509.load_der_x509_certificate(der) for der in desk.bundle())
    assert certs.bundle_digest(roots) == authority_digest(desk.bundle())
    assert certs.bundle_digest(roots[::-1]) == authority_digest(desk.bundle())


def test_token_is_read_and_a_damaged_one_shows_nothing_of_itself() -> None:
    desk = FakeDesk()
    text = desk.token_text("rack-1.node-7")
    token = parse_token(text + "\n")
    assert token.chassis_id == "rack-1.node-7"
    assert desk.tokens[token.secret.reveal()] == "rack-1.node-7"
    assert token.fingerprint == sha256(desk.bundle()[0]).hexdigest()
    assert token.secret.reveal() not in repr(token)
    for bad in ("", "word", text[:-5], "a.b", "..", text.replace("rack", "\x07rack")):
        with pytest.raises(EnrolmentError) as refused:
            parse_token(bad)
        assert token.secret.reveal() not in str(refused.value)


class PowerCut(BaseException):
    """Nothing of the process goes on after it."""


class FaultyDisk(Disk):
    """Fails at the operation of this number: before it, in the middle, or after it."""

    def __init__(self, number: int, how: str) -> None:
        self.number = number
        self.how = how
        self.done = 0

    def _fault(
        self, operation: Callable[[], None], half: Callable[[], None] | None = None
    ) -> None:
        self.done += 1
        if self.done != self.number:
            operation()
            return
        if self.how == "no space":
            raise OSError(28, "No space left on device")
        if self.how == "half" and half is not None:
            half()
        elif self.how == "after":
            operation()
        raise PowerCut

    def make_directory(self, path: Path) -> None:
        self._fault(lambda: Disk.make_directory(self, path))

    def write(self, path: Path, data: bytes) -> None:
        self._fault(
            lambda: Disk.write(self, path, data),
            lambda: Disk.write(self, path, data[: len(data) // 2]),
        )

    def sync(self, directory: Path) -> None:
        self._fault(lambda: Disk.sync(self, directory))

    def rename(self, old: Path, new: Path) -> None:
        self._fault(lambda: Disk.rename(self, old, new))

    def replace(self, old: Path, new: Path) -> None:
        self._fault(lambda: Disk.replace(self, old, new))

    def remove(self, path: Path) -> None:
        self._fault(lambda: Disk.remove(self, path))

    def remove_directory(self, path: Path) -> None:
        self._fault(lambda: Disk.remove_directory(self, path))


def opened(directory: Path, disk: Disk | None = None) -> Generations:
    return Generations(directory, disk)


def everything(directory: Path, disk: Disk) -> None:
    """One of each change: a request kept and dropped, two installed, the first pruned."""
    with_faults = Generations(directory, disk)
    try:
        with_faults.keep_pending(_KEY, _CSR)
        first = with_faults.install(identity_of(_FIRST))
        with_faults.drop_pending()
        with_faults.install(identity_of(_SECOND))
        with_faults.prune(first)
        with_faults.write_state("{}")
    finally:
        with_faults.close()


_FIRST, _SECOND = issue(), issue()
_KEY = make_key(KeyKind.P256)
_CSR = make_request(_KEY, "node")


def _operations(tmp_path: Path) -> int:
    disk = FaultyDisk(0, "never")
    everything(tmp_path / "count", disk)
    return disk.done


@pytest.mark.parametrize("how", ["before", "half", "after", "no space"])
def test_power_cut_at_any_file_operation_leaves_whole_identities_and_a_directory_that_works(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # a process ends here, not the machine
    total = _operations(tmp_path)
    assert total > 20
    for number in range(1, total + 1):
        directory = tmp_path / f"cut-{number}"
        with pytest.raises((PowerCut, EnrolmentError)):
            everything(directory, FaultyDisk(number, how))
        again = opened(directory)
        sound, damaged = again.survey()
        assert damaged == (), number
        pending = again.pending()
        assert pending is None or pending.name == "node"
        before = {each.number for each in sound}
        fresh = again.install(identity_of(_SECOND))
        assert fresh not in before and fresh > max(before, default=0)
        again.keep_pending(_KEY, _CSR)
        assert again.pending() is not None
        left = {path.name for path in directory.iterdir() if path.name.startswith(".")}
        assert left == set(), number
        again.close()


def test_files_are_for_their_owner_alone_and_stay_as_they_are(tmp_path: Path) -> None:
    generations = opened(tmp_path / "identity")
    number = generations.install(identity_of(_FIRST))
    paths = generations.paths(number)
    assert {Path(path).name for path in paths.values()} == {KEY, CERTIFICATE, BUNDLE}
    modes = {stat.S_IMODE(Path(path).stat().st_mode) for path in paths.values()}
    assert modes == {0o600}
    assert stat.S_IMODE((tmp_path / "identity").stat().st_mode) == 0o700
    content = Path(paths["certificate"]).read_bytes()
    assert generations.install(identity_of(_SECOND)) == number + 1
    assert Path(paths["certificate"]).read_bytes() == content


def test_damaged_generation_is_set_aside_and_its_number_not_given_again(tmp_path: Path) -> None:
    generations = opened(tmp_path)
    generations.install(identity_of(_FIRST))
    second = generations.install(identity_of(_SECOND))
    Path(generations.paths(second)["certificate"]).write_bytes(_FIRST.pem)
    generations.close()
    generations = opened(tmp_path)
    sound, damaged = generations.survey()
    assert ([each.number for each in sound], damaged) == ([1], (2,))
    assert generations.install(identity_of(_SECOND)) == 3


ODD_KEYS = with_odd_key(_SECOND.certificate.public_bytes(serialization.Encoding.DER))


def as_pem(der: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(der).encode()


@pytest.mark.parametrize("der", ODD_KEYS.values(), ids=ODD_KEYS)
def test_certificate_whose_key_cannot_be_read_is_damaged_and_the_older_identity_stays(
    tmp_path: Path, der: bytes
) -> None:
    generations = opened(tmp_path)
    generations.install(identity_of(_FIRST))
    second = generations.install(identity_of(_SECOND))
    Path(generations.paths(second)["certificate"]).write_bytes(as_pem(der))
    sound, damaged = generations.survey()
    assert ([each.number for each in sound], damaged) == ([1], (2,))
    with pytest.raises(EnrolmentError, match="key"):
        check(replace(identity_of(_SECOND), certificate=certs.load_certificate(der)), "node", NOW)


def test_certificate_whose_name_cannot_be_read_is_a_named_error() -> None:
    der = ODD_CERTIFICATES["a name that is no UTF-8"]
    with pytest.raises(EnrolmentError, match="no readable certificate"):
        certs.load_certificate(der)


@pytest.mark.parametrize("der", ODD_KEYS.values(), ids=ODD_KEYS)
def test_certificate_in_the_directory_whose_key_cannot_be_read_is_a_named_error(
    tmp_path: Path, der: bytes
) -> None:
    (tmp_path / "node.crt").write_bytes(as_pem(der))
    with pytest.raises(EnrolmentError, match="key"):
        DropDirectory(tmp_path).obtain(_CSR, "node")


def test_waiting_request_that_is_damaged_or_for_another_key_is_of_no_use(tmp_path: Path) -> None:
    generations = opened(tmp_path)
    for csr in (*with_odd_key(_CSR).values(), make_request(make_key(KeyKind.P256), "node")):
        generations.keep_pending(_KEY, csr)
        assert generations.pending() is None
    generations.keep_pending(_KEY, _CSR)
    assert generations.pending() is not None


def test_second_process_is_turned_away(tmp_path: Path) -> None:
    first = opened(tmp_path)
    with pytest.raises(EnrolmentError, match="another enrolment holds it"):
        opened(tmp_path)
    first.close()
    opened(tmp_path).close()


def test_names_on_a_deny_list_are_read_however_long_and_damaged_lists_name_nobody() -> None:
    assert certs.denied_names(CA.crl(denied=["node-1"]) + CA.crl()) == {"node-1"}
    many = [f"node-{number}" for number in range(100)]
    pem = CA.crl(denied=many)
    assert certs.denied_names(pem) == set(many)
    lines = pem.splitlines(keepends=True)
    assert certs.denied_names(lines[0] + b"".join(lines[5:])) == set()
    assert certs.denied_names(b"") == set()


def test_life_is_told_as_it_is(tmp_path: Path) -> None:
    generations = opened(tmp_path)
    generations.install(identity_of(issue(starts_in_s=-60, lasts_s=3600)))
    ((known,), _) = generations.survey()
    assert known.not_after - known.not_before == timedelta(hours=1)
    assert (known.name, known.number) == ("node", 1)
    assert known.issuer == CA.pair.fingerprint and 0 <= known.jitter < 1
