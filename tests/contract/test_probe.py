"""verify's probes between two network namespaces: sockets, filter and kernel are real.

Nothing is encrypted here, for the kernel need not know ESP: tests/system has that.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.two_plutos import TwoPlutos

pytestmark = pytest.mark.contract

PROBE = """
import json, sys, time
from ovn_ipsec.verify.probe import Prober
from ovn_ipsec.verify.ways import Way
local, peer, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
tunnels = [("udp", 6081), ("udp", 4789), ("gre", None)]
ways = [Way(local, peer, protocol, port) for protocol, port in tunnels]
prober = Prober(ways, seconds)
time.sleep(seconds)
prober.close()
told = {f"{way.protocol} {way.port}": [one.sent, one.back, one.error]
        for way, one in prober.probed.items()}
print(json.dumps(told))
"""


@pytest.fixture
def two(tmp_path: Path) -> Iterator[TwoPlutos]:
    with TwoPlutos(tmp_path) as plutos:
        for number, end in enumerate(plutos.ends, 1):
            ip = [*end.enter, "ip", "addr", "add", f"2001:db8::{number}/64", "nodad", "dev"]
            links = json.loads(subprocess.check_output([*end.enter, "ip", "-json", "addr"]))
            (link,) = (
                link["ifname"]
                for link in links
                if end.address in (each.get("local") for each in link["addr_info"])
            )
            subprocess.run([*ip, link], check=True)
        yield plutos


def start(enter: list[str], *words: str) -> subprocess.Popen[str]:
    argv = [*enter, sys.executable, "-c", PROBE, *words]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("ipv6", [False, True])
def test_probes_come_back_while_the_peer_probes_too_and_only_then(
    two: TwoPlutos, ipv6: bool
) -> None:
    left, right = two.ends
    ends = ("2001:db8::1", "2001:db8::2") if ipv6 else (left.address, right.address)
    other = start(right.enter, ends[1], ends[0], "8")
    mine = start(left.enter, ends[0], ends[1], "5")
    told: dict[str, Any] = json.loads(mine.communicate(timeout=60)[0])
    assert set(told) == {"udp 6081", "udp 4789", "gre None"}
    assert all(sent >= 3 and back >= 2 and not error for sent, back, error in told.values()), told
    assert json.loads(other.communicate(timeout=60)[0])["udp 6081"][1] >= 1
    alone = start(left.enter, ends[0], ends[1], "2")
    told = json.loads(alone.communicate(timeout=60)[0])
    assert all(sent >= 1 and back == 0 for sent, back, _ in told.values()), told
