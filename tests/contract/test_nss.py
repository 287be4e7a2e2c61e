"""Certificates replaced in a real NSS database under a real pluto."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from ovn_ipsec.drivers import command, nss_database
from ovn_ipsec.drivers import nss as nss_module
from ovn_ipsec.drivers.command import Completed
from ovn_ipsec.drivers.nss import Nss
from ovn_ipsec.model.conns import Credential, CredentialKind, InstalledCredential, Secret
from ovn_ipsec.model.steps import InstallCredential, RemoveCredential, StartIke
from tests.contract.two_plutos import Pluto, TwoPlutos
from tools.lab.pki import Authority, KeyType, Pair, key_pem, self_signed

pytestmark = pytest.mark.contract

NODE = "ovs_certkey_left"
CA = "ovs_cert_cacert"
KINDS = [KeyType.RSA_2048, KeyType.P256, KeyType.P384]


def ca(*authorities: Authority) -> list[InstallCredential]:
    return [
        InstallCredential(Credential(CA, CredentialKind.CA, a.pem.decode(), a.pair.fingerprint))
        for a in authorities
    ]


def node(name: str, pair: Pair) -> InstallCredential:
    key = Secret(key_pem(pair.key).decode())
    nickname = f"ovs_certkey_{name}"
    return InstallCredential(
        Credential(nickname, CredentialKind.NODE, pair.pem.decode(), pair.fingerprint, key)
    )


def peer(name: str, pair: Pair) -> InstallCredential:
    return InstallCredential(
        Credential(f"ovs_cert_{name}", CredentialKind.PEER, pair.pem.decode(), pair.fingerprint)
    )


def install(nss: Nss, *steps: InstallCredential) -> None:
    assert [outcome.error for outcome in nss.apply(steps)] == [None] * len(steps)


def entries(nss: Nss, nickname: str) -> list[InstalledCredential]:
    return [entry for entry in nss.observe() if entry.nickname == nickname]


def only(nss: Nss, nickname: str, pair: Pair) -> bool:
    """Exactly this entry, with its key, and no key besides."""
    return entries(nss, nickname) == [
        InstalledCredential(nickname, pair.fingerprint, has_key=True, trust="u,u,u")
    ]


def authby(kind: KeyType) -> dict[str, str]:
    return {} if kind is KeyType.RSA_2048 else {"authby": "ecdsa"}


@pytest.fixture
def two(tmp_path: Path) -> Iterator[TwoPlutos]:
    with TwoPlutos(tmp_path) as plutos:
        yield plutos


class World:
    """Two plutos that trust two CAs; the left one's certificate is by the first."""

    def __init__(self, two: TwoPlutos, kind: KeyType = KeyType.RSA_2048) -> None:
        self.kind = kind
        self.one, self.other = Authority.create("ca one"), Authority.create("ca two")
        self.left, self.right = two.ends
        self.first = self.one.issue("left", kind=kind)
        install(self.left.nss(), *ca(self.one, self.other), node("left", self.first))
        right = self.one.issue("right", kind=kind)
        install(self.right.nss(), *ca(self.one, self.other), node("right", right))
        two.start(**authby(kind))
        self.pid = self.left.pid

    def issuer(self) -> str:
        """By whom is the certificate with which the left end authenticates now?"""
        line = self.left.authenticate(self.right)
        found = [name for name in ("ca one", "ca two") if f"CN={name}" in line]
        assert self.left.alive(), "pluto has crashed"
        assert self.left.pid == self.pid
        return found[0] if found else "refused"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
def test_renewal_with_a_new_key_is_used_by_the_next_authentication(
    two: TwoPlutos, kind: KeyType
) -> None:
    world = World(two, kind)
    assert world.issuer() == "ca one"
    renewed = world.other.issue("left", kind=kind, starts_in_s=-60)
    nss = world.left.nss()
    install(nss, node("left", renewed))
    assert only(nss, NODE, renewed)
    assert world.issuer() == "ca two"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
def test_renewal_of_the_same_key_and_return_to_a_key_of_before(
    two: TwoPlutos, kind: KeyType
) -> None:
    world = World(two, kind)
    nss = world.left.nss()
    same_key = world.other.issue("left", key=world.first.key, starts_in_s=-120)
    install(nss, node("left", same_key))
    assert (only(nss, NODE, same_key), world.issuer()) == (True, "ca two")
    install(nss, node("left", new := world.one.issue("left", kind=kind, starts_in_s=-90)))
    assert (only(nss, NODE, new), world.issuer()) == (True, "ca one")
    back = world.other.issue("left", key=world.first.key, starts_in_s=-60)
    install(nss, node("left", back))
    assert (only(nss, NODE, back), world.issuer()) == (True, "ca two")


