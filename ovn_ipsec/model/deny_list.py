"""Whom a CRL of the authority cuts off by name (docs/ca.md). Pure."""

from __future__ import annotations

from cryptography import x509

DENIED_NAMES = x509.ObjectIdentifier("2.25.225450601092314812325761805458760574043")
"""The extension that names revoked nodes: a DER UTF8String, names in lower case, one a line."""

_UTF8_STRING = 0x0C


def denied_names(extensions: x509.Extensions) -> frozenset[str]:
    """The names, in lower case; none without the extension. Raises ValueError: it is damaged."""
    try:
        value = extensions.get_extension_for_oid(DENIED_NAMES).value
    except x509.ExtensionNotFound:
        return frozenset()
    if not isinstance(value, x509.UnrecognizedExtension):
        raise ValueError("not an extension of ours")
    lines = _utf8_string(value.value).split("\n")
    return frozenset(line.strip().lower() for line in lines if line.strip())


def _utf8_string(der: bytes) -> str:
    """The content of a DER UTF8String that fills ``der``. Raises ValueError."""
    if len(der) < 2 or der[0] != _UTF8_STRING:
        raise ValueError("not a UTF8String")
    size, start = der[1], 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(der[2:start], "big")
    if len(der) != start + size:
        raise ValueError("a UTF8String of another length")
    return der[start:].decode()
