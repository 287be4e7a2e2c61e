"""Tunnel rows with an IPsec option -> wanted tunnels: a connection each, or the reason why not.

A row asks for IPsec when its options hold ``psk``, ``remote_cert`` or ``remote_name``, whatever
their value: an empty one is a mistake to report, never a plain tunnel. What is wrong with one row
never touches another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from ovn_ipsec.desired.credentials import CredentialVerdict, name_problem
from ovn_ipsec.desired.endpoints import Endpoints, family_name, resolve_endpoints
from ovn_ipsec.desired.invalid import Invalid
from ovn_ipsec.desired.options import PREFIX, judge_options, shown
from ovn_ipsec.desired.revocation import RevocationVerdict
from ovn_ipsec.model.causes import CauseCode, Problem, code_of
from ovn_ipsec.model.conns import (
    IPSEC_OPTIONS,
    Auth,
    CertificateAuth,
    Protocol,
    PskAuth,
    Secret,
    TunnelConfig,
    TunnelView,
    WantedTunnel,
)
from ovn_ipsec.model.facts import TunnelFact

DEFAULT_PORTS: Mapping[str, tuple[Protocol, int | None]] = {
    "geneve": (Protocol.UDP, 6081),
    "vxlan": (Protocol.UDP, 4789),
    "stt": (Protocol.TCP, 7471),
    "gre": (Protocol.GRE, None),
}
"""Tunnel type -> its protocol and destination port where the row names none (vswitchd)."""

IKE_PORTS = frozenset({500, 4500})
"""No tunnel can have these: pluto talks to its peers there (RFC 7296 section 2)."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", re.ASCII)
"""Of an interface: what can be part of a connection's name and of a file's."""
_STRONG_PSK_BYTES = 16
"""Shorter ones are refused in FIPS mode with SHA2_256 (pluto's own limit)."""
_MOST_PSK_BYTES = 900
"""What a line of pluto's secrets file holds as hex."""

_CRYPTO = {"ike": "aes_gcm256-sha2_256", "esp": "aes_gcm256"}
"""As the original has it; both ends must agree (COMPAT)."""
_BASE = {
    # 5.x warns that it is now called keyexchange= and obeys (DECISIONS 10).
    "ikev2": "yes",
    # Transport mode needs no routes; the script costs 20 to 50 ms per connection and event.
    "leftupdown": "%disabled",
    # Liveness (RFC 7296 section 2.4): after 10 s without an inbound packet the peer is asked, and
    # counts as dead after 15 s without an answer (the default is 60 s). Requests are repeated
    # after 0.5, 1, 2, 4 and 8 s, and only then is the time looked at: 16 s would mean 31.5 s.
    "dpddelay": "10s",
    "retransmit-timeout": "15s",
    # What 4.x does then: forget that IKE SA and its child SAs, and no newer ones. "restart" cuts
    # the newer ones, too, which a peer whose pluto was replaced has made meanwhile, and asks for
    # new ones over the dead IKE SA; "hold", the default, leaves both ends waiting for traffic.
    # The lead's pluto then initiates by itself. 5.x always does so, and ignores the word.
    "dpdaction": "clear",
}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all rows of a node share."""

    credentials: CredentialVerdict
    rightca: str = "%same"
    """For connections to CA-signed peers (DECISIONS 4)."""
    other_config: Mapping[str, str] = field(default_factory=dict)
    local_addresses: Mapping[str, str | None] = field(default_factory=dict)
    use_default_crypto: bool = False
    revocation: RevocationVerdict = field(default_factory=RevocationVerdict)


def wants_ipsec(tunnel: TunnelFact) -> bool:
    """Whether the row has an IPsec option."""
    return not IPSEC_OPTIONS.isdisjoint(tunnel.options)


def addresses_to_look_up(tunnels: Iterable[TunnelFact]) -> frozenset[str]:
    """What ``Facts.local_addresses`` must hold: remote ends, and local ends that rows name."""
    options = [tunnel.options for tunnel in tunnels if wants_ipsec(tunnel)]
    return frozenset(
        row[key] for row in options for key in ("remote_ip", "local_ip") if row.get(key)
    )


def build_tunnel(tunnel: TunnelFact, around: Surroundings) -> WantedTunnel:
    """The wanted tunnel of one row that ``wants_ipsec``; never raises."""
    view = _view(tunnel, around)
    warnings: list[str] = []
    interface = f"interface {shown_name(tunnel.name)}"
    revoked = around.revocation.revoked_peer(tunnel.options)
    if revoked is not None:
        text = f"{interface}: peer {_shown_peer(revoked)} is revoked; no connection is kept"
        problem = Problem(text, CauseCode.PEER_REVOKED)
        return WantedTunnel(tunnel.name, view, None, problem, withdrawn=True)
    try:
        config = _config(tunnel, around, warnings)
    except Invalid as invalid:
        problem = Problem(f"{interface}: {invalid}", code_of(invalid.problem))
        return WantedTunnel(tunnel.name, view, None, problem, tuple(warnings))
    return WantedTunnel(tunnel.name, view, config, None, tuple(warnings))


Ends = tuple[str | None, str | None]
"""From which local address the remote end is reached, and from which the local one."""


class TunnelRows:
    """What each row became, so that of a thousand only those that changed are built again."""

    def __init__(self) -> None:
        self._shared: Surroundings | None = None
        self._known: dict[str, tuple[TunnelFact, Ends, WantedTunnel]] = {}

    def build(
        self, tunnels: Iterable[TunnelFact], around: Surroundings
    ) -> dict[str, WantedTunnel]:
        """The wanted tunnels of rows that ``wants_ipsec``, as ``build_tunnel`` makes them."""
        shared = replace(around, local_addresses={})
        before = self._known if shared == self._shared else {}
        self._shared, self._known = shared, {}
        routes = around.local_addresses
        for tunnel in tunnels:
            get = tunnel.options.get
            ends = routes.get(get("remote_ip", ""), ""), routes.get(get("local_ip", ""), "")
            known = before.get(tunnel.name)
            # A source that read nothing new of a row hands out the same object.
            same = known is not None and (known[0] is tunnel or known[0] == tunnel)
            if known is None or not same or known[1] != ends:
                known = (tunnel, ends, build_tunnel(tunnel, around))
            self._known[tunnel.name] = known
        return {name: known[2] for name, known in self._known.items()}


def shown_name(name: str) -> str:
    """An interface's name for a message."""
    return name if _NAME.fullmatch(name) else shown(name)