def test_rollback_to_an_older_certificate_is_led_over(two: TwoPlutos) -> None:
    world = World(two)
    older = world.other.issue("left", starts_in_s=-86400)
    nss = world.left.nss()
    (outcome,) = nss.apply([node("left", older)])
    assert outcome.error is not None and "begins earlier" in outcome.error
    assert world.issuer() == "refused"  # for these seconds only, and pluto lives
    (outcome,) = nss.apply([node("left", older)])
    assert outcome.error is not None and "pluto takes it in" in outcome.error
    time.sleep(nss_module.BRIDGE_S + 1)
    install(nss, node("left", older))
    assert only(nss, NODE, older)
    assert world.issuer() == "ca two"


def test_another_subject_with_the_same_common_name_takes_over(two: TwoPlutos) -> None:
    world = World(two)
    attributes = [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "OVN"),
        x509.NameAttribute(NameOID.COMMON_NAME, "left"),
    ]
    renewed = world.other.issue("left", subject=x509.Name(attributes), starts_in_s=-60)
    nss = world.left.nss()
    install(nss, node("left", renewed))
    assert only(nss, NODE, renewed)
    assert world.issuer() == "ca two"


class Crash(BaseException):
    """The agent is killed here."""


@pytest.mark.parametrize("same_key", [False, True], ids=["new-key", "same-key"])
def test_killed_between_any_two_acts_pluto_lives_and_the_next_apply_converges(
    two: TwoPlutos, monkeypatch: pytest.MonkeyPatch, same_key: bool
) -> None:
    world = World(two)
    real = command.run
    left = 0

    def killed(*args: object, **kwargs: object) -> Completed:
        nonlocal left
        left -= 1
        if left < 0:
            raise Crash
        return real(*args, **kwargs)  # type: ignore[arg-type]  # passes on what it was given

    monkeypatch.setattr(nss_database, "run", killed)
    monkeypatch.setattr(nss_module, "run", killed)
    key = world.first.key
    for acts in range(20):
        issuer = (world.other, world.one)[acts % 2]
        renewed = issuer.issue(
            "left", key=key if same_key else None, starts_in_s=-3000 + acts * 60
        )
        left = acts
        try:
            world.left.nss().apply([node("left", renewed)])
            finished = True
        except Crash:
            finished = False
        left = 1000
        assert world.issuer() != "refused"
        install(world.left.nss(), node("left", renewed))
        assert only(world.left.nss(), NODE, renewed)
        assert world.issuer() == ("ca two", "ca one")[acts % 2]
        if finished:
            break
    assert finished and acts > 4


def test_new_ca_is_trusted_at_once_although_pluto_caches_roots(two: TwoPlutos) -> None:
    world = World(two)
    third = Authority.create("ca three")
    assert world.issuer() == "ca one"  # the right end has its roots in memory now
    install(world.left.nss(), node("left", third.issue("left", starts_in_s=-60)))
    assert world.left.authenticate(world.right) == ""
    install(world.right.nss(), *ca(world.one, world.other, third))
    assert "CN=ca three" in world.left.authenticate(world.right)


