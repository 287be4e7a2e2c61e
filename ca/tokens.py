"""Join tokens as text. Pure: the random secret is passed in.

``ID.SECRET.FINGERPRINT``: the chassis id (which may have dots), 160 random bits, and the SHA-256
of the root (DER) that signs when the token is made, both in unpadded base64url. The node trusts
at first contact the root of that fingerprint and no other; the secret goes to the server as
password of HTTP Basic, with the id as user name.

The log keeps a SHA-256 over id and secret. Slow hashing is for secrets that people choose: 160
random bits cannot be searched at any speed.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import sha256

SECRET_BYTES = 20
_SECRET_CHARACTERS = 27
_FINGERPRINT_CHARACTERS = 43


def token_text(chassis_id: str, secret: bytes, root_der: bytes) -> str:
    """The token as it is given to the node."""
    return f"{chassis_id}.{_text(secret)}.{_text(sha256(root_der).digest())}"


def secret_text(given: str) -> str:
    """The secret's own text, of a secret or of a whole token."""
    parts = given.rsplit(".", 2)
    if len(parts) == 3 and len(parts[2]) == _FINGERPRINT_CHARACTERS:
        return parts[1]
    return given


def token_digest(chassis_id: str, given: str) -> str:
    """What the log keeps: of this id (in any case of letters) and this secret, SHA-256 in hex."""
    secret = secret_text(given)
    if len(secret) != _SECRET_CHARACTERS:
        secret = ""  # nobody's; and no megabytes are hashed
    text = f"ovn-ipsec join token\0{chassis_id.lower()}\0{secret}"
    return sha256(text.encode(errors="surrogatepass")).hexdigest()


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