def _shown_peer(name: str) -> str:
    return name if name_problem(name) is None else shown(name)


def _config(tunnel: TunnelFact, around: Surroundings, warnings: list[str]) -> TunnelConfig:
    if _NAME.fullmatch(tunnel.name) is None:
        raise Invalid(
            "its name cannot be part of a connection's name; use 1 to 100 letters, digits, "
            "'_', '.' and '-', with a letter or digit first"
        )
    if tunnel.datapath_type == "netdev":
        raise Invalid(
            "userspace datapath: neither IPsec nor guard applies; put the tunnel on a bridge "
            "with datapath_type=system"
        )
    protocol, port = tunnel_port(tunnel.type, tunnel.options.get("dst_port"))
    ends = resolve_endpoints(tunnel.options, around.local_addresses)
    auth = _auth(tunnel.options, around, warnings)
    lead = _leads(auth, ends)
    keywords = _keywords(tunnel, auth, around, warnings)
    return TunnelConfig(
        protocol=protocol,
        port=port,
        local=str(ends.local),
        remote=str(ends.remote),
        auth=auth,
        keywords=keywords,
        lead=lead,
    )


def tunnel_port(kind: str, text: str | None) -> tuple[Protocol, int | None]:
    """Protocol and destination port of a row by its type and dst_port; Invalid: not usable."""
    if kind not in DEFAULT_PORTS:
        raise Invalid(f"type {shown(kind)} cannot be protected; use geneve, vxlan or gre")
    protocol, port = DEFAULT_PORTS[kind]
    if text is None or port is None:
        return protocol, port
    if re.fullmatch(r"[0-9]{1,5}", text, re.ASCII) is None or not 0 < int(text) < 65536:
        raise Invalid(f"options:dst_port={shown(text)} is not a port; set 1 to 65535 or remove it")
    if protocol is Protocol.UDP and int(text) in IKE_PORTS:
        raise Invalid(f"options:dst_port={text} is IKE's own port; choose another")
    return protocol, int(text)


