"""The operator's commands, from init to restore."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from ca.cli import duration_s, main, open_desk
from ca.errors import StoreError
from ca.requests import ByOperator, ByToken
from tests.unit.ca.people import csr, key


@pytest.fixture
def state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    directory = str(tmp_path / "state")
    assert main(["init", "--state", directory, "--key", "p256", "--leaf-life", "30d"]) == 0
    capsys.readouterr()
    return directory


def drop(directory: Path, name: str, der: bytes) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / f"{name}.csr"
    path.write_bytes(der)
    return path


def test_request_is_signed_listed_shown_and_revoked(
    state: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = drop(tmp_path, "x", csr("node-1"))
    assert main(["sign", "--state", state, "--for", "node-1", str(request)]) == 0
    certificate = x509.load_pem_x509_certificate(capsys.readouterr().out.encode())
    assert main(["list", "--state", state, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert int(row["serial"], 16) == certificate.serial_number and row["state"] == "valid"
    assert main(["revoke", "--state", state, "node-1"]) == 0
    assert main(["list", "--state", state, "--all"]) == 0
    assert "revoked" in capsys.readouterr().out
    assert main(["show", "--state", state, "--crl"]) == 0
    crl = x509.load_pem_x509_crl(capsys.readouterr().out.encode())
    assert crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
    assert main(["show", "--state", state]) == 0
    assert "revoked_nodes: 1\n  node-1" in capsys.readouterr().out


def test_directory_is_answered_with_certificates_and_reasons_and_may_run_again(
    state: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    target.mkdir()
    drop(source, "good", csr("good"))
    drop(source, "bad", csr("other"))
    (source / "link.csr").symlink_to("/etc/hostname")
    words = ["sign", "--state", state, "--directory", str(source), str(target)]
    assert main(words) == 1
    first = (target / "good.crt").read_bytes()
    assert main(words) == 1
    assert (target / "good.crt").read_bytes() == first
    assert "names 'other'" in (target / "bad.denied").read_text()
    assert not (target / "bad.crt").exists() and not (target / "link.crt").exists()
    bundle = x509.load_pem_x509_certificates((target / "bundle.pem").read_bytes())
    assert x509.load_pem_x509_crl((target / "crl.pem").read_bytes()).issuer == bundle[0].subject
    x509.load_pem_x509_certificate(first).verify_directly_issued_by(bundle[0])
    capsys.readouterr()
    assert main(["list", "--state", state, "--denied", "--json"]) == 0
    assert [row["chassis_id"] for row in json.loads(capsys.readouterr().out)] == ["bad"]


def test_token_is_printed_alone_and_shown_nowhere_else(
    state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["token", "--state", state, "node-1", "--life", "10m"]) == 0
    text = capsys.readouterr().out.strip()
    assert open_desk(state).sign(csr("node-1"), ByToken("node-1", text))
    assert main(["list", "--state", state, "--tokens"]) == 0
    shown = capsys.readouterr().out
    assert "used" in shown and text.split(".")[-2] not in shown


def test_rollover_by_hand(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    for step, phase in (("start", "published"), ("switch", "switched"), ("retire", "steady")):
        assert main(["rotate-ca", "--state", state, step, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["phase"] == phase
    assert main(["rotate-ca", "--state", state, "retire"]) == 1
    assert "phase is steady" in capsys.readouterr().err


def test_backup_brings_everything_back_but_tokens(
    state: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = open_desk(state).sign(csr("a"), ByToken("a", token_for("a", state, capsys)))
    token = token_for("b", state, capsys)
    backup, other = tmp_path / "ca.tar", str(tmp_path / "other")
    assert main(["backup", "--state", state, str(backup)]) == 0
    assert backup.stat().st_mode & 0o077 == 0
    assert main(["restore", "--state", other, str(backup)]) == 0
    assert main(["restore", "--state", other, str(backup)]) == 1
    capsys.readouterr()
    assert main(["verify-log", "--state", other]) == 0
    head = capsys.readouterr().out.split()[-1]
    assert main(["verify-log", "--state", other, "--expect", head]) == 0
    desk = open_desk(other)
    assert desk.bundle() == open_desk(state).bundle()
    with pytest.raises(Exception, match="taken back"):
        desk.sign(csr("b"), ByToken("b", token))
    with pytest.raises(Exception, match="another chassis"):
        desk.sign(csr("b", own=key("a")), ByToken("b", token_for("b", other, capsys)))
    assert first


def test_serial_is_revoked_with_a_word_about_who_does_not_see_it(
    state: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = drop(tmp_path, "x", csr("node-1"))
    assert main(["sign", "--state", state, "--for", "node-1", str(request)]) == 0
    serial = x509.load_pem_x509_certificate(capsys.readouterr().out.encode()).serial_number
    assert main(["revoke", "--state", state, "--serial", f"{serial:x}"]) == 0
    assert "only revoke CHASSIS cuts its node off" in capsys.readouterr().out


def test_node_that_is_not_on_record_is_revoked_by_name(
    state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["revoke", "--state", state, "joined-after-the-backup"]) == 0
    assert "no valid certificate of it is on record" in capsys.readouterr().out
    assert main(["show", "--state", state]) == 0
    assert "revoked_nodes: 1\n  joined-after-the-backup" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["token", "admit", "sign", "sign --directory"])
def test_who_lets_a_revoked_node_back_is_told_which_certificates_are_good_again(
    command: str, state: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = str(drop(tmp_path / "old", "Node-1", csr("Node-1")))
    assert main(["sign", "--state", state, "--for", "Node-1", request]) == 0
    until = x509.load_pem_x509_certificate(capsys.readouterr().out.encode()).not_valid_after_utc
    assert main(["revoke", "--state", state, "node-1"]) == 0
    anew = str(drop(tmp_path / "new", "node-1", csr("node-1", own=key("anew"))))
    words = {
        "token": ["token", "--state", state, "node-1"],
        "admit": ["admit", "--state", state, "node-1"],
        "sign": ["sign", "--state", state, "--for", "node-1", anew],
        "sign --directory": [
            *("sign", "--state", state),
            *("--directory", str(tmp_path / "new"), str(tmp_path / "new")),
        ],
    }
    capsys.readouterr()
    assert main(words[command]) == 0
    told = capsys.readouterr().err
    assert f"1 that have not expired, the last one until {until}" in told
    assert "new chassis id" in told


def test_who_lets_back_a_node_that_was_never_on_record_is_told_so(
    state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["revoke", "--state", state, "node-1"]) == 0
    assert main(["token", "--state", state, "node-1"]) == 0
    assert "none of which is on record" in capsys.readouterr().err


def test_token_for_a_revoked_node_whose_certificates_have_expired_is_made_without_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = str(tmp_path / "state")
    assert main(["init", "--state", state, "--key", "p256", "--leaf-life", "1s"]) == 0
    desk = open_desk(state)
    end = x509.load_der_x509_certificate(desk.sign(csr("a"), ByOperator("a"))).not_valid_after_utc
    assert main(["revoke", "--state", state, "a"]) == 0
    time.sleep(max((end - datetime.now(UTC)).total_seconds(), 0) + 0.01)
    assert main(["token", "--state", state, "a"]) == 0
    assert "revoked" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["list", "--state", "/nonexistent/ca"], "ovn-ipsec-ca init"),
        (["init", "--ca-life", "1d", "--leaf-life", "1d", "--state", "/x"], "half of ca_life_s"),
        (["revoke", "--state", "STATE", "*"], "not a chassis id"),
        (["revoke", "--state", "STATE", "--serial", "12"], "ovn-ipsec-ca list"),
        (["token", "--state", "STATE", "*"], "not a chassis id"),
        (["sign", "--state", "STATE", "x.csr"], "--for CHASSIS"),
        (["init", "--state", "STATE"], "ovn-ipsec-ca show"),
        (["restore", "--state", "STATE", "/etc/hostname"], "as a backup"),
    ],
)
def test_mistake_is_answered_with_the_remedy(
    words: list[str], remedy: str, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([state if word == "STATE" else word for word in words]) == 1
    assert remedy in capsys.readouterr().err


def test_durations_have_units() -> None:
    assert [duration_s(text) for text in ("7", "7s", "2m", "1h", "1d", "5y")] == [
        *(7, 7, 120, 3600, 86400),
        5 * 365 * 86400,
    ]


def token_for(name: str, state: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["token", "--state", state, name]) == 0
    return capsys.readouterr().out.strip()


def test_half_restored_directory_is_no_authority(state: str, tmp_path: Path) -> None:
    """Settings come last: without them the directory is refused."""
    (Path(state) / "settings.json").unlink()
    with pytest.raises(StoreError, match="no authority is here"):
        open_desk(state)
