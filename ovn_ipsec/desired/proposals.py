"""IKE and ESP proposals: a conservative grammar of what libreswan 4.10 and 5.2 both take.

``PROPOSAL[,PROPOSAL...]`` with ``ENCRYPTION[-INTEGRITY[-DH]]``; within a part ``+`` joins
alternatives (ipsec.conf(5), ``ike=`` and ``esp=``). The old ``;DH`` is accepted for the last
part. Algorithms that do not encrypt, or are broken, are not in the lists and cannot be asked
for. The text returned contains nothing but names from these lists and ``,-+``.
"""

from __future__ import annotations

import re

_MOST_CHARACTERS = 512

_AEAD = re.compile(r"aes_gcm(_16|_c)?(_?(128|192|256))?|chacha20_poly1305", re.ASCII)
_CIPHER = re.compile(r"(aes|aes_cbc|aes_ctr)(_?(128|192|256))?", re.ASCII)
_HASH = r"sha1|sha2|sha2_(256|384|512)|sha(256|384|512)|aes_xcbc"
_PRF = re.compile(_HASH, re.ASCII)
_INTEGRITY = re.compile(_HASH + "|aes_cmac", re.ASCII)
_DH = re.compile(r"modp(2048|3072|4096|6144|8192)|dh(14|15|16|17|18|19|20|21|31)", re.ASCII)


def _split(proposal: str) -> list[list[str]]:
    return [part.split("+") for part in proposal.replace(";", "-").split("-")]


def _fits(names: list[str], pattern: re.Pattern[str]) -> bool:
    return all(pattern.fullmatch(name) for name in names)


def _check_proposal(parts: list[list[str]], *, ike: bool) -> None:
    """One proposal: cipher, then a hash (``none`` for AEAD in ESP), then a DH group.

    libreswan takes the DH group only behind the middle part.
    """
    encryption, rest = parts[0], parts[1:]
    aead = _fits(encryption, _AEAD)
    if not aead and not _fits(encryption, _CIPHER):
        raise ValueError(f"{_name(encryption)} is not an accepted encryption algorithm")
    if not rest:
        return
    middle, rest = rest[0], rest[1:]
    if aead and not ike:
        if middle != ["none"]:
            raise ValueError(
                f"{_name(encryption)} takes only 'none' as integrity algorithm in ESP"
            )
    elif not _fits(middle, _PRF if ike else _INTEGRITY):
        raise ValueError(f"{_name(middle)} is not an accepted integrity algorithm")
    if rest and not _fits(rest[0], _DH):
        raise ValueError(f"{_name(rest[0])} is not an accepted DH group")
    if rest[1:]:
        raise ValueError(f"{_name(rest[1])} is one part too many")


def _name(names: list[str]) -> str:
    return ascii("+".join(names)[:40])


def _canonical(value: str, *, ike: bool) -> str:
    text = value.strip().lower()
    if not text or len(text) > _MOST_CHARACTERS:
        raise ValueError(f"1 to {_MOST_CHARACTERS} characters")
    proposals = [_split(proposal.strip()) for proposal in text.split(",")]
    for parts in proposals:
        _check_proposal(parts, ike=ike)
    return ",".join("-".join("+".join(part) for part in parts) for parts in proposals)


def canonical_ike(value: str) -> str:
    """The text for ``ike=``; ValueError says which part is not accepted."""
    return _canonical(value, ike=True)


def canonical_esp(value: str) -> str:
    """The text for ``esp=``; ValueError says which part is not accepted."""
    return _canonical(value, ike=False)