def _auth(options: Mapping[str, str], around: Surroundings, warnings: list[str]) -> Auth:
    if "psk" in options:
        if "remote_cert" in options or "remote_name" in options:
            raise Invalid(
                "options:psk is set together with remote_cert or remote_name; keep only one way "
                "to authenticate"
            )
        return _psk_auth(options["psk"], warnings)
    verdict = around.credentials
    if "remote_cert" not in options:
        if verdict.ca_problem is not None:
            raise Invalid(verdict.ca_problem)
        return _certificate_auth(verdict, options["remote_name"], None)
    path, named = options["remote_cert"], options.get("remote_name")
    peer = verdict.peers.get(path)
    if peer is None:
        raise Invalid(
            f"options:remote_cert={shown(path)} has not been read; name a PEM file that exists "
            "on this node"
        )
    if peer.problem is not None or peer.common_name is None:
        raise Invalid(peer.problem or f"options:remote_cert={shown(path)} holds no common name")
    if named is not None and named.lower() != peer.common_name.lower():
        raise Invalid(
            f"options:remote_name={shown(named)} is not the name in options:remote_cert, "
            f"{peer.common_name}; remove it or correct it"
        )
    return _certificate_auth(verdict, peer.common_name, peer.nickname)


def _psk_auth(psk: str, warnings: list[str]) -> PskAuth:
    """The value itself must never reach a message."""
    if not psk:
        raise Invalid("options:psk is empty; set a key, the same on both ends")
    if any(not character.isprintable() for character in psk):
        raise Invalid(
            "options:psk holds a control character (a newline?); set a key of printable characters"
        )
    length = len(psk.encode())
    if length > _MOST_PSK_BYTES:
        raise Invalid(f"options:psk is longer than {_MOST_PSK_BYTES} bytes; set a shorter key")
    if length < _STRONG_PSK_BYTES:
        warnings.append(
            f"options:psk is shorter than {_STRONG_PSK_BYTES} bytes and may be guessed"
        )
    return PskAuth(Secret(psk))


def _certificate_auth(
    verdict: CredentialVerdict, remote_name: str, remote_nickname: str | None
) -> CertificateAuth:
    refused = name_problem(remote_name)
    if refused is not None:
        raise Invalid(
            f"options:remote_name {refused}; set the common name of the peer's certificate"
        )
    if verdict.problem is not None or not verdict.local_name or not verdict.local_nickname:
        raise Invalid(verdict.problem or "this node's certificate holds no common name")
    if remote_name.lower() == verdict.local_name.lower():
        raise Invalid(
            f"the peer's name, {remote_name}, is this node's own; every node needs a name (and a "
            "certificate) of its own"
        )
    return CertificateAuth(
        local_name=verdict.local_name,
        remote_name=remote_name,
        local_nickname=verdict.local_nickname,
        remote_nickname=remote_nickname,
    )


def _keywords(
    tunnel: TunnelFact, auth: Auth, around: Surroundings, warnings: list[str]
) -> tuple[tuple[str, str], ...]:
    verdict = judge_options(tunnel.options)
    warnings.extend(verdict.warnings)
    if verdict.problem is not None:
        raise Invalid(verdict.problem)
    keywords = dict(_BASE)
    if not around.use_default_crypto:
        keywords.update(_CRYPTO)
    if isinstance(auth, CertificateAuth):
        if around.credentials.key_is_ecdsa:
            # By default libreswan signs with RSA alone, though it accepts either. With this word
            # it takes ECDSA alone from the peer, too: there is none for one of each.
            keywords["authby"] = "ecdsa"
        if auth.remote_nickname is None:
            keywords["rightca"] = around.rightca
    keywords.update(verdict.keywords)
    return tuple(keywords.items())


def _leads(auth: Auth, ends: Endpoints) -> bool:
    """Exactly one of the two ends initiates; each computes the opposite of the other."""
    if isinstance(auth, CertificateAuth):
        return auth.local_name.lower() < auth.remote_name.lower()
    return int(ends.local) < int(ends.remote)


def _view(tunnel: TunnelFact, around: Surroundings) -> TunnelView:
    options, other_config = tunnel.options, around.other_config
    peer = around.credentials.peers.get(options.get("remote_cert", ""))
    return TunnelView(
        type=tunnel.type,
        local_ip=options.get("local_ip", "%defaultroute"),
        remote_ip=options.get("remote_ip", "None"),
        address_family=family_name(options.get("remote_ip"), options.get("local_ip")),
        skb_mark=other_config.get("ipsec_skb_mark"),
        local_cert=other_config.get("certificate"),
        local_name=around.credentials.local_name,
        local_key=other_config.get("private_key"),
        remote_cert=options.get("remote_cert"),
        remote_name=peer.common_name if peer else options.get("remote_name"),
        ca_cert=other_config.get("ca_cert"),
        psk_set="psk" in options,
        options={
            key.removeprefix(PREFIX): value
            for key, value in sorted(options.items())
            if key.startswith(PREFIX)
        },
        ofport=tunnel.ofport,
        cfm_fault=tunnel.cfm_fault,
    )
