"""Arbitrary tunnel rows: mostly nonsense, often close enough to something valid to get far."""

from __future__ import annotations

from hypothesis import strategies as st

from ovn_ipsec.model.facts import TunnelFact

_KNOWN_ADDRESSES = ("192.0.2.1", "192.0.2.2", "2001:db8::2", "198.51.100.1", "203.0.113.9")

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True)
ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
TEXTS = st.text(st.characters(), max_size=80)
_OPTIONS = st.dictionaries(
    st.one_of(
        st.sampled_from(
            ["psk", "remote_cert", "remote_name", "remote_ip", "local_ip", "dst_port"]
            + ["ipsec_ike", "ipsec_esp", "ipsec_rekey", "ipsec_leftupdown", "ipsec_auto"]
        ),
        TEXTS,
    ),
    st.one_of(
        st.sampled_from([*_KNOWN_ADDRESSES, "/b.pem", "/bad.pem", "node-b", "flow", "yes"]),
        st.integers(-1, 70000).map(str),
        ADDRESSES,
        TEXTS,
    ),
    max_size=8,
)
TUNNELS = st.builds(
    TunnelFact,
    name=st.one_of(NAMES, TEXTS),
    type=st.one_of(st.sampled_from(["geneve", "vxlan", "gre", "stt"]), TEXTS),
    options=st.builds(
        lambda base, more: {**base, **more},
        st.sampled_from(
            [{}, {"remote_ip": "192.0.2.2", "psk": "sixteen bytes key"}, {"remote_name": "node-b"}]
        ),
        _OPTIONS,
    ),
    datapath_type=st.sampled_from(["system", "netdev"]),
)
