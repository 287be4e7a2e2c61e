"""Two real plutos that fail with each other in every way; the parser must know what they say.

The kernel need not know ESP: what fails, fails before it is asked.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ovn_ipsec.drivers.pluto_log import PlutoLog, log_file
from ovn_ipsec.model.evidence import Symptom
from tests.contract.test_nss import ca, install, node
from tests.contract.two_plutos import Pluto, TwoPlutos
from tools.lab.pki import Authority, KeyType

pytestmark = pytest.mark.contract

PORTS = {"in": ("udp/6081", "udp"), "out": ("udp", "udp/6081")}
OTHER_PORTS = {"in": ("udp/6082", "udp"), "out": ("udp", "udp/6082")}
SHARED = {
    "type": "transport",
    "leftupdown": "%disabled",
    "ikev2": "yes",
    "retransmit-timeout": "15s",
    "ike": "aes_gcm256-sha2_256",
    "esp": "aes_gcm256",
}
PSK = "a key of good length"


@dataclass(frozen=True)
class Case:
    """How the ends differ from two that would get on, and what each has to say."""

    left: Symptom
    right: Symptom | None = None
    psk: str | None = PSK
    """Of the right end; None with certificates."""
    left_words: dict[str, str] = field(default_factory=dict)
    right_words: dict[str, str] = field(default_factory=dict)
    right_ports: dict[str, tuple[str, str]] = field(default_factory=lambda: PORTS)
    lost: str = ""
    """An nftables match: what the right end drops."""


CERTIFICATES = {
    "issuer-unknown": Case(Symptom.REJECTED, Symptom.ISSUER_UNKNOWN, psk=None),
    "peer-expired": Case(Symptom.REJECTED, Symptom.PEER_EXPIRED, psk=None),
    "auth-method": Case(Symptom.AUTH_METHOD, psk=None, left_words={"authby": "ecdsa"}),
    "own-key": Case(Symptom.OWN_KEY, psk=None),
}
CASES = {
    "psk-differs": Case(Symptom.REJECTED, Symptom.PSK_DIFFERS, psk="another key than that"),
    "psk-absent": Case(Symptom.REJECTED, Symptom.PSK_ABSENT, psk=""),
    "ike-offer": Case(
        Symptom.OFFER_REFUSED,
        Symptom.OFFER_UNMATCHED,
        right_words={"ike": "aes256-sha2_512"},
    ),
    "esp-offer": Case(
        Symptom.OFFER_REFUSED,
        Symptom.OFFER_UNMATCHED,
        right_words={"esp": "aes256-sha2_512"},
    ),
    "selectors": Case(
        Symptom.SELECTORS_REFUSED, Symptom.SELECTORS_UNMATCHED, right_ports=OTHER_PORTS
    ),
    "no-connection": Case(Symptom.OFFER_REFUSED, Symptom.NO_CONNECTION, right_ports={}),
    "silent": Case(Symptom.SILENT, lost="udp dport 500"),
    "auth-silent": Case(
        Symptom.AUTH_SILENT,
        left_words={"encapsulation": "yes"},
        right_words={"encapsulation": "yes"},
        lost="udp dport 4500",
    ),
    **CERTIFICATES,
}


@pytest.fixture
def two(tmp_path: Path) -> Iterator[TwoPlutos]:
    with TwoPlutos(tmp_path) as plutos:
        yield plutos


@pytest.mark.parametrize("name", CASES)
def test_each_end_says_its_part_and_is_understood(two: TwoPlutos, name: str) -> None:
    case = CASES[name]
    _prepare(two, name, case)
    two.left.whack("--asynchronous", "--name", "tun-right-out-1", "--initiate")
    _await(two.left, {"tun-right": case.left})
    if case.right is Symptom.NO_CONNECTION:
        _await(two.right, {f"@{two.left.address}": case.right})
    elif case.right is not None:
        _await(two.right, {"tun-left": case.right})


def test_peer_that_has_stopped_refuses(two: TwoPlutos) -> None:
    _prepare(two, "down", Case(Symptom.REFUSED))
    two.right.stop()
    two.left.whack("--asynchronous", "--name", "tun-right-out-1", "--initiate")
    _await(two.left, {"tun-right": Symptom.REFUSED})


def test_log_of_a_pluto_is_found_by_its_command_line(two: TwoPlutos) -> None:
    _prepare(two, "found", Case(Symptom.SILENT))
    assert log_file(two.left.pid, Path("/etc/ipsec.conf")) == two.left.log


def _prepare(two: TwoPlutos, name: str, case: Case) -> None:
    if case.psk is None:
        _install(two, name)
    for end in two.ends:
        if case.psk is not None:
            end.nss_directory.mkdir()
            argv = ["ipsec", "initnss", "--nssdir", str(end.nss_directory)]
            subprocess.run(argv, check=True, capture_output=True)
        end.start()
    if case.psk is not None:
        _share(two.left, PSK, two)
        _share(two.right, case.psk, two)
    _load(two.left, two.right, case, case.left_words, PORTS)
    _load(two.right, two.left, case, case.right_words, case.right_ports)
    if name == "own-key":
        nss = f"sql:{two.left.nss_directory}"
        subprocess.run(["certutil", "-F", "-d", nss, "-n", "ovs_certkey_left"], check=False)
    if name == "peer-expired":
        time.sleep(8)
    if case.lost:
        chain = f"chain i {{\n type filter hook input priority 0\n {case.lost} drop\n}}"
        rules = f"table inet t {{\n{chain}\n}}\n"
        argv = [*two.right.enter, "nft", "-f", "-"]
        subprocess.run(argv, input=rules, text=True, check=True)


def _install(two: TwoPlutos, name: str) -> None:
    one, other = Authority.create("ca one"), Authority.create("ca two")
    left, right = one.issue("left"), one.issue("right")
    if name == "peer-expired":
        left = one.issue("left", starts_in_s=-3600, lasts_s=3607)
    elif name == "auth-method":
        left = one.issue("left", kind=KeyType.P256)
    install(two.left.nss(), *ca(one), node("left", left))
    trusted = other if name == "issuer-unknown" else one
    if name == "issuer-unknown":
        right = other.issue("right")
    install(two.right.nss(), *ca(trusted), node("right", right))


def _share(end: Pluto, psk: str, two: TwoPlutos) -> None:
    line = f'{two.left.address} {two.right.address} : PSK "{psk}"\n' if psk else ""
    (end.directory / "ipsec.secrets").write_text(line)
    end.whack("--rereadsecrets")


def _load(
    end: Pluto,
    peer: Pluto,
    case: Case,
    more: dict[str, str],
    ports: dict[str, tuple[str, str]],
) -> None:
    words = SHARED | {"left": end.address, "right": peer.address}
    if case.psk is None:
        words |= {"leftid": f"@{end.name}", "rightid": f"@{peer.name}", "rightca": "%any"}
        words |= {"leftcert": f"ovs_certkey_{end.name}"}
    else:
        words |= {"authby": "secret"}
    for role, (left, right) in ports.items():
        lines = words | {"leftprotoport": left, "rightprotoport": right} | more
        end.load(f"tun-{peer.name}-{role}-1", lines)


def _await(end: Pluto, expected: dict[str, Symptom]) -> None:
    log = PlutoLog(lambda: end.log)
    deadline = time.monotonic() + 20
    while True:
        failures = log.read("1", time.monotonic(), wanted=True).failures
        found = {key: failure.symptom for key, failure in failures.items()}
        if found == expected:
            return
        assert time.monotonic() < deadline, (end.name, found, end.log.read_text()[-6000:])
        time.sleep(0.2)
