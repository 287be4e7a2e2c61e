"""The ``ipsec_*`` options: what is written, what only warns, what makes a tunnel INVALID."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovn_ipsec.desired.options import FORBIDDEN, TABLE, judge_options
from ovn_ipsec.desired.proposals import canonical_esp, canonical_ike

_WRITABLE = re.compile(r"[A-Za-z0-9_+,%-]+", re.ASCII)
_KEYS = {option.key for option in TABLE}


@pytest.mark.parametrize(
    ("given_options", "keywords"),
    [
        ({"ipsec_encapsulation": "yes"}, {"encapsulation": "yes"}),
        ({"ipsec_encapsulation": "true"}, {"encapsulation": "yes"}),
        ({"ipsec_forceencaps": "yes"}, {"encapsulation": "yes"}),
        ({"ipsec_forceencaps": "no"}, {}),
        (
            {"ipsec_forceencaps": "yes", "ipsec_encapsulation": "no"},
            {"encapsulation": "no"},
        ),
        ({"ipsec_ikelifetime": "3600"}, {"ikelifetime": "3600s"}),
        ({"ipsec_keylife": "8h"}, {"salifetime": "28800s"}),
        ({"ipsec_retransmit-interval": "500ms"}, {"retransmit-interval": "500ms"}),
        ({"ipsec_rekeyfuzz": "50%"}, {"rekeyfuzz": "50%"}),
        (
            {"ipsec_ike": "AES_GCM256-SHA2_256;DH31", "ipsec_esp": "aes_gcm256"},
            {"esp": "aes_gcm256", "ike": "aes_gcm256-sha2_256-dh31"},
        ),
        ({"remote_ip": "192.0.2.1", "psk": "x", "key": "flow"}, {}),
    ],
)
def test_option_becomes_a_keyword(given_options: dict[str, str], keywords: dict[str, str]) -> None:
    verdict = judge_options(given_options)
    assert verdict.problem is None
    assert dict(verdict.keywords) == keywords


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ipsec_ikelifetime", "banana"),
        ("ipsec_ikelifetime", "1"),
        ("ipsec_replay-window", "0"),
        ("ipsec_encapsulation", "yes\nleftupdown=/bin/sh"),
        ("ipsec_rekey", "yes #"),
        ("ipsec_dpddelay", "10s\n"),
        ("ipsec_dpddelay", "\u0661s"),
        ("ipsec_some-new-word", "x"),
    ],
)
def test_harmless_mistake_warns_and_the_tunnel_stays_up(key: str, value: str) -> None:
    verdict = judge_options({key: value})
    assert verdict.problem is None
    assert verdict.keywords == ()
    assert len(verdict.warnings) == 1
    assert key in verdict.warnings[0]
    assert "\n" not in verdict.warnings[0]


@pytest.mark.parametrize(
    "key",
    ["leftupdown", "LeftUpdown", "rightid", "left", "xauthby", "auto\nconn x", "ike=", "", "a b"]
    + sorted(FORBIDDEN),
)
def test_dangerous_word_makes_the_tunnel_invalid(key: str) -> None:
    verdict = judge_options({f"ipsec_{key}": "x", "ipsec_rekey": "yes"})
    assert verdict.problem is not None
    assert "is not allowed" in verdict.problem
    assert verdict.keywords == ()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ipsec_esp", "null-sha1"),
        ("ipsec_esp", "null_auth_aes_gmac256"),
        ("ipsec_esp", "aes_gcm256,null-sha2_256"),
        ("ipsec_esp", "aes256-none"),
        ("ipsec_phase2alg", "null-sha1"),
        ("ipsec_ike", "3des-md5-modp1024"),
        ("ipsec_ike", "aes_gcm256-sha2_256\nleftupdown=x"),
        ("ipsec_ike", ""),
        ("ipsec_ike", "aes_gcm256-" * 100),
        ("ipsec_ppk", "insits"),
    ],
)
def test_value_whose_default_could_be_weaker_makes_the_tunnel_invalid(
    key: str, value: str
) -> None:
    verdict = judge_options({key: value})
    assert verdict.problem is not None
    assert key in verdict.problem
    assert verdict.keywords == ()


@settings(deadline=None)
@given(
    st.dictionaries(
        st.one_of(
            st.sampled_from([f"ipsec_{key}" for key in [*_KEYS, "forceencaps", "keylife"]]),
            st.text().map(lambda text: f"ipsec_{text}"),
            st.text(),
        ),
        st.one_of(
            st.text(),
            st.sampled_from(
                ["yes", "no", "10s", "50%", "64", "aes_gcm256", "aes256-sha2_256-dh19"]
            ),
            st.from_regex(r"[a-z0-9_,;+-]{1,20}", fullmatch=True),
        ),
    )
)
def test_only_table_keywords_with_plain_values_come_out_of_arbitrary_options(
    options: dict[str, str],
) -> None:
    verdict = judge_options(options)
    assert not (verdict.problem and verdict.keywords)
    assert len({key for key, _ in verdict.keywords}) == len(verdict.keywords)
    for key, value in verdict.keywords:
        assert key in _KEYS
        assert _WRITABLE.fullmatch(value)
    for text in (*verdict.warnings, verdict.problem or ""):
        assert text.isprintable()
        assert text.isascii()


@settings(deadline=None)
@given(st.from_regex(r"[a-z0-9_,;+-]{1,40}", fullmatch=True))
def test_accepted_proposals_hold_no_null_and_are_stable(text: str) -> None:
    for canonical in (canonical_ike, canonical_esp):
        try:
            first = canonical(text)
        except ValueError:
            continue
        assert "null" not in first
        assert canonical(first) == first
