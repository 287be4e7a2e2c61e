"""The join token's text: ``ID.SECRET.FINGERPRINT``, as the authority hands it out.

The chassis id may have dots; secret and the SHA-256 of the authority's root are unpadded
base64url. The fingerprint makes the first contact safe: only that root is trusted.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode
from dataclasses import dataclass
from hashlib import sha256

from ovn_ipsec.errors import EnrolmentError
from ovn_ipsec.model.conns import Secret


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What a token says."""

    chassis_id: str
    secret: Secret
    fingerprint: str
    """SHA-256 of the root, lower-case hex."""

    @property
    def digest(self) -> str:
        """Tells tokens apart and gives nothing away: 160 bits of the secret are random."""
        text = f"{self.chassis_id}.{self.secret.reveal()}.{self.fingerprint}"
        return sha256(text.encode()).hexdigest()


def parse_token(text: str) -> JoinToken:
    """Read a token. Raises EnrolmentError, whose message shows nothing of it."""
    parts = text.strip().rsplit(".", 2)
    if len(parts) != 3 or not all(parts):
        raise EnrolmentError("this is no join token: it has the form ID.SECRET.FINGERPRINT")
    chassis_id, secret, coded = parts
    try:
        digest = urlsafe_b64decode(coded + "=" * (-len(coded) % 4))
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != 32 or not secret.isascii() or not chassis_id.isprintable():
        raise EnrolmentError("the join token is damaged: it was not copied whole")
    return JoinToken(chassis_id, Secret(secret), digest.hex())
