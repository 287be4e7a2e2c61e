"""What the options become, read by libreswan's own parsers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ovn_ipsec.desired.credentials import CredentialVerdict
from ovn_ipsec.desired.options import TABLE
from ovn_ipsec.desired.overlay import Surroundings, build_tunnel
from ovn_ipsec.drivers.libreswan_text import render_connections
from ovn_ipsec.model.facts import TunnelFact

pytestmark = pytest.mark.contract

_SAMPLES = {
    "encapsulation": ("yes", "no", "auto"),
    "ike": (
        "aes_gcm256-sha2_256-dh31",
        "aes256-sha2_512+sha2_256;modp4096",
        "chacha20_poly1305-sha2_256,aes_gcm_16_256-sha384-dh20",
        "aes-sha1-dh14",
        "aes_ctr256-aes_xcbc-dh19",
    ),
    "esp": (
        "aes_gcm256",
        "aes_gcm256-none-dh31",
        "aes128+aes256-sha2_512",
        "aes_cbc_256-aes_cmac-modp2048",
        "chacha20_poly1305,aes_ctr-sha2_256",
    ),
    "ppk": ("no", "yes", "propose", "insist"),
    "ikelifetime": ("2m", "24h"),
    "salifetime": ("120", "1d"),
    "rekey": ("yes", "no"),
    "rekeymargin": ("1s", "1h"),
    "rekeyfuzz": ("0%", "100%"),
    "pfs": ("yes", "no"),
    "dpddelay": ("1s", "1h"),
    "retransmit-timeout": ("1500ms", "5m"),
    "retransmit-interval": ("100ms", "10s"),
    "replay-window": ("32", "4096"),
    "esn": ("yes", "no", "either"),
    "fragmentation": ("yes", "no", "force"),
    "nat-keepalive": ("yes", "no"),
    "intermediate": ("yes", "no"),
}


def _libexec(name: str) -> str:
    path = shutil.which(name, path=os.environ["PATH"] + ":/usr/libexec/ipsec")
    assert path is not None, f"{name} is not installed; contract tests need libreswan"
    return path


def _rendered(key: str, value: str) -> str:
    row = TunnelFact(
        "t",
        "geneve",
        {"remote_ip": "192.0.2.2", "local_ip": "192.0.2.1", "psk": "x", f"ipsec_{key}": value},
    )
    wanted = build_tunnel(row, Surroundings(CredentialVerdict()))
    assert wanted.problem is None
    assert wanted.config is not None
    assert key in dict(wanted.config.keywords)
    assert not [warning for warning in wanted.warnings if "ipsec_" in warning]
    return render_connections("t", 1, wanted.config)


@pytest.mark.parametrize("key", sorted(option.key for option in TABLE))
def test_every_option_is_a_keyword_that_libreswan_takes(key: str, tmp_path: Path) -> None:
    for value in _SAMPLES[key]:
        conf = tmp_path / "ipsec.conf"
        conf.write_text(_rendered(key, value))
        result = subprocess.run(
            [_libexec("addconn"), "--config", conf, "--checkconfig"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        complaints = [
            line
            for line in (result.stdout + result.stderr).splitlines()
            # 5.x says so of ikev2=, and obeys it (DECISIONS 10); dpdaction= is for 4.x alone.
            if "keyexchange=ikev2" not in line and "obsolete keyword ignored: dpdac" not in line
        ]
        assert (result.returncode, complaints) == (0, [])


@pytest.mark.parametrize("key", ["ike", "esp"])
def test_every_accepted_proposal_is_one_that_libreswan_knows(key: str) -> None:
    for value in _SAMPLES[key]:
        line = next(line for line in _rendered(key, value).splitlines() if f"\t{key}=" in line)
        result = subprocess.run(
            [_libexec("algparse"), line.strip()],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr
