"""Writes libreswan's configuration and secrets, and reads back our own record. Pure.

Formats: ipsec.conf(5) and ipsec.secrets(5). libreswan's lexer (4.10 and 5.2) knows no escape
character: a value in double quotes runs to the next double quote, and an unquoted one ends at
white space. So what cannot be written is refused here, because one bad line makes pluto reject
every connection of every file that it includes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable

from ovn_ipsec.errors import DriverError
from ovn_ipsec.model.conns import (
    Ends,
    InstalledTunnel,
    Protocol,
    PskAuth,
    TunnelConfig,
    connection_name,
)
from ovn_ipsec.model.kernel import canonical_address

HEADER = "# Written by ovn-ipsec, which overwrites changes."
_RECORD = "# ovn-ipsec-record: "
_FORMAT = 1

MAX_PSK_BYTES = 900
"""pluto's secrets lexer takes lines of under 2048 characters; a PSK is written as hex after two
addresses of at most 39 characters."""

_PLAIN_STEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9_.:@%+,/=^-]+")
_KEYWORD = re.compile(r"[a-z][a-z0-9_-]*")
_END_WORDS = ("", "protoport", "id", "cert", "subnet", "subnets")
_STRUCTURAL = frozenset(
    [end + word for end in ("left", "right") for word in _END_WORDS]
    + ["type", "auto", "also", "alsoflip", "connalias"]
)
_END = re.compile(r"^\t(leftprotoport|rightprotoport|left|right)=(\S+)$", re.MULTILINE)
_PEER = re.compile(r'^\trightid="?@([^"\s]+)"?$', re.MULTILINE)
# libreswan reads "#1" and "$1" as a serial number wherever a connection is named.
_SERIAL_PREFIXES = ("#", "$")
# Left of a name these turn "@name" into a key id, a hex id or a raw name (ipsec.conf(5), leftid).
_ID_PREFIXES = ("[", "#", "~", "@")


def file_stem(tunnel: str) -> str:
    """A file name for any tunnel name, one for one: no separators, at most 100 characters."""
    if _PLAIN_STEM.fullmatch(tunnel):
        return tunnel
    digest = hashlib.sha256(tunnel.encode("utf-8", "surrogatepass")).hexdigest()[:24]
    # "x" first: never hidden, never an option.
    readable = "x" + re.sub(r"[^A-Za-z0-9_-]", "_", tunnel)[:40]
    # A plain stem never holds a dot, so the two kinds cannot meet.
    return f"{readable}.{digest}"


def render_index(pattern: str) -> str:
    """The file that pluto's own root file includes; it includes the per-tunnel files."""
    return f"{HEADER}\ninclude {pattern}\n"


def render_root_conf(pattern: str) -> str:
    """A root ipsec.conf that holds nothing of its own, in place of a generated one."""
    return f"{HEADER}\nconfig setup\n\ninclude {pattern}\n"


def render_tunnel(
    tunnel: str, version: int, config: TunnelConfig, replaces: Iterable[str] = ()
) -> str:
    """The per-tunnel file: our record, then the connections. Raises DriverError.

    ``replaces``: names of connections that are deleted once this is written.
    """
    record = {
        "digest": config.digest,
        "format": _FORMAT,
        "replaces": sorted(replaces),
        "tunnel": tunnel,
        "version": version,
    }
    line = _RECORD + json.dumps(record, sort_keys=True)
    return f"{HEADER}\n{line}\n\n{render_connections(tunnel, version, config)}"


def render_connections(tunnel: str, version: int, config: TunnelConfig) -> str:
    """The ``conn`` sections of one tunnel. Raises DriverError when one cannot be written."""
    shared = _shared_lines(tunnel, config)
    texts: list[str] = []
    for role, selector in config.selectors().items():
        name = connection_name(tunnel, role, version)
        left = _protoport(selector.protocol, selector.local_port)
        right = _protoport(selector.protocol, selector.remote_port)
        lines = [
            f"conn {_conn_word(name)}",
            f"\tleftprotoport={left}",
            f"\trightprotoport={right}",
        ]
        texts.append("\n".join(lines + shared) + "\n")
    return "\n".join(texts)


def _shared_lines(tunnel: str, config: TunnelConfig) -> list[str]:
    local, remote = _address(tunnel, config.local), _address(tunnel, config.remote)
    if (":" in local) != (":" in remote):
        raise DriverError(f"tunnel {tunnel}: {local} and {remote} are not of one address family")
    pairs = [("left", local), ("right", remote), ("type", "transport")]
    auth = config.auth
    if isinstance(auth, PskAuth):
        pairs.append(("authby", "secret"))
    else:
        pairs += [
            ("leftid", "@" + _identity(tunnel, auth.local_name)),
            ("rightid", "@" + _identity(tunnel, auth.remote_name)),
            ("leftcert", auth.local_nickname),
        ]
        if auth.remote_nickname is not None:
            pairs.append(("rightcert", auth.remote_nickname))
    taken = {key for key, _ in pairs} | _STRUCTURAL
    for key, value in config.keywords:
        if not _KEYWORD.fullmatch(key) or key in taken:
            raise DriverError(
                f"tunnel {tunnel}: connection option {key!r} is not one that can be given, or is"
                " given twice; remove it from the tunnel's ipsec_ options"
            )
        taken.add(key)
        pairs.append((key, value))
    pairs.append(("auto", "start" if config.lead else "add"))
    return [f"\t{key}={_value_word(tunnel, key, value)}" for key, value in pairs]


