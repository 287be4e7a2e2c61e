"""What is written for libreswan, and what is refused because it could not be written safely."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovn_ipsec.drivers import libreswan_text as text
from ovn_ipsec.drivers.libreswan_adopt import parse_generated
from ovn_ipsec.errors import DriverError
from ovn_ipsec.model.conns import (
    CertificateAuth,
    Ends,
    Protocol,
    PskAuth,
    Secret,
    TunnelConfig,
    connection_name,
    same_connection,
)

PSK = PskAuth(Secret("swordfish"))
CERT = CertificateAuth("left", "right", "ovs_certkey_left", None)


def config(
    auth: PskAuth | CertificateAuth = PSK,
    *,
    keywords: tuple[tuple[str, str], ...] = (("ike", "aes_gcm256-sha2_256"),),
    lead: bool = False,
    remote: str = "10.0.0.2",
) -> TunnelConfig:
    return TunnelConfig(Protocol.UDP, 6081, "10.0.0.1", remote, auth, keywords, lead)


def test_a_geneve_tunnel_is_two_connections_with_the_wire_contract_selectors() -> None:
    assert text.render_connections("ovn-b-0", 2, config(lead=True)) == (
        "conn ovn-b-0-in-2\n"
        "\tleftprotoport=udp/6081\n"
        "\trightprotoport=udp\n"
        "\tleft=10.0.0.1\n"
        "\tright=10.0.0.2\n"
        "\ttype=transport\n"
        "\tauthby=secret\n"
        "\tike=aes_gcm256-sha2_256\n"
        "\tauto=start\n"
        "\n"
        "conn ovn-b-0-out-2\n"
        "\tleftprotoport=udp\n"
        "\trightprotoport=udp/6081\n"
        "\tleft=10.0.0.1\n"
        "\tright=10.0.0.2\n"
        "\ttype=transport\n"
        "\tauthby=secret\n"
        "\tike=aes_gcm256-sha2_256\n"
        "\tauto=start\n"
    )


def test_a_certificate_tunnel_names_both_identities_and_no_secret() -> None:
    made = config(CERT)
    written = text.render_connections("t", 1, made)
    for line in ("leftid=@left", "rightid=@right", "leftcert=ovs_certkey_left"):
        assert f"\t{line}\n" in written
    assert "rightcert" not in written
    assert text.render_secret("t", made) is None


@pytest.mark.parametrize(
    "keywords",
    [
        (("esp", "a\n\tleftupdown=/bin/sh"),),
        (("esp", 'a"b'),),
        (("esp", ""),),
        (("esp\n\tx", "y"),),
        (("left", "1.2.3.4"),),
        (("also", "other"),),
        (("authby", "null"),),
        (("esp", "a"), ("esp", "b")),
    ],
)
def test_an_option_that_would_change_more_than_itself_is_refused(
    keywords: tuple[tuple[str, str], ...],
) -> None:
    with pytest.raises(DriverError, match="tunnel t"):
        text.render_connections("t", 1, config(keywords=keywords))


@pytest.mark.parametrize("name", ["CN=x, O=y", "[x", "#x", "a@b", ""])
def test_a_certificate_name_that_libreswan_reads_as_another_kind_of_id_is_refused(
    name: str,
) -> None:
    with pytest.raises(DriverError, match="certificate name"):
        text.render_connections("t", 1, config(CertificateAuth("a", name, "ovs_certkey_a")))


@pytest.mark.parametrize("name", ["#1", "$1", 'a"b', "a\nb", "\0"])
def test_an_interface_name_that_cannot_name_a_connection_is_refused(name: str) -> None:
    with pytest.raises(DriverError, match="rename"):
        text.render_connections(name, 1, config())


def test_ends_of_two_families_are_refused() -> None:
    with pytest.raises(DriverError, match="family"):
        text.render_connections("t", 1, config(remote="fd00::1"))


def test_libreswans_complaint_about_a_secret_is_repeated_without_it() -> None:
    said = (
        '003 "/etc/a.secrets" line 1: PSK data malformed (input ends in mid-byte): 0x7878\n'
        'ERROR "/etc/a.secrets" line 2: index "7878" not a numeric IPv4 or IPv6 address'
    )
    assert "7878" not in text.hide_secrets(said)


@given(st.sets(st.text(max_size=300), min_size=2))
def test_every_tunnel_has_a_file_of_its_own_in_our_directory(names: set[str]) -> None:
    stems = {text.file_stem(name) for name in names}
    assert len(stems) == len(names)
    for stem in stems:
        assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}", stem)


@pytest.mark.parametrize(("auth", "peer"), [(CERT, "right"), (PSK, None)])
def test_record_tells_whom_the_connections_authenticate(
    auth: PskAuth | CertificateAuth, peer: str | None
) -> None:
    assert text.parse_record(text.render_tunnel("t", 1, config(auth))).peer_name == peer


@pytest.mark.parametrize("cut", range(0, 400, 23))
def test_a_truncated_file_is_no_record(cut: int) -> None:
    whole = text.render_tunnel("t", 1, config())
    with pytest.raises(DriverError):
        text.parse_record(whole[: min(cut, len(whole) // 3)])


GENEVE = config()
GRE = replace(GENEVE, protocol=Protocol.GRE, port=None)


@pytest.mark.parametrize(
    "conf", [GENEVE, GRE, replace(GENEVE, local="fd00::1", remote="fd00:0::2")]
)
def test_record_tells_which_traffic_its_connections_are_for(conf: TunnelConfig) -> None:
    written = text.render_tunnel("t", 2, conf, ["t-in-1", "t-out-1"])
    record = text.parse_record(written)
    assert record.ends == Ends(
        conf.protocol, conf.port, conf.local, conf.remote.replace(":0::", "::")
    )
    roles = conf.selectors()
    assert record.connections == {connection_name("t", role, 2) for role in roles}
    assert record.replaced == {"t-in-1", "t-out-1"}


def test_record_of_the_first_release_is_understood() -> None:
    old = text.render_tunnel("t", 2, GENEVE).replace('"replaces": [], ', "")
    assert "replaces" not in old
    assert text.parse_record(old) == text.parse_record(text.render_tunnel("t", 2, GENEVE))


@pytest.mark.parametrize("line", ["leftprotoport=", "left=", "right="])
def test_file_whose_connections_do_not_say_what_they_are_for_is_no_record(line: str) -> None:
    with pytest.raises(DriverError, match="damaged"):
        text.parse_record(text.render_tunnel("t", 2, GENEVE).replace(line, "x" + line))


# As ovs-monitor-ipsec of Open vSwitch 3.1 lays its files out.
GENERATED_CONF = """\
# Generated by ovs-monitor-ipsec...do not modify by hand!