def test_removed_ca_that_pluto_used_is_told_and_gone_after_its_restart(
    two: TwoPlutos, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(two)
    unused = Authority.create("ca three")
    install(world.right.nss(), *ca(world.one, world.other, unused))
    install(world.left.nss(), node("left", world.other.issue("left", starts_in_s=-60)))
    assert world.issuer() == "ca two"
    install(world.right.nss(), *ca(world.one, world.other))
    assert not caplog.records
    install(world.right.nss(), *ca(world.one))
    assert ["CN=ca two" in record.getMessage() for record in caplog.records] == [True]
    world.right.stop()
    world.right.start()
    world.right.connect(world.left)
    assert world.issuer() == "refused"


def test_new_root_of_the_same_subject_beside_the_old_one(two: TwoPlutos) -> None:
    world = World(two)
    again = Authority.create("ca two")
    for end in two.ends:
        install(end.nss(), *ca(world.one, world.other, again))
        assert len(entries(end.nss(), CA)) == 3
    install(world.left.nss(), node("left", again.issue("left", starts_in_s=-60)))
    assert world.issuer() == "ca two"
    install(world.left.nss(), node("left", world.other.issue("left", starts_in_s=-30)))
    assert world.issuer() == "ca two"


def test_self_signed_peer_renews(two: TwoPlutos) -> None:
    left, right = self_signed("left"), self_signed("right")
    install(two.left.nss(), node("left", left), peer("right", right))
    install(two.right.nss(), node("right", right), peer("left", left))
    for end in two.ends:
        end.start()
    two.left.connect(two.right, rightcert="ovs_cert_right")
    two.right.connect(two.left, rightcert="ovs_cert_left")
    assert two.left.authenticate(two.right)
    renewed = self_signed("left", starts_in_s=-60)
    install(two.left.nss(), node("left", renewed))
    assert two.left.authenticate(two.right) == "", "the other end still pins the old one"
    install(two.right.nss(), peer("left", renewed))
    assert two.left.authenticate(two.right)
    (entry,) = entries(two.right.nss(), "ovs_cert_left")
    assert (entry.fingerprint, entry.trust) == (renewed.fingerprint, "P,P,P")


def test_entry_in_use_is_not_removed_and_goes_with_its_key_later(two: TwoPlutos) -> None:
    world = World(two)
    nss = world.left.nss()
    (outcome,) = nss.apply([RemoveCredential(NODE)])
    assert outcome.error is not None and "still uses it" in outcome.error
    assert only(nss, NODE, world.first)
    world.left.whack("--name", "c", "--delete")
    assert nss.apply([RemoveCredential(NODE)])[0].error is None
    assert entries(nss, NODE) == []
    # The same key may come back: pluto must have forgotten its old handle.
    install(nss, node("left", world.first))
    world.left.connect(world.right)
    assert world.issuer() == "ca one"


@pytest.fixture
def offline(tmp_path: Path) -> Nss:
    """A database that no pluto uses."""
    return Pluto("left", "10.90.0.1", tmp_path).nss()


def certutil(directory: Path, *argv: str, stdin: bytes = b"") -> str:
    argv = ("certutil", *argv, "-d", f"sql:{directory}")
    return subprocess.run(argv, input=stdin, capture_output=True, check=True).stdout.decode()


def test_bundle_of_cas_is_held_exactly_once_each(offline: Nss, tmp_path: Path) -> None:
    a, b = Authority.create("same"), Authority.create("same")
    c, d = Authority.create("other"), Authority.create("third")
    install(offline, *ca(a))
    install(offline, *ca(b, a, c))
    install(offline, *ca(b, a, c))
    found = entries(offline, CA)
    assert sorted(e.fingerprint for e in found) == sorted(x.pair.fingerprint for x in (a, b, c))
    assert {(e.trust, e.is_root) for e in found} == {("CT,,", True)}
    install(offline, *ca(d))
    assert [e.fingerprint for e in entries(offline, CA)] == [d.pair.fingerprint]
    assert certutil(tmp_path / "left/nss", "-L", "-n", CA, "-a").count("BEGIN") == 1


def test_foreign_entries_stay_also_of_the_same_subject(offline: Nss, tmp_path: Path) -> None:
    directory = tmp_path / "left/nss"
    authority = Authority.create()
    foreign, ours = authority.issue("left"), authority.issue("left", starts_in_s=-60)
    install(offline, *ca(authority))
    certutil(directory, "-A", "-n", "host", "-t", ",,", stdin=foreign.pem)
    install(offline, node("left", ours))
    assert only(offline, NODE, ours)
    assert offline.apply([RemoveCredential(NODE)])[0].error is None
    assert [e.fingerprint for e in entries(offline, "host")] == [foreign.fingerprint]


def test_what_others_left_half_done_is_put_right(offline: Nss, tmp_path: Path) -> None:
    directory = tmp_path / "left/nss"
    authority = Authority.create()
    lost, first, wanted = (authority.issue("left", starts_in_s=s) for s in (-90, -60, -30))
    install(offline, node("left", lost))
    certutil(directory, "-D", "-n", NODE)  # its key stays behind
    assert entries(offline, NODE) == [InstalledCredential(NODE, "", has_key=True, trust="")]
    certutil(directory, "-A", "-n", NODE, "-t", ",,", stdin=first.pem)  # and one without a key
    install(offline, node("left", wanted))
    assert only(offline, NODE, wanted)


def test_key_and_password_are_in_no_argv_and_no_file(
    offline: Nss, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded, shims = tmp_path / "argv", tmp_path / "shims"
    shims.mkdir()
    for program in ("pk12util", "certutil"):
        shim = shims / program
        record = f'tr "\\0" "\\n" </proc/$$/cmdline >>{recorded}'
        shim.write_text(f'#!/bin/sh\n{record}\nexec /usr/bin/{program} "$@"\n')
        shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shims}:{os.environ['PATH']}")
    pair = Authority.create().issue("left")
    install(offline, node("left", pair))
    argv = recorded.read_text()
    assert "/proc/self/fd/" in argv and "PRIVATE" not in argv
    for word in argv.split():
        assert len(word) < 32 or word.startswith(("/", "sql:")), word
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if b"PRIVATE KEY" in path.read_bytes()]
    key_database = tmp_path / "left/nss/key4.db"
    assert stat.S_IMODE(key_database.stat().st_mode) == 0o600


def test_database_is_unchanged_and_the_error_told_when_nss_fails(
    offline: Nss, tmp_path: Path
) -> None:
    authority = Authority.create()
    first, second = authority.issue("left"), authority.issue("left", starts_in_s=-60)
    install(offline, node("left", first))
    wrong_key = Secret(key_pem(authority.pair.key).decode())
    broken = Credential(
        NODE, CredentialKind.NODE, second.pem.decode(), second.fingerprint, wrong_key
    )
    (outcome,) = offline.apply([InstallCredential(broken)])
    assert outcome.error
    assert wrong_key.reveal()[60:90] not in outcome.error
    assert only(offline, NODE, first)
    assert offline.apply([StartIke()])[0].error


def test_common_name_that_looks_like_a_spare_nickname(offline: Nss) -> None:
    pair = Authority.create().issue("left-0123abcd")
    install(offline, node("left-0123abcd", pair))
    assert only(offline, "ovs_certkey_left-0123abcd", pair)
