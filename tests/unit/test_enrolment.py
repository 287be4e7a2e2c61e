"""A node enrols and renews, against a running EST server, with only OVSDB played."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import ssl
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ca.directory import sign_directory
from ca.errors import RolloverError
from ca.est_tls import TlsMaterial
from ca.requests import bundle_digest, crls_pem
from ovn_ipsec import cli
from ovn_ipsec.commands import enroll
from ovn_ipsec.errors import EnrolmentError, SettingsError
from ovn_ipsec.identity.certificates import request_name
from ovn_ipsec.identity.drop import DropDirectory
from ovn_ipsec.identity.est import EstServer
from ovn_ipsec.identity.generations import Generations
from ovn_ipsec.identity.model import Decision, KeyKind, Level
from ovn_ipsec.identity.node import Enrolment, Parts, run, run_once
from ovn_ipsec.identity.ovsdb import NodeSettings
from ovn_ipsec.identity.settings import parse_enroll_arguments
from ovn_ipsec.identity.token import parse_token
from tests.est_server import HOST, RunningServer, est_server
from tests.fake_desk import LIFE_S, FakeDesk
from tests.real_desk import RealDesk
from tests.unit.odd_certificates import with_odd_key
from tests.unit.test_identity_files import FaultyDisk, PowerCut
from tools.lab.pki import Authority, KeyType, key_pem

UTC = dt.UTC


@pytest.fixture(scope="module")
def desk() -> FakeDesk:
    return FakeDesk()


@pytest.fixture(scope="module")
def server(desk: FakeDesk) -> Iterator[RunningServer]:
    with est_server(desk) as running:
        yield running


@dataclass
class PlayedDatabase:
    """Open vSwitch's row, and every transaction on it."""

    external_ids: dict[str, str] = field(default_factory=dict)
    other_config: dict[str, str] = field(default_factory=lambda: {"hw-offload": "false"})
    transactions: list[Mapping[str, str]] = field(default_factory=list)
    down: bool = False

    def read(self) -> NodeSettings:
        if self.down:
            raise EnrolmentError("OVSDB unix:x: cannot connect: no such socket")
        return NodeSettings(dict(self.other_config), dict(self.external_ids))

    def set_other_config(self, values: Mapping[str, str]) -> None:
        if self.down:
            raise EnrolmentError("OVSDB unix:x: cannot connect: no such socket")
        self.transactions.append(dict(values))
        self.other_config |= values


@dataclass
class Node:
    """One node: its directory, its row, and a clock that a test sets."""

    directory: Path
    url: str
    database: PlayedDatabase
    offset: dt.timedelta = dt.timedelta()
    drop: Path | None = None
    deny_list: Path | None = None

    def clock(self) -> dt.datetime:
        return dt.datetime.now(UTC) + self.offset

    def wait(self, seconds: float) -> bool:
        self.offset += dt.timedelta(seconds=seconds)
        return False

    @property
    def token_file(self) -> Path:
        return self.directory.parent / "token"

    def opened(self, generations: Generations) -> Enrolment:
        drop = DropDirectory(self.drop) if self.drop else None
        server = None if drop else EstServer(self.url)
        token = None if drop else self.token_file
        parts = Parts(self.database, generations, self.clock, server, token, drop, self.deny_list)
        return Enrolment(parts, KeyKind.P256)

    def run(self, timeout_s: float = 30, disk: FaultyDisk | None = None) -> Decision:
        """As ``enroll --once`` does, in no time."""
        generations = Generations(self.directory, disk)
        try:
            return run_once(self.opened(generations), self.clock, self.wait, timeout_s)
        finally:
            generations.close()

    def certificate(self) -> x509.Certificate:
        """That OVSDB names."""
        return x509.load_pem_x509_certificate(self.named("certificate"))

    def named(self, key: str) -> bytes:
        return Path(self.database.other_config[key]).read_bytes()

    def roots(self) -> tuple[bytes, ...]:
        members = x509.load_pem_x509_certificates(self.named("ca_cert"))
        return tuple(each.public_bytes(serialization.Encoding.DER) for each in members)


