"""A desk for tests of what stands in front of one: small, and as strict as the real one."""

from __future__ import annotations

import datetime as dt
import threading
from base64 import urlsafe_b64encode
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from ca.requests import (
    SERVER_NAME,
    ByCertificate,
    ByToken,
    RequestDenied,
    Requester,
)
from tools.lab.pki import Authority, KeyType, Pair, common_name

Public = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
LIFE_S = 86400


class FakeDesk:
    """Signs with a throw-away CA; remembers tokens, answers and acknowledgements in memory."""

    def __init__(self) -> None:
        self.roots = [Authority.create("first", kind=KeyType.P256)]
        self.tokens: dict[str, str] = {}
        """Secret -> chassis id, in lower case."""
        self.expired: set[str] = set()
        self.revoked: set[str] = set()
        self.secrets_seen: set[str] = set()
        self.acknowledged: list[tuple[str, str]] = []
        self.answers: dict[tuple[str, bytes], bytes] = {}
        self.leaf_life_s = LIFE_S
        self.leaf_age_s = 0
        """How old a certificate is when it is signed: 0, or as if time had passed since."""
        self.signed = 0
        self._used: dict[str, bytes] = {}
        self._crls: dict[str, bytes] = {}
        self._crl_number = 1
        self._lock = threading.Lock()

    @property
    def authority(self) -> Authority:
        """The root that signs now."""
        return self.roots[0]

    def sign(self, csr_der: bytes, requester: Requester) -> bytes:
        with self._lock:
            chassis_id, reasons = self._proven(csr_der, requester)
            csr = _parsed(csr_der)
            reasons += _wrong_with(csr, chassis_id)
            if reasons:
                raise RequestDenied(tuple(reasons))
            known = self.answers.get((chassis_id, csr_der))
            if known is not None:
                return known
            if isinstance(requester, ByToken):
                self._used[requester.secret] = csr_der
            self.signed += 1
            der = self._issue(chassis_id, csr)
            self.answers[chassis_id, csr_der] = der
            return der

    def _proven(self, csr_der: bytes, requester: Requester) -> tuple[str, list[str]]:
        if isinstance(requester, ByToken):
            name, secret = requester.chassis_id, requester.secret
            self.secrets_seen.add(secret)
            if self.tokens.get(secret) != name.lower():
                return name, ["no such join token for this chassis id"]
            reasons = ["the join token has expired"] if secret in self.expired else []
            if self._used.get(secret, csr_der) != csr_der:
                reasons.append("the join token has been used")
            return name, reasons
        if isinstance(requester, ByCertificate):
            certificate = x509.load_der_x509_certificate(requester.der)
            (cn,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            name = str(cn.value)
            return name, ["the certificate is revoked"] if name in self.revoked else []
        return requester.chassis_id, []

    def _issue(self, chassis_id: str, csr: x509.CertificateSigningRequest | None) -> bytes:
        assert csr is not None
        return self.leaf(chassis_id, csr.public_key()).public_bytes(serialization.Encoding.DER)

    def leaf(self, name: str, public: object, names: tuple[str, ...] = ()) -> x509.Certificate:
        """A certificate of the present root; without ``names`` its DNS name is its own."""
        assert isinstance(public, Public)
        now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        root = self.authority.pair
        builder = (
            x509.CertificateBuilder()
            .subject_name(common_name(name))
            .issuer_name(root.certificate.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(seconds=self.leaf_age_s))
            .not_valid_after(now + dt.timedelta(seconds=self.leaf_life_s - self.leaf_age_s))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
            .add_extension(
                x509.SubjectAlternativeName([x509.DNSName(each) for each in names or (name,)]),
                False,
            )
        )
        return builder.sign(root.key, hashes.SHA256())

    def node(self, chassis_id: str) -> Pair:
        """A node that has a certificate already."""
        key = ec.generate_private_key(ec.SECP256R1())
        return Pair(self.leaf(chassis_id, key.public_key()), key)

    def bundle(self) -> tuple[bytes, ...]:
        return tuple(_der(root.pair.certificate) for root in self.roots)

    def cross(self) -> tuple[bytes, ...]:
        return ()

    def crls(self) -> tuple[bytes, ...]:
        with self._lock:
            return tuple(self._crl(root) for root in self.roots)

    def _crl(self, root: Authority) -> bytes:
        name = root.pair.fingerprint
        if name not in self._crls:
            pem = root.crl(denied=sorted(self.revoked), number=self._crl_number)
            der = x509.load_pem_x509_crl(pem).public_bytes(serialization.Encoding.DER)
            self._crls[name] = der
        return self._crls[name]

    def server_certificate(
        self, public_key_der: bytes, names: tuple[str, ...]
    ) -> tuple[bytes, ...]:
        public = serialization.load_der_public_key(public_key_der)
        return (_der(self.leaf(SERVER_NAME, public, names)),)

    def acknowledge(self, chassis_id: str, bundle_digest: str) -> None:
        self.acknowledged.append((chassis_id, bundle_digest))

    def keep_house(self) -> float:
        return 3600.0

    # What tests do at the authority's machine.

    def token(self, chassis_id: str) -> str:
        """A new join token's secret."""
        secret = sha256(f"{chassis_id}{len(self.tokens)}".encode()).hexdigest()[:27]
        self.tokens[secret] = chassis_id.lower()
        return secret

    def expired_token(self, chassis_id: str) -> str:
        """A join token's secret whose time is over."""
        secret = self.token(chassis_id)
        self.expired.add(secret)
        return secret

    def revoke(self, chassis_id: str) -> None:
        with self._lock:
            self.revoked.add(chassis_id)
            self._crl_number += 1
            self._crls.clear()

    def token_text(self, chassis_id: str) -> str:
        """A new join token as the node gets it."""
        digest = sha256(self.bundle()[0]).digest()
        fingerprint = urlsafe_b64encode(digest).rstrip(b"=").decode()
        return f"{chassis_id}.{self.token(chassis_id)}.{fingerprint}"

    def roll_over(self) -> None:
        """A new root that is trusted and does not sign yet."""
        self.roots.append(Authority.create("second", kind=KeyType.P256))

    def switch(self) -> None:
        """The other root signs from now on."""
        self.roots.reverse()

    def retire(self) -> None:
        """Only the root that signs now is trusted."""
        del self.roots[1:]


def _parsed(csr_der: bytes) -> x509.CertificateSigningRequest | None:
    try:
        return x509.load_der_x509_csr(csr_der)
    except ValueError:
        return None


def _wrong_with(csr: x509.CertificateSigningRequest | None, chassis_id: str) -> list[str]:
    if csr is None:
        return ["this is no PKCS #10 request"]
    reasons = [] if csr.is_signature_valid else ["the request's signature is wrong"]
    named = [str(each.value) for each in csr.subject]
    for extension in csr.extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName):
            names = list(extension.value)
            named += [name.value for name in names if isinstance(name, x509.DNSName)]
            if not all(isinstance(name, x509.DNSName) for name in names):
                reasons.append("the request has a name that is no DNS name")
        else:
            reasons.append(f"the request asks for {extension.oid._name}")
    others = sorted({name for name in named if name.lower() != chassis_id.lower()})
    reasons += [f"the request names {name!r}, not {chassis_id!r}" for name in others]
    return reasons


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)
