"""What the files of a node say whose certificate a CA has signed."""

from __future__ import annotations

from dataclasses import replace

from ovn_ipsec.model.facts import CertificateFact, PkiFact, PrivateKeyFact

_ROOT = CertificateFact(
    "/ca", pem="CA", fingerprint="ca", subject="CN=ca", issuer="CN=ca", is_ca=True
)
CERTIFICATE = CertificateFact(
    "/cert",
    pem="CERT",
    common_name="a",
    dns_names=("a",),
    fingerprint="f",
    public_key_hash="k",
    key_type="rsa",
    subject="CN=a",
    issuer="CN=ca",
)
PKI = PkiFact(
    certificate=CERTIFICATE,
    private_key=PrivateKeyFact("/key", public_key_hash="k"),
    ca_cert=replace(_ROOT, chain=(_ROOT,)),
    issued_by_ca=True,
)