@pytest.fixture
def node(tmp_path: Path, server: RunningServer) -> Node:
    name = f"node-{tmp_path.name}"[-60:].replace("[", "").replace("]", "")
    database = PlayedDatabase({"system-id": name})
    return Node(tmp_path / "identity", f"https://{HOST}:{server.port}", database)


def join(node: Node, desk: FakeDesk | RealDesk) -> Decision:
    name = node.database.external_ids["system-id"]
    node.token_file.write_text(desk.token_text(name))
    return node.run()


def join_long_ago(node: Node, desk: FakeDesk, share: float) -> None:
    """As ``join``, with a certificate of whose life this share has passed."""
    desk.leaf_age_s = int(desk.leaf_life_s * share)
    name = node.database.external_ids["system-id"]
    node.token_file.write_text(desk.token_text(name))
    generations = Generations(node.directory)
    enrolment = node.opened(generations)
    try:
        while "certificate" not in node.database.other_config:
            enrolment.step()
    finally:
        desk.leaf_age_s = 0
        generations.close()


def check_whole(node: Node) -> None:
    """Key, certificate and roots that OVSDB names belong together."""
    key = serialization.load_pem_private_key(node.named("private_key"), None)
    assert key.public_key() == node.certificate().public_key()
    for der in node.roots():
        root = x509.load_der_x509_certificate(der)
        try:
            node.certificate().verify_directly_issued_by(root)
            return
        except Exception:  # noqa: BLE001, S112 (another root may fit)
            continue
    pytest.fail("no root fits")


