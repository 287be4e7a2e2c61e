"""A node follows the authority's deny-list, against a running EST server; OVSDB is played."""

from __future__ import annotations

import logging
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.authority import DENIED_NAMES_OID
from ca.requests import crls_pem
from ovn_ipsec.errors import BusyError, EnrolmentError
from ovn_ipsec.identity import est
from ovn_ipsec.identity.certificates import signed_lists
from ovn_ipsec.identity.denylist import DenyList, Source, build_deny_list
from ovn_ipsec.identity.drop import DropDirectory
from ovn_ipsec.identity.est import Credentials, EstServer, Lists
from ovn_ipsec.identity.generations import Generations
from ovn_ipsec.identity.node import build_courier
from ovn_ipsec.identity.settings import parse_enroll_arguments
from tests.est_server import HOST, est_server
from tests.fake_desk import FakeDesk
from tests.real_desk import RealDesk
from tests.unit.test_enrolment import Node as EnrollingNode
from tests.unit.test_enrolment import PlayedDatabase, join
from tools.lab.container import wait_until
from tools.lab.pki import Authority, KeyType


@dataclass
class Follower:
    """A node with an identity in files, and its deny-list."""

    desk: FakeDesk | RealDesk
    url: str
    directory: Path
    own: Credentials | None = None
    database: PlayedDatabase = field(default_factory=PlayedDatabase)

    def __post_init__(self) -> None:
        self.directory.mkdir()
        self.list = self.opened(EstServer(self.url))
        pair = self.desk.node("follower")
        own = self.trust("bundle-1.pem")
        assert own.certificate and own.private_key
        pair.write(own.certificate, own.private_key)

    def opened(self, source: Source, chance: float = 1.0) -> DenyList:
        return DenyList(
            self.directory, source, lambda: self.own, self.database, chance=lambda: chance
        )

    def trust(self, name: str) -> Credentials:
        """Take the roots that there are now, as with a new generation."""
        bundle = self.directory / name
        roots = (x509.load_der_x509_certificate(der) for der in self.desk.bundle())
        bundle.write_bytes(b"".join(_pem(root) for root in roots))
        self.own = Credentials(bundle, self.directory / "own.pem", self.directory / "own.key")
        return self.own

    @property
    def path(self) -> Path:
        return self.directory / "crl.pem"

    def denied(self) -> bytes:
        """What the file's first list says of names."""
        crl = x509.load_pem_x509_crl(self.path.read_bytes())
        try:
            value = crl.extensions.get_extension_for_oid(DENIED_NAMES_OID).value
        except x509.ExtensionNotFound:
            return b""
        assert isinstance(value, x509.UnrecognizedExtension)
        return value.value[2:]


def _pem(root: x509.Certificate) -> bytes:
    return root.public_bytes(Encoding.PEM)


@pytest.fixture
def desk() -> FakeDesk:
    return FakeDesk()


@pytest.fixture
def follower(
    desk: FakeDesk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Follower]:
    monkeypatch.setattr(est, "_POLL_S", 0)  # what is tested with it does not change meanwhile
    with est_server(desk) as server:
        yield Follower(desk, f"https://{HOST}:{server.port}", tmp_path / "identity")


def test_list_becomes_a_file_that_ovsdb_names(follower: Follower, desk: FakeDesk) -> None:
    follower.list.follow_once()
    assert follower.path.read_bytes() == crls_pem(desk.crls())
    assert stat.S_IMODE(follower.path.stat().st_mode) == 0o600
    assert follower.database.transactions == [{"ca_crl": str(follower.path)}]
    desk.revoke("node-b")
    follower.list.follow_once()
    assert follower.denied() == b"node-b"
    assert len(follower.database.transactions) == 1
    assert not list(follower.directory.glob(".new*"))


def test_list_that_is_the_same_is_not_written_again(follower: Follower) -> None:
    follower.list.follow_once()
    before = follower.path.stat()
    follower.list.follow_once()
    follower.opened(EstServer(follower.url)).follow_once()  # after a restart
    after = follower.path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert len(follower.database.transactions) == 1


