"""The bundle: complete enough to help, bounded, and not one secret of the node in it."""

from __future__ import annotations

import base64
import json
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovn_ipsec.drivers.libreswan_text import render_secret, render_tunnel
from ovn_ipsec.errors import OvnIpsecError
from ovn_ipsec.model.conns import Protocol, PskAuth, Secret, TunnelConfig
from ovn_ipsec.support import bundle
from ovn_ipsec.support.bundle import Surroundings, write_bundle
from ovn_ipsec.support.redact import (
    HIDDEN,
    SHORTEST,
    Redactor,
    secrets_of_file,
    secrets_of_key,
    secrets_of_rows,
)
from tests.unit.world import config
from tools.lab.pki import key_pem, make_key

PSK = "correct horse 'battery' \"staple\" ü"
FOREIGN_PSK = "somebody else's tunnel"
TOKEN = "ovnipsec1.Zm9vYmFyYmF6cXV4.c2VjcmV0"
PASSWORD = "hunter2-and-more"


class FakeNode:
    """A root directory and programs that tell every secret that they can."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root / "node"
        self.key = key_pem(make_key()).decode()
        programs = root / "bin"
        programs.mkdir()
        rows = {"data": [["tun", ["map", [["psk", PSK], ["remote_ip", "192.0.2.7"]]]]]}
        said = {
            "ovs-vsctl": json.dumps(rows),
            "ip": f"enc aead rfc4106(gcm(aes)) 0x{'ab' * 36} 128\nsrc 192.0.2.1\n",
            "journalctl": f'pluto[7]: index "{PSK}"\nenroll: token={TOKEN}\n{self.key}',
            "ps": f"1 agent --password {PASSWORD} unix:/run/db.sock\n",
        }
        for name, text in said.items():
            (root / f"{name}.txt").write_text(text)
            program = programs / name
            program.write_text(f"#!/bin/sh\ncat {root / name}.txt\n")
            program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        config = TunnelConfig(
            Protocol.UDP, 6081, "192.0.2.1", "192.0.2.7", PskAuth(Secret(PSK)), ()
        )
        self.write("etc/ipsec.d/ovn-ipsec/all.tunnels.secrets", render_secret("tun", config) or "")
        self.write("etc/ipsec.secrets", f'192.0.2.1 192.0.2.9 : PSK "{FOREIGN_PSK}"\n')
        self.write("etc/openvswitch/keys/ipsec-privkey.pem", self.key)
        self.write("var/lib/ovn-ipsec/join-token", TOKEN + "\n")
        self.write("etc/ipsec.conf", f"conn x\n\t# psk was {FOREIGN_PSK}\n\tleft=192.0.2.1\n")
        encoded = base64.b64encode(PSK.encode()).decode()
        self.write("var/log/pluto.log", f"0x{PSK.encode().hex()} {encoded}\n{self.key}\nthe end\n")
        self.environment = {"OVS_RUNDIR": "/x", "JOIN_TOKEN": TOKEN, "DB_PASSWORD": PASSWORD}

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def around(self) -> Surroundings:
        return Surroundings(
            root=self.root, rundir=self.root, environment=self.environment, timeout_s=5.0
        )


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNode:
    return FakeNode(tmp_path, monkeypatch)


def members(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        found = {}
        for member in archive.getmembers():
            file = archive.extractfile(member)
            assert file is not None
            found[member.name.removeprefix("ovn-ipsec-support/")] = file.read().decode()
        return found


def test_no_secret_of_the_node_is_in_it_in_any_form(fake: FakeNode, tmp_path: Path) -> None:
    target = tmp_path / "bundle.tar.gz"
    write_bundle(target, fake.around())
    found = members(target)
    everything = "\n".join(found.values())
    key_lines = [line for line in fake.key.splitlines() if "-----" not in line]
    forms = [
        *(PSK, FOREIGN_PSK, TOKEN, PASSWORD, "ab" * 36),
        *(PSK.encode().hex(), base64.b64encode(PSK.encode()).decode()),
        *(json.dumps(PSK)[1:-1], "battery", *key_lines),
    ]
    for form in forms:
        assert form not in everything, form
    assert "192.0.2.7" in found["ovs/interfaces"]
    assert "the end" in found["files/var/log/pluto.log"]
    assert "left=192.0.2.1" in found["files/etc/ipsec.conf"]
    assert "JOIN_TOKEN" in found["system/environment"]
    assert "all.tunnels.secrets" in found["system/secret-files"]


def test_dead_agent_is_named_and_the_rest_is_there(fake: FakeNode, tmp_path: Path) -> None:
    target = tmp_path / "bundle.tar.gz"
    absent = write_bundle(target, fake.around())
    assert [line for line in absent if line.startswith("agent/status.json: no agent")]
    found = members(target)
    assert "agent/status.json" in found["index"]
    assert "pluto/status" in found
    assert target.stat().st_mode & 0o777 == 0o600


def test_huge_logs_are_cut_to_their_newest_part_and_the_whole_is_bounded(
    fake: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "MEMBER_BYTES", 4096)
    monkeypatch.setattr(bundle, "BUNDLE_BYTES", 20_000)
    fake.write("var/log/pluto.log", f"psk is {PSK}\n" * 5000 + "the end\n")
    target = tmp_path / "bundle.tar.gz"
    absent = write_bundle(target, fake.around())
    found = members(target)
    assert sum(map(len, found.values())) < 25_000
    assert "battery" not in "".join(found.values())
    assert all("no room" in line or "no agent" in line for line in absent)


def test_file_that_exists_is_not_overwritten(fake: FakeNode, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    target.write_text("precious")
    with pytest.raises(OvnIpsecError, match="--output"):
        write_bundle(target, fake.around())
    assert target.read_text() == "precious"


SECRETS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=SHORTEST, max_size=60)


@given(SECRETS, st.text(max_size=30), st.text(max_size=30))
def test_known_secret_never_survives(secret: str, before: str, after: str) -> None:
    cleaned = Redactor([secret]).clean
    for form in (secret, json.dumps(secret), secret.encode().hex()):
        word = form.strip('"') if form.startswith('"') else form
        said = cleaned(f"{before}{form}{after}")
        assert word not in said.replace(HIDDEN, "\0") or word in before + after or word in HIDDEN


@pytest.mark.parametrize(
    "line",
    [
        'options: {psk="a b \\" c", remote_ip="192.0.2.1"}',
        "options: {psk=abc123, remote_ip=192.0.2.1}",
        '["map",[["psk","abc123"],["remote_ip","192.0.2.1"]]]',
        '{"token": "abc123"}',
        '192.0.2.1 %any : PSK "abc123"',
        "192.0.2.1 %any : PSK 0x616263313233",
        "Authorization: Bearer abc123",
        "x eyJhbGciOiJSUzI1NiIs.abc123.sig y",
        "agent --join-token abc123 unix:db.sock",
        "PASSWORD='abc123'",
        "auth-trunc hmac(sha256) 0xabc123abc123 96",
        "cut off\nabc123\n-----END PRIVATE KEY-----\n".removeprefix("cut off\n"),
        "-----BEGIN EC PRIVATE KEY-----\nabc123\n",
    ],
)
def test_unknown_secret_is_known_by_its_surroundings(line: str) -> None:
    said = Redactor().clean(line)
    assert "abc123" not in said and "616263" not in said and "a b" not in said
    assert HIDDEN in said


def test_nothing_by_which_a_key_could_be_guessed_stays_of_a_tunnels_file() -> None:
    file = render_tunnel("t", 1, config(psk="swordfish-summer"))
    assert config(psk="swordfish-summer").digest in file
    cleaned = Redactor().clean(file)
    assert config(psk="swordfish-summer").digest not in cleaned
    assert "conn t-in-1" in cleaned


def test_what_is_no_secret_stays(fake: FakeNode) -> None:
    for line in (
        '"tun-in-1":   policy: IKEv2+PSK+ENCRYPT+TRANSPORT+PFS+UP;',
        "  PSK:            set",
        '"psk_set": true, "local_key": "/etc/openvswitch/keys/ipsec-privkey.pem"',
        "-----BEGIN CERTIFICATE-----",
    ):
        assert Redactor(["abcdef"]).clean(line) == line


def test_secrets_are_found_where_they_are_kept() -> None:
    text = 'a b : PSK "one two"\nc : psk 0x74687265652d\n: PPKS "id-1" "five-six"\n'
    assert {"one two", "three-", "five-six"} <= secrets_of_file(text)
    rows = json.dumps({"data": [[["map", [["psk", "seven"]]]]]})
    assert secrets_of_rows(rows) == {"seven"}
    assert secrets_of_rows("[" * 100_000) == set()
    assert secrets_of_key("-----BEGIN PRIVATE KEY-----\nAAA\nBBB\n-----END") == {"AAA", "BBB"}
