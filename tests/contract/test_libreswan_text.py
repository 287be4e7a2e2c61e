"""What the driver writes of a tunnel, however hostile, and what is then read of it.

The readers are libreswan's own, for connections, and the driver's, for its record.
"""

from __future__ import annotations

import re
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovn_ipsec.drivers import libreswan_text as text
from ovn_ipsec.errors import DriverError
from ovn_ipsec.model.conns import (
    CertificateAuth,
    Protocol,
    PskAuth,
    Secret,
    TunnelConfig,
    connection_name,
)
from tests.contract.pluto_daemon import LOCAL, PEER, config

pytestmark = pytest.mark.contract

HOSTILE = st.text(
    st.sampled_from(" \"'\\#={}[]%@\n\t\0;:/.*$&-éa0\u2028"), min_size=1, max_size=20
)
NAMES = HOSTILE | st.text(min_size=1, max_size=300)
NICKNAMES = st.builds("ovs_certkey_{}".format, NAMES)
TEXT_KEYWORDS = ("ike", "esp", "leftupdown", "rightca", "left", "also", "a\nb")


@st.composite
def hostile_tunnels(draw: st.DrawFn) -> tuple[str, int, TunnelConfig]:
    auth = draw(
        st.one_of(
            st.builds(PskAuth, st.builds(Secret, NAMES)),
            st.builds(CertificateAuth, NAMES, NAMES, NICKNAMES, st.none() | NICKNAMES),
        )
    )
    # 4.10 refuses a number as the value of any text keyword, and says so.
    values = NAMES.filter(lambda value: re.fullmatch("[0-9]+", value) is None)
    keywords = draw(st.lists(st.tuples(st.sampled_from(TEXT_KEYWORDS), values), max_size=1))
    made = TunnelConfig(
        protocol=draw(st.sampled_from(Protocol)),
        port=draw(st.integers(1, 65535)),
        local=LOCAL,
        remote=PEER,
        auth=auth,
        keywords=tuple(keywords),
        lead=draw(st.booleans()),
    )
    return draw(NAMES), draw(st.integers(1, 10**6)), made


def described(name: str, made: TunnelConfig) -> list[str]:
    """What libreswan's own reader must make of one connection: the lines that decide."""
    lines = [f"conn {name}", f"left={LOCAL}", f"right={PEER}"]
    for key, value in made.keywords:
        if key == "leftupdown":
            lines.append(f"leftupdown={value}")
    return [*lines, "auto=start" if made.lead else "auto=add"]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(hostile_tunnels(), min_size=10, max_size=30))
def test_whatever_is_written_libreswan_reads_back_as_intended_and_nothing_else(
    tunnels: list[tuple[str, int, TunnelConfig]],
) -> None:
    texts: list[str] = []
    expected: list[str] = []
    seen: set[str] = set()
    for name, version, made in tunnels:
        names = [connection_name(name, role, version) for role in made.selectors()]
        try:
            written = text.render_connections(name, version, made)
        except DriverError:
            continue
        if not seen.intersection(names):
            seen.update(names)
            texts.append(written)
            for each in names:
                expected += described(each, made)
    done = subprocess.run(
        ["/usr/libexec/ipsec/readwriteconf", "--config", "/dev/stdin"],
        input=text.join_batch(texts).encode(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    # 5.2 runs "auto=", "type=" and the next keyword together on one line.
    read = done.stdout.decode().replace("auto=\ttype=\t", "").split("\n")
    deciding = ("conn ", "left=", "right=", "leftupdown=", "auto=start", "auto=add")
    # A value with a space in it comes back in quotes, and no value of ours has quotes in it.
    got = [
        line.strip("\t").replace('leftupdown="', "leftupdown=").removesuffix('"')
        for line in read
        if line.strip("\t").startswith(deciding)
    ]
    assert sorted(got) == sorted(line.rstrip("\t") for line in expected)
    assert [line for line in got if line.startswith("conn ")] == [
        line for line in expected if line.startswith("conn ")
    ]


@given(NAMES, st.integers(1, 10**6), NAMES)
def test_a_record_that_was_written_is_read_back(name: str, version: int, psk: str) -> None:
    made = config(psk=psk)
    try:
        written = text.render_tunnel(name, version, made)
    except DriverError:
        return
    record = text.parse_record(written)
    assert (record.name, record.version, record.digest) == (name, version, made.digest)
