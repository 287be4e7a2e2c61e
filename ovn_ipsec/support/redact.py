"""Hides secrets in texts. Pure.

Two nets: values that are known to be secret are hidden wherever and however they appear, and what
looks like a secret by its surroundings is hidden though nobody knows it.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable

HIDDEN = "<hidden>"
SHORTEST = 6
"""Shorter values are hidden only where their surroundings tell: they are parts of many words."""

# What follows these words in configuration, OVSDB dumps, JSON, environments and command lines.
_WORD = (
    r"(?:psk|ppk|password|passwd|passphrase|passcode|secret|token|credential|bearer|api[_-]?key)"
)
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
            re.DOTALL,
        ),
        HIDDEN,
    ),
    # The end of a key whose beginning was cut off.
    (re.compile(r"\A(?:[A-Za-z0-9+/=]+\s+)*-----END [A-Z ]*PRIVATE KEY-----"), HIDDEN),
    # OVSDB's JSON: ["psk","value"]; the wire form has escapes.
    (re.compile(rf'(\["{_WORD}"\s*,\s*)"(?:[^"\\]|\\.)*"', re.IGNORECASE), rf'\1"{HIDDEN}"'),
    (
        re.compile(
            rf'("[\w.-]{{0,40}}{_WORD}[\w.-]{{0,40}}"\s*:\s*)"(?:[^"\\]|\\.)*"', re.IGNORECASE
        ),
        rf'\1"{HIDDEN}"',
    ),
    # ovs-vsctl, environment and flags: psk="value", TOKEN=value, --password value.
    (
        re.compile(
            rf"(\b[\w.-]{{0,40}}{_WORD}[\w.-]{{0,40}}\s*=\s*)(?:\"(?:[^\"\\]|\\.)*\"|'[^']*'|[^\s,}}&]+)",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(rf"(--[\w-]{{0,40}}{_WORD}[\w-]{{0,40}}\s+)\S+", re.IGNORECASE), rf"\1{HIDDEN}"),
    # ipsec.secrets(5): ADDRESS ADDRESS : PSK "value", or 0x..., 0s..., %v.
    (
        re.compile(r"(:\s*(?:PSK|PPKS|XAUTH|PIN|RSA|ECDSA|PPK_STATIC)\s+)[^\n]*", re.IGNORECASE),
        rf"\1{HIDDEN}",
    ),
    # Of a tunnel's content, its key included, in our own files: keys can be guessed by it.
    (re.compile(r'("digest"\s*:\s*)"[^"]*"'), rf'\1"{HIDDEN}"'),
    # ip-xfrm(8): "aead rfc4106(gcm(aes)) 0x... 128".
    (re.compile(r"((?:enc|auth|auth-trunc|aead|comp) \S+ )0x[0-9a-fA-F]+"), rf"\1{HIDDEN}"),
    (re.compile(r"(Authorization:\s*\w+\s+)\S+", re.IGNORECASE), rf"\1{HIDDEN}"),
    # A JSON web token (RFC 7519), as ServiceAccounts have.
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"), HIDDEN),
)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_SECRETS_LINE = re.compile(r":\s*(?:PSK|PPKS|XAUTH|PIN)\s+(.*?)\s*$", re.IGNORECASE | re.MULTILINE)


class Redactor:
    """Knows secrets and hides them."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms: set[str] = set()
        for secret in secrets:
            if len(secret) >= SHORTEST:
                forms |= _forms(secret)
        # The longest first: one secret may hold another.
        words = sorted((form for form in forms if len(form) >= SHORTEST), key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, words))) if words else None

    def clean(self, text: str) -> str:
        """The text without secrets."""
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text


def secrets_of_file(text: str) -> set[str]:
    """The secrets in a text of ipsec.secrets(5), also as what their hex stands for."""
    found: set[str] = set()
    for match in _SECRETS_LINE.finditer(text):
        words = _QUOTED.findall(match[1]) or match[1].split()
        for word in words:
            found.add(word)
            if word.startswith("0x"):
                found.add(word[2:])
                try:
                    found.add(bytes.fromhex(word[2:]).decode())
                except ValueError:
                    continue
    return found


def secrets_of_key(text: str) -> set[str]:
    """Each line of a PEM private key, which may turn up without its frame."""
    blocks = re.findall(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)-----END", text, re.DOTALL)
    return {line.strip() for block in blocks for line in block.splitlines() if line.strip()}


def secrets_of_rows(text: str) -> set[str]:
    """Values of ``options:psk`` in the JSON of an OVSDB table (RFC 7047, section 5.1)."""
    found: set[str] = set()

    def walk(value: object) -> None:
        if isinstance(value, list):
            if len(value) == 2 and value[0] == "psk" and isinstance(value[1], str):
                found.add(value[1])
            for item in value:
                walk(item)
        elif isinstance(value, dict):
            for item in value.values():
                walk(item)

    try:
        walk(json.loads(text))
    except (ValueError, RecursionError):
        return set()
    return found


def _forms(secret: str) -> set[str]:
    """How the same secret is written elsewhere."""
    data = secret.encode("utf-8", "surrogatepass")
    return {
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        secret.replace("\\", "\\\\").replace('"', '\\"'),
        repr(secret)[1:-1],
        _percent_encoded(data),
        data.hex(),
        data.hex().upper(),
        base64.b64encode(data).decode().rstrip("="),
        secret.strip(),
    }


def _percent_encoded(data: bytes) -> str:
    """RFC 3986, section 2.1."""
    return "".join(
        chr(byte) if chr(byte).isalnum() and byte < 128 or byte in b"-._~/" else f"%{byte:02X}"
        for byte in data
    )