config setup
    uniqueids=yes

conn %default
    keyingtries=%forever
    type=transport
    auto=route
    ike=aes_gcm256-sha2_256
    esp=aes_gcm256
    ikev2=insist

conn tun-b-in-3
    left=%defaultroute
    right=10.0.0.2
    authby=secret
    leftprotoport=udp/6081
    rightprotoport=udp

conn tun-b-out-3
    left=%defaultroute
    right=10.0.0.2
    authby=secret
    leftprotoport=udp
    rightprotoport=udp/6081

conn g-1-7
    left=10.0.0.1
    right=10.0.0.3
    leftid=@left
    rightid=@right
    leftcert="ovs_certkey_left"
    leftrsasigkey=%cert
    rightca=%same
    leftprotoport=gre
    rightprotoport=gre

"""
GENERATED_SECRETS = """\
# Generated by ovs-monitor-ipsec...do not modify by hand!

%any 10.0.0.2 : PSK "swordfish"
"""


def test_the_originals_tunnels_are_recognised_for_adoption() -> None:
    found = parse_generated(GENERATED_CONF, GENERATED_SECRETS)
    assert {(f.name, f.version, f.digest) for f in found.values()} == {
        ("tun-b", 3, ""),
        ("g-1", 7, ""),
    }
    psk = found["tun-b"].config
    assert psk is not None and same_connection(psk, config())
    assert not same_connection(psk, config(PskAuth(Secret("other"))))
    assert not same_connection(psk, config(remote="10.0.0.9"))
    gre = found["g-1"].config
    wanted = TunnelConfig(Protocol.GRE, None, "10.0.0.1", "10.0.0.3", CERT, ())
    assert gre is not None and same_connection(gre, wanted)
    assert (found["tun-b"].peer_name, found["g-1"].peer_name) == (None, "right")


def test_the_originals_gre_tunnel_named_like_a_role_is_recognised_as_itself() -> None:
    conf = GENERATED_CONF.replace("conn g-1-7", "conn tun-b-in-7")
    found = parse_generated(conf, GENERATED_SECRETS)
    assert {name: record.connections for name, record in found.items()} == {
        "tun-b": {"tun-b-in-3", "tun-b-out-3"},
        "tun-b-in": {"tun-b-in-7"},
    }


@pytest.mark.parametrize("end", ["left=10.0.0.1", "right=10.0.0.3"])
def test_the_originals_connection_between_names_instead_of_addresses_is_not_adopted(
    end: str,
) -> None:
    conf = GENERATED_CONF.replace(end, end.partition("=")[0] + "=node.example")
    assert parse_generated(conf, GENERATED_SECRETS).keys() == {"tun-b"}