def test_certificate_younger_than_the_question_is_taken_at_once(
    node: Node, desk: FakeDesk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    node.offset = -dt.timedelta(hours=1)
    enroll = EstServer.enroll

    def an_hour_later(server: EstServer, *rest: Any) -> bytes:
        answer = enroll(server, *rest)
        node.offset = dt.timedelta()
        return answer

    monkeypatch.setattr(EstServer, "enroll", an_hour_later)
    with caplog.at_level(logging.DEBUG):
        node.token_file.write_text(desk.token_text(node.database.external_ids["system-id"]))
        assert node.run(timeout_s=7200).level is Level.OK
    assert "not installed" not in caplog.text


def test_node_with_a_token_gets_an_identity_that_ovsdb_names_in_one_transaction(
    node: Node, desk: FakeDesk
) -> None:
    decision = join(node, desk)
    assert (decision.in_place, decision.level) == (True, Level.OK)
    assert [set(each) for each in node.database.transactions] == [
        {"certificate", "private_key", "ca_cert"}
    ]
    assert node.database.other_config["hw-offload"] == "false"
    check_whole(node)
    assert node.roots() == desk.bundle()
    key = Path(node.database.other_config["private_key"])
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    state = json.loads((node.directory / "state.json").read_text())
    assert (state["state"], state["generation"], state["in_ovsdb"]) == ("ok", 1, 1)


def test_second_run_finds_everything_done(node: Node, desk: FakeDesk) -> None:
    join(node, desk)
    signed = desk.signed
    assert node.run().in_place
    assert len(node.database.transactions) == 1 and desk.signed == signed


def test_renewal_has_a_new_key_and_the_last_two_identities_stay(
    node: Node, desk: FakeDesk
) -> None:
    join_long_ago(node, desk, share=0.7)
    node.token_file.unlink()
    first = node.certificate()
    desk.leaf_age_s = int(LIFE_S * 0.7)
    generations = Generations(node.directory)
    enrolment = node.opened(generations)
    for _ in range(12):
        enrolment.step()
    generations.close()
    desk.leaf_age_s = 0
    assert node.run().in_place
    check_whole(node)
    assert node.certificate().public_key() != first.public_key()
    left = sorted(int(path.name[11:]) for path in node.directory.glob("generation-*"))
    assert len(left) == 2 and left[0] > 1


def test_crash_at_any_file_operation_leaves_one_identity_whole_and_the_token_good(
    tmp_path: Path, node: Node, desk: FakeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # the disk is not what is tested here
    for number in range(1, 60, 4):
        one = Node(
            tmp_path / f"cut-{number}", node.url, PlayedDatabase({"system-id": f"cut-{number}"})
        )
        node.token_file.write_text(desk.token_text(f"cut-{number}"))
        disk = FaultyDisk(number, "half")
        try:
            one.run(disk=disk)
            break
        except PowerCut:
            pass
        if "certificate" in one.database.other_config:
            check_whole(one)
        assert one.run().in_place, number
        check_whole(one)
    assert 10 < number < 57


def test_server_that_does_not_have_the_tokens_root_learns_no_secret(
    node: Node, desk: FakeDesk, caplog: pytest.LogCaptureFixture
) -> None:
    name = node.database.external_ids["system-id"]
    other = FakeDesk()
    text = other.token_text(name)
    node.token_file.write_text(text)
    with caplog.at_level(logging.DEBUG):
        decision = node.run(timeout_s=0)
    assert (decision.in_place, decision.level) == (False, Level.ALARM)
    assert "does not show the root" in decision.reason
    assert "certificate" not in node.database.other_config
    secret = text.split(".")[-2]
    assert secret not in caplog.text and secret not in decision.reason
    assert secret not in desk.secrets_seen


def test_node_of_the_servers_host_name_cannot_pose_as_the_server(
    tmp_path: Path, node: Node, desk: FakeDesk
) -> None:
    pair = desk.node(HOST)
    material = TlsMaterial(pair.pem, key_pem(pair.key))
    with est_server(desk, tls=lambda: material) as impostor:
        node.url = f"https://{HOST}:{impostor.port}"
        name = node.database.external_ids["system-id"]
        node.token_file.write_text(desk.token_text(name))
        decision = node.run(timeout_s=0)
    assert not decision.in_place and "not the authority's own" in decision.reason


def test_used_token_is_told_and_a_new_one_helps(node: Node, desk: FakeDesk) -> None:
    name = node.database.external_ids["system-id"]
    text = desk.token_text(name)
    desk.expired.add(text.split(".")[-2])
    node.token_file.write_text(text)
    decision = node.run(timeout_s=0)
    assert decision.level is Level.ALARM and "has expired" in decision.reason
    assert join(node, desk).in_place


def state_of(node: Node) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((node.directory / "state.json").read_text())
    return said


def test_first_token_is_used_once_and_never_written_down(
    tmp_path: Path, node: Node, desk: FakeDesk
) -> None:
    join(node, desk)
    signed, text = desk.signed, node.token_file.read_text()
    assert state_of(node)["token_sha256"] == parse_token(text).digest
    node.run()
    assert desk.signed == signed
    secret = parse_token(text).secret.reveal().encode()
    files = [path for path in node.directory.rglob("*") if path.is_file()]
    assert len(files) > 4 and not any(secret in path.read_bytes() for path in files)


def test_revoked_node_is_back_with_a_new_token_at_once(tmp_path: Path) -> None:
    desk = RealDesk(tmp_path / "ca")
    with est_server(desk) as server:
        url = f"https://{HOST}:{server.port}"
        node = Node(tmp_path / "id", url, PlayedDatabase({"system-id": "back"}))
        join(node, desk)
        first = node.certificate()
        desk.revoke("back")
        deny_list = tmp_path / "crl.pem"
        deny_list.write_bytes(crls_pem(desk.crls()))
        node.deny_list = deny_list
        decision = node.run()
        assert decision.level is Level.ALARM and "ovn-ipsec-ca token back" in decision.reason
        assert state_of(node)["state"] == "alarm"
        assert join(node, desk).in_place
        assert node.certificate().public_key() != first.public_key()
        deny_list.write_bytes(crls_pem(desk.crls()))
        assert node.run().level is Level.OK and desk.signed == 2


def test_token_for_a_node_that_needs_none_is_refused_once_and_told(tmp_path: Path) -> None:
    desk = RealDesk(tmp_path / "ca")
    with est_server(desk) as server:
        url = f"https://{HOST}:{server.port}"
        node = Node(tmp_path / "id", url, PlayedDatabase({"system-id": "here"}))
        spare = desk.token_text("here")
        join(node, desk)
        first = node.certificate()
        node.token_file.write_text(spare)
        decision = node.run()
        assert (decision.level, decision.in_place) == (Level.OK, True)
        assert "--replace" in decision.reason
        assert node.certificate() == first
        assert "--replace" not in node.run().reason, "asked again after a restart"


def test_node_whose_authority_was_made_anew_gets_in_by_a_token(
    tmp_path: Path, node: Node, desk: FakeDesk
) -> None:
    join_long_ago(node, desk, share=0.7)
    other = FakeDesk()
    with est_server(other) as server:
        node.url = f"https://{HOST}:{server.port}"
        decision = node.run()
        assert "not trusted" in decision.reason
        assert join(node, other).in_place
        assert node.roots() == other.bundle()


def test_authority_that_is_down_stops_nothing_and_enrolment_recovers(
    node: Node, desk: FakeDesk
) -> None:
    join_long_ago(node, desk, share=0.7)
    before, url = node.certificate().serial_number, node.url
    node.url = f"https://{HOST}:1"
    decision = node.run()
    assert (decision.in_place, decision.level) == (True, Level.RENEWING)
    node.offset = dt.timedelta(seconds=LIFE_S * 0.2)
    decision = node.run()
    assert (decision.in_place, decision.level) == (True, Level.ALARM)
    assert "Connection refused" in decision.reason
    node.url, node.offset = url, dt.timedelta()
    assert node.run().in_place
    assert node.certificate().serial_number != before


def test_bad_certificate_from_the_authority_is_not_installed(
    node: Node, desk: FakeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    join_long_ago(node, desk, share=0.7)
    before = node.certificate().serial_number
    stranger = Authority.create(kind=KeyType.P256).issue("other", kind=KeyType.P256)
    der = stranger.certificate.public_bytes(serialization.Encoding.DER)
    monkeypatch.setattr(desk, "sign", lambda *_: der)
    decision = node.run()
    assert node.certificate().serial_number == before
    for reason in ("common name is 'other'", "another key", "none of the trusted roots"):
        assert reason in decision.reason


def test_ovsdb_that_is_away_delays_the_switch_alone(node: Node, desk: FakeDesk) -> None:
    node.database.down = True
    decision = join(node, desk)
    assert "cannot connect" in decision.reason
    node.database.down = False
    assert node.run().in_place


@pytest.mark.parametrize("kind", ["fake", "real"])
def test_roll_over_is_trusted_acknowledged_and_followed(tmp_path: Path, kind: str) -> None:
    desk = FakeDesk() if kind == "fake" else RealDesk(tmp_path / "ca")
    with est_server(desk) as server:
        node = Node(
            tmp_path / "identity",
            f"https://{HOST}:{server.port}",
            PlayedDatabase({"system-id": "rolling"}),
        )
        join(node, desk)
        old = desk.bundle()[0]
        generations = Generations(node.directory)
        enrolment = node.opened(generations)

        def settle() -> None:
            for _ in range(40):
                decision = enrolment.step()
                if decision.action is None:
                    node.wait((decision.wake_at - node.clock()).total_seconds())

        desk.roll_over()
        node.offset += dt.timedelta(hours=2)
        settle()
        assert set(node.roots()) == set(desk.bundle()) and len(node.roots()) == 2
        if isinstance(desk, FakeDesk):
            assert ("rolling", bundle_digest(desk.bundle())) in desk.acknowledged
        serial = node.certificate().serial_number

        desk.switch()  # the real one refuses before every live node has acknowledged
        node.offset += dt.timedelta(hours=2)
        for _ in range(8):
            settle()
        assert node.certificate().serial_number != serial
        check_whole(node)
        assert node.roots()[0] == desk.bundle()[0] != old

        desk.retire()
        node.offset += dt.timedelta(hours=2)
        settle()
        assert node.roots() == desk.bundle() and old not in node.roots()
        check_whole(node)
        generations.close()


def test_old_token_and_node_that_slept_still_find_the_server_after_a_switch(
    tmp_path: Path,
) -> None:
    desk = RealDesk(tmp_path / "ca")
    with est_server(desk) as server:
        url = f"https://{HOST}:{server.port}"
        sleeper = Node(tmp_path / "a" / "id", url, PlayedDatabase({"system-id": "sleeper"}))
        late = Node(tmp_path / "b" / "id", url, PlayedDatabase({"system-id": "late"}))
        for each in (sleeper, late):
            each.directory.mkdir(parents=True)
        join(sleeper, desk)
        old = sleeper.certificate()
        late.token_file.write_text(desk.token_text("late"))
        desk.roll_over()
        desk.switch(force=True)
        assert late.run().in_place and late.roots() == desk.bundle()
        sleeper.offset = dt.timedelta(hours=2)
        assert sleeper.run().in_place
        assert set(sleeper.roots()) == set(desk.bundle())
        assert sleeper.certificate().serial_number == old.serial_number


def test_directory_gives_a_certificate_when_somebody_signs_what_was_dropped(
    tmp_path: Path, node: Node, desk: FakeDesk
) -> None:
    node.drop = tmp_path / "drop"
    node.drop.mkdir()
    name = node.database.external_ids["system-id"]
    decision = node.run(timeout_s=10)
    assert (decision.in_place, decision.level) == (False, Level.WAITING)
    assert f"{name}.crt: is waited for" in decision.reason
    request = x509.load_pem_x509_csr((node.drop / f"{name}.csr").read_bytes())
    der = request.public_bytes(serialization.Encoding.DER)
    assert request_name(der) == name
    desk.leaf_age_s = int(LIFE_S * 0.6)
    certificate = desk.leaf(name, request.public_key())
    desk.leaf_age_s = 0
    (node.drop / f"{name}.denied").write_text("the chassis has a certificate\n")
    decision = node.run(timeout_s=10)
    assert (decision.level, "the chassis has a" in decision.reason) == (Level.ALARM, True)
    (node.drop / f"{name}.denied").unlink()
    (node.drop / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (node.drop / "bundle.pem").write_bytes(desk.authority.pem)
    assert node.run().in_place
    check_whole(node)
    node.offset += dt.timedelta(seconds=LIFE_S * 0.1)
    decision = node.run(timeout_s=10)
    assert decision.in_place and "is for an earlier request" in decision.reason


def test_damaged_certificate_leaves_the_older_identity_in_use_at_the_next_start(
    node: Node, desk: FakeDesk
) -> None:
    join_long_ago(node, desk, share=0.7)
    older = node.named("certificate")
    assert node.run().in_place
    damaged = Path(node.database.other_config["certificate"])
    der = node.certificate().public_bytes(serialization.Encoding.DER)
    odd = with_odd_key(der)["a key on an unknown curve"]
    damaged.write_text(ssl.DER_cert_to_PEM_cert(odd))
    generations = Generations(node.directory)
    enrolment = node.opened(generations)
    enrolment.step()
    generations.close()
    assert node.named("certificate") == older
    state = json.loads((node.directory / "state.json").read_text())
    assert f"{damaged.parent.name} is damaged" in state["reason"]


def test_fault_in_a_step_is_logged_once_and_tried_again(
    node: Node, desk: FakeDesk, caplog: pytest.LogCaptureFixture
) -> None:
    join(node, desk)
    generations = Generations(node.directory)
    enrolment, pauses = node.opened(generations), list[float]()
    steps = iter([ZeroDivisionError("x"), ZeroDivisionError("x"), None, ZeroDivisionError("x")])
    sound = enrolment.step

    def step() -> Decision:
        if (fault := next(steps)) is not None:
            raise fault
        return sound()

    enrolment.step = step  # type: ignore[method-assign]  # the bug

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        return len(pauses) == 4

    run(enrolment, node.clock, wait)
    generations.close()
    assert caplog.text.count("a fault") == 2 and pauses[:2] == [60, 60]


def test_roll_over_keeps_a_node_of_a_directory_and_waits_for_it(tmp_path: Path) -> None:
    desk, drop = RealDesk(tmp_path / "ca"), tmp_path / "drop"
    drop.mkdir()
    node = Node(tmp_path / "id", "", PlayedDatabase({"system-id": "apart"}), drop=drop)
    generations = Generations(node.directory)
    enrolment = node.opened(generations)

    def pass_hours(hours: int) -> None:
        for _ in range(6 * hours):
            while enrolment.step().action is not None:
                pass
            sign_directory(desk, drop, drop, replace=True)
            node.offset += dt.timedelta(minutes=10)
            desk._offset = node.offset

    pass_hours(1)
    first = node.certificate()
    assert not (drop / "apart.csr").exists(), "it would be signed again"
    desk.roll_over()
    sign_directory(desk, drop, drop, replace=True)
    with pytest.raises(RolloverError, match="apart"):
        desk.switch()
    pass_hours(4)
    second = node.certificate()
    assert second.public_key() != first.public_key() and len(node.roots()) == 2
    desk.switch()
    sign_directory(desk, drop, drop, replace=True)
    with pytest.raises(RolloverError, match="apart"):
        desk.retire()
    pass_hours(4)
    assert node.certificate().public_key() != second.public_key()
    desk.retire()
    pass_hours(4)
    assert node.roots() == desk.bundle()
    check_whole(node)
    generations.close()


def test_request_stays_in_the_directory_until_its_certificate_is_installed(
    tmp_path: Path, node: Node, desk: FakeDesk
) -> None:
    node.drop = tmp_path / "drop"
    node.drop.mkdir()
    name = node.database.external_ids["system-id"]
    node.run(timeout_s=1)
    request = node.drop / f"{name}.csr"
    public = x509.load_pem_x509_csr(request.read_bytes()).public_key()
    (node.drop / "bundle.pem").write_bytes(desk.authority.pem)
    wrong, right = desk.leaf("other", public), desk.leaf(name, public)
    answer = node.drop / f"{name}.crt"
    answer.write_bytes(wrong.public_bytes(serialization.Encoding.PEM))
    assert "common name is 'other'" in node.run(timeout_s=1).reason
    assert request.exists()
    answer.write_bytes(right.public_bytes(serialization.Encoding.PEM))
    assert node.run().in_place and not request.exists()


def test_settings_are_read_and_every_violation_is_told() -> None:
    said = parse_enroll_arguments(
        ["unix:/db.sock", "--url=https://ca:8443", "--token-file=/t", "--key-type=p384", "--once"]
    )
    assert (said.url, said.key_kind, said.once) == ("https://ca:8443", KeyKind.P384, True)
    assert said.token_file == Path("/t") and said.timeout_s == 300
    with pytest.raises(SettingsError) as refused:
        parse_enroll_arguments(
            ["db", "--url=http://x", "--drop-directory=y", "--key-type=dsa", "--timeout=0"]
        )
    for reason in ("DATABASE", "https://HOST", "either", "absolute", "--key-type", "--timeout"):
        assert reason in str(refused.value)


@pytest.mark.parametrize(("life_left", "code"), [(0.1, 0), (-0.1, 1)])
def test_command_succeeds_with_what_is_valid_although_its_renewal_is_overdue(
    node: Node,
    desk: FakeDesk,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    life_left: float,
    code: int,
) -> None:
    join(node, desk)
    node.url, node.offset = f"https://{HOST}:1", dt.timedelta(seconds=LIFE_S * (1 - life_left))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(enroll, "wall_clock", node.clock)
    monkeypatch.setattr(
        enroll, "build_enrolment", lambda _, generations, *rest: node.opened(generations)
    )
    argv = ["enroll", "unix:/x", f"--url={node.url}", f"--directory={node.directory}", "--once"]
    assert cli.main([*argv, "--timeout=1"]) == code
    warned = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert "Connection refused" in warned[-1]
    assert ("is not renewed" in warned[-1]) == (code == 0)


def test_command_ends_with_an_error_when_another_process_has_the_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    held = Generations(tmp_path)
    argv = ["enroll", "unix:/nowhere", "--url=https://ca", f"--directory={tmp_path}", "--once"]
    assert cli.main(argv) == 1
    assert "another enrolment holds it" in capsys.readouterr().err
    held.close()
    assert cli.main([*argv, "--timeout=1"]) == 1
    assert "cannot connect" in capsys.readouterr().err
