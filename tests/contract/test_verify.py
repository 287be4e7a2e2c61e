"""verify's own eyes against the kernel: policies over netlink, packets on a wire."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ovn_ipsec.drivers.xfrm import parse_policies
from tests.contract.two_plutos import TwoPlutos

pytestmark = pytest.mark.contract

PROBE = """
import json, sys, threading, time, socket
from ovn_ipsec.verify.kernel import read_policies, read_states
from ovn_ipsec.verify.capture import capture
peer = sys.argv[1]
def send():
    time.sleep(0.5)
    plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for _ in range(3):
        plain.sendto(b"geneve", (peer, 6081))
    esp = socket.socket(socket.AF_INET, socket.SOCK_RAW, 50)
    for _ in range(2):
        esp.sendto(b"spi.seq.data", (peer, 0))
threading.Thread(target=send).start()
counts = capture({peer}, {6081}, 1.5)
told = {f"{kind.value} {'out' if sent else 'in'}": n for (_, kind, sent), n in counts.items()}
print(json.dumps({"counts": told, "policies": sorted(map(repr, read_policies())),
                  "states": len(read_states())}))
"""


@pytest.fixture
def two(tmp_path: Path) -> Iterator[TwoPlutos]:
    with TwoPlutos(tmp_path) as plutos:
        yield plutos


def test_policies_and_packets_are_seen_as_they_are(two: TwoPlutos) -> None:
    left, right = two.ends
    ip = [*left.enter, "ip", "xfrm", "policy"]
    selectors = [
        f"src {left.address}/32 dst {right.address}/32 proto udp dport 7081 dir out",
        f"src {right.address}/32 dst {left.address}/32 proto udp sport 7081 dir in",
        "src 2001:db8::1/128 dst 2001:db8::/64 proto gre dir out",
    ]
    for selector in selectors:
        template = "tmpl proto esp mode transport level use"
        subprocess.run([*ip, "add", *selector.split(), *template.split()], check=True)
    done = subprocess.run(
        [*left.enter, sys.executable, "-c", PROBE, right.address],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["counts"]["plain out"] == 3
    assert told["counts"]["esp out"] == 2
    listed = subprocess.run([*ip, "list"], capture_output=True, text=True, check=True).stdout
    assert told["policies"] == sorted(map(repr, parse_policies(listed)))
    assert len(told["policies"]) == len(selectors)