def render_secret(tunnel: str, config: TunnelConfig) -> str | None:
    """A tunnel's line of ipsec.secrets(5), or None when it has no secret. Raises DriverError."""
    if not isinstance(config.auth, PskAuth):
        return None
    # Hex needs no quoting, and equals the quoted text that other programs write for the same
    # PSK, since libreswan takes both as the bytes of the key.
    psk = config.auth.psk.reveal().encode("utf-8", "surrogatepass")
    if not 0 < len(psk) <= MAX_PSK_BYTES:
        raise DriverError(
            f"tunnel {tunnel}: the PSK has {len(psk)} bytes; libreswan takes 1 to {MAX_PSK_BYTES}"
        )
    local, remote = _address(tunnel, config.local), _address(tunnel, config.remote)
    return f"{local} {remote} : PSK 0x{psk.hex()}"


def hide_secrets(text: str) -> str:
    """libreswan quotes a secret that it cannot read in its complaint; nothing may repeat it."""
    return re.sub(r'(0[xs])\S+|index ".*"', "<hidden>", text)


def parse_record(text: str) -> InstalledTunnel:
    """Our own record out of a per-tunnel file. Raises DriverError: absent or damaged."""
    for line in text.splitlines():
        if line.startswith(_RECORD):
            break
    else:
        raise DriverError("it holds no record of ours")
    try:
        record = json.loads(line.removeprefix(_RECORD))
        name, version, digest = record["tunnel"], record["version"], record["digest"]
        replaced = frozenset(record.get("replaces", ()))  # not in the first releases'
        if record["format"] != _FORMAT:
            raise DriverError(f"its record has the unknown format {record['format']!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise DriverError("its record is damaged") from error
    if not (isinstance(name, str) and isinstance(version, int) and isinstance(digest, str)):
        raise DriverError("its record is damaged")
    if "\nconn " not in text or not text.endswith("\n"):
        raise DriverError("its connections are missing")
    peer = _PEER.search(text)
    return InstalledTunnel(
        *(name, version, digest, _ends(text)),
        replaced=replaced,
        peer_name=peer[1] if peer else None,
    )


def _ends(text: str) -> Ends:
    """What the first of a file's connections is for; the second, if any, says the same."""
    values = dict(reversed(_END.findall(text)))
    try:
        protocol, _, port = values["leftprotoport"].partition("/")
        port = port or values["rightprotoport"].partition("/")[2]
        local, remote = canonical_address(values["left"]), canonical_address(values["right"])
        return Ends(Protocol(protocol), int(port) if port else None, local, remote)
    except (KeyError, ValueError) as error:
        raise DriverError("its connections are damaged") from error


def needs_secret(text: str) -> bool:
    """Whether the connections of this per-tunnel file authenticate by pre-shared key."""
    return "\tauthby=secret\n" in text


def included_patterns(text: str) -> tuple[str, ...]:
    """The patterns of the ``include`` lines of an ipsec.conf or ipsec.secrets."""
    found = re.findall(r"^[ \t]*include[ \t]+(.+?)[ \t]*$", text, re.MULTILINE)
    return tuple(pattern.strip("\"'") for pattern in found)


def join_batch(texts: Iterable[str]) -> str:
    """One configuration out of the files of several tunnels."""
    return "\n".join(texts)


def _protoport(protocol: Protocol, port: int | None) -> str:
    return str(protocol) if port is None else f"{protocol}/{port}"


def _address(tunnel: str, text: str) -> str:
    try:
        address = canonical_address(text)
    except ValueError as error:
        raise DriverError(f"tunnel {tunnel}: {text!r} is not a numeric address") from error
    if "%" in text:
        raise DriverError(f"tunnel {tunnel}: {text!r}: libreswan takes no address with a zone")
    return address


def _identity(tunnel: str, name: str) -> str:
    # A "=" makes libreswan read a distinguished name, "@" inside a user name.
    if not name or name.startswith(_ID_PREFIXES) or "=" in name or "@" in name:
        raise DriverError(
            f"tunnel {tunnel}: the certificate name {name!r} would not be read as a plain name by"
            " libreswan; issue a certificate whose name is a host name or an identifier"
        )
    return name


def _conn_word(name: str) -> str:
    if name.startswith(_SERIAL_PREFIXES) or _unwritable(name) or '"' in name:
        raise DriverError(
            f"tunnel name {name[:80]!r}: libreswan cannot have a connection of this name; rename"
            " the interface"
        )
    return name if _PLAIN_STEM.fullmatch(name) else f'"{name}"'


def _value_word(tunnel: str, key: str, value: str) -> str:
    if _PLAIN_VALUE.fullmatch(value):
        return value
    if not value or _unwritable(value) or '"' in value or "\\" in value:
        raise DriverError(
            f"tunnel {tunnel}: {key}={value[:80]!r} cannot be written into libreswan's"
            " configuration: it is empty or holds a quote, backslash or control character"
        )
    return f'"{value}"'


def _unwritable(text: str) -> bool:
    # isprintable is False for controls, separators other than the space, and lone surrogates.
    return not text.isprintable()