def test_what_others_take_away_comes_back(follower: Follower, desk: FakeDesk) -> None:
    follower.list.follow_once()
    del follower.database.other_config["ca_crl"]
    follower.path.write_bytes(b"damaged")
    follower.list.follow_once()
    assert follower.database.other_config["ca_crl"] == str(follower.path)
    assert follower.path.read_bytes() == crls_pem(desk.crls())
    follower.path.unlink()
    follower.list.follow_once()
    assert follower.path.read_bytes() == crls_pem(desk.crls())


def test_strangers_list_is_refused_and_the_old_file_stays(
    follower: Follower,
    desk: FakeDesk,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    follower.list.follow_once()
    before = follower.path.read_bytes()
    caplog.set_level(logging.INFO)
    with monkeypatch.context() as patched:
        patched.setattr(desk, "crls", FakeDesk().crls)
        assert [follower.list.follow_once() for _ in range(3)] == [1.0, 2.0, 4.0]
        assert follower.path.read_bytes() == before
        assert caplog.text.count("none of the trusted roots") == 1
    desk.revoke("node-c")
    follower.list.follow_once()
    assert follower.denied() == b"node-c"
    assert caplog.text.count("in order again") == 1


def test_server_that_is_down_leaves_all_as_it_is(
    follower: Follower, caplog: pytest.LogCaptureFixture
) -> None:
    follower.list.follow_once()
    before = follower.path.stat()
    with caplog.at_level(logging.INFO):
        down = follower.opened(EstServer(f"https://{HOST}:1"))
        pauses = [down.follow_once() for _ in range(8)]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert caplog.text.count("Connection refused") == 1
    after = follower.path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert len(follower.database.transactions) == 1
    del follower.database.other_config["ca_crl"]
    down.follow_once()
    assert follower.database.other_config["ca_crl"] == str(follower.path)


def test_during_a_roll_over_the_file_has_the_list_of_each_root_that_is_trusted(
    follower: Follower, desk: FakeDesk
) -> None:
    follower.list.follow_once()
    desk.roll_over()
    desk.revoke("node-d")  # heard of also before the new root is
    follower.list.follow_once()
    assert follower.path.read_bytes() == crls_pem(desk.crls()[:1])
    assert follower.denied() == b"node-d"
    follower.trust("bundle-2.pem")
    follower.list.follow_once()
    assert follower.path.read_bytes() == crls_pem(desk.crls())
    assert follower.path.read_bytes().count(b"BEGIN X509 CRL") == 2
    desk.switch()
    follower.list.follow_once()
    assert follower.path.read_bytes() == crls_pem(desk.crls())


def test_ovsdb_that_is_away_does_not_keep_a_list_from_its_file(
    follower: Follower, desk: FakeDesk, caplog: pytest.LogCaptureFixture
) -> None:
    follower.database.down = True
    desk.revoke("node-e")
    for _ in range(2):
        follower.list.follow_once()
    assert follower.denied() == b"node-e"
    assert caplog.text.count("cannot connect") == 1
    follower.database.down = False
    follower.list.follow_once()
    assert follower.database.other_config["ca_crl"] == str(follower.path)


def test_disk_that_cannot_be_written_is_told(
    follower: Follower, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (follower.directory / ".new-crl").mkdir()
    follower.list.follow_once()
    assert "cannot be written" in caplog.text
    assert not follower.path.exists() and not follower.database.transactions


class Refusing:
    """A source that counts, and says something."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.asked = 0

    def lists(self, own: Credentials, known: str | None) -> Lists | None:
        self.asked += 1
        raise self.error


def test_busy_authority_says_when_to_come_again(follower: Follower) -> None:
    busy = follower.opened(Refusing(BusyError("503", 120.0)))
    assert busy.follow_once() == 120.0


def test_node_without_identity_asks_nobody(follower: Follower) -> None:
    source = Refusing(EnrolmentError("asked"))
    follower.own = None
    assert follower.opened(source).follow_once() > 0 and source.asked == 0


def test_fault_does_not_end_the_following(
    follower: Follower, caplog: pytest.LogCaptureFixture
) -> None:
    source, waits = Refusing(ZeroDivisionError()), iter((False, True))
    follower.opened(source).follow(lambda _: next(waits))
    assert source.asked == 2 and "a fault" in caplog.text


def test_revocation_at_the_authority_is_in_the_file_while_the_poll_still_waits(
    tmp_path: Path,
) -> None:
    desk = RealDesk(tmp_path / "ca")
    with est_server(desk) as server:
        follower = Follower(desk, f"https://{HOST}:{server.port}", tmp_path / "identity")
        end, deny_list = threading.Event(), follower.opened(EstServer(follower.url), chance=0.0)
        thread = threading.Thread(target=deny_list.follow, args=(end.wait,), daemon=True)
        thread.start()
        try:
            wait_until(lambda: "ca_crl" in follower.database.other_config, 20, "a deny-list")
            time.sleep(0.5)  # the next question is there: without news its answer takes 50 s
            begin = time.monotonic()
            desk.revoke("node-f")
            wait_until(lambda: follower.denied() == b"node-f", 20, "the revocation")
            assert time.monotonic() - begin < 25
            end.set()
            desk.revoke("node-g")  # answers what waits
            thread.join(25)
            assert not thread.is_alive()
        finally:
            end.set()


def test_list_can_come_through_a_directory(
    follower: Follower, desk: FakeDesk, tmp_path: Path
) -> None:
    drop = tmp_path / "drop"
    drop.mkdir()
    dropped = follower.opened(DropDirectory(drop))
    dropped.follow_once()
    assert not follower.path.exists()
    (drop / "crl.pem").write_bytes(crls_pem(desk.crls()))
    for _ in range(2):
        dropped.follow_once()
    assert follower.path.read_bytes() == crls_pem(desk.crls())
    assert follower.database.transactions == [{"ca_crl": str(follower.path)}]
    (drop / "crl.pem").write_bytes(b"nonsense")
    dropped.follow_once()
    assert follower.path.read_bytes() == crls_pem(desk.crls())


ROOT = Authority.create("first", kind=KeyType.P256)
GOOD = ROOT.crl(denied=["a"])
NO_LISTS = {
    "nothing": b"",
    "text": b"hello",
    "a certificate": ROOT.pem,
    "a list and a certificate": GOOD + ROOT.pem,
    "half a list": GOOD + GOOD[:100],
    "a damaged list": GOOD + GOOD.replace(b"M", b"A"),
    "a list by another of this name": Authority.create("first", kind=KeyType.P256).crl(),
    "a list by another": Authority.create("second", kind=KeyType.P256).crl(),
}


@pytest.mark.parametrize("pem", NO_LISTS.values(), ids=NO_LISTS)
def test_what_is_no_list_of_ours_is_a_named_error(pem: bytes) -> None:
    with pytest.raises(EnrolmentError):
        signed_lists(pem, (ROOT.pair.certificate,))
    assert signed_lists(GOOD + b"\n", (ROOT.pair.certificate,)) == (GOOD, 0)


def test_enrolment_lends_the_credentials_of_the_identity_in_use(tmp_path: Path) -> None:
    desk = FakeDesk()
    with est_server(desk) as server:
        url, database = f"https://{HOST}:{server.port}", PlayedDatabase({"system-id": "lender"})
        node = EnrollingNode(tmp_path / "identity", url, database)
        join(node, desk)
        generations = Generations(node.directory)
        try:
            enrolment = node.opened(generations)
            assert enrolment.credentials() is None
            enrolment.step()
            own = enrolment.credentials()
        finally:
            generations.close()
        assert own is not None and str(own.certificate) == database.other_config["certificate"]
        source = EstServer(url)
        deny_list = DenyList(node.directory, source, enrolment.credentials, database)
        deny_list.follow_once()
        assert Path(database.other_config["ca_crl"]).read_bytes() == crls_pem(desk.crls())


@pytest.mark.parametrize("way", ["--url=https://ca", "--drop-directory=/nowhere"])
def test_both_ways_of_enrolment_have_one(way: str) -> None:
    settings = parse_enroll_arguments(["unix:/nowhere", way])
    courier = build_courier(settings)
    assert build_deny_list(settings, lambda: None, courier).follow_once() > 0
