"""Enrolment by CertificateSigningRequest, where no API server is needed to tell right from wrong.

The way itself is proven against a real one, in tests/kubernetes.
"""

from __future__ import annotations

import base64
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from ovn_ipsec.errors import BusyError, EnrolmentError, RefusedError, SettingsError
from ovn_ipsec.identity.certificates import make_key, make_request, request_pem
from ovn_ipsec.identity.est import Credentials
from ovn_ipsec.identity.kubernetes import LABEL, KubernetesWay, Place, label_value
from ovn_ipsec.identity.model import KeyKind
from ovn_ipsec.identity.settings import parse_enroll_arguments
from tests.fake_desk import FakeDesk
from tests.unit.odd_certificates import with_odd_key
from tools.lab.pki import Authority, KeyType

Json = dict[str, Any]

PLACE = Place("worker-1", "ipsec.ovn.org/node", "ovn-ipsec", "ovn-ipsec-ca")
DESK = FakeDesk()
KEY = make_key(KeyKind.P256)
CSR = make_request(KEY, "node-1")
NOBODY = Credentials(Path("/none"))


class Api:
    """Holds objects, and gives a watch the versions that a test has lined up."""

    def __init__(self) -> None:
        self.held: dict[str, Json] = {}
        self.coming: list[Json] = []
        self.data: dict[str, str] | None = {"ca-bundle.pem": DESK.authority.pem.decode()}

    def create_request(self, body: Json) -> Json:
        assert body["spec"]["usages"] == ["ipsec tunnel"]
        name = f"{body['metadata']['generateName']}{len(self.held)}"
        made: Json = {
            "metadata": {"name": name, "resourceVersion": "1", **body["metadata"]},
            "spec": body["spec"],
            "status": {},
        }
        self.held[name] = made
        return made

    def requests(self, label: str) -> Json:
        assert label == f"{LABEL}=worker-1"
        return {"items": list(self.held.values())}

    def delete_request(self, name: str) -> None:
        del self.held[name]

    def watch_request(self, name: str, version: str, wait_s: int) -> Iterator[Json]:
        assert (name in self.held, version) == (True, "1")
        for status in self.coming:
            yield {"type": "MODIFIED", "object": {**self.held[name], "status": status}}

    def config_map(self, namespace: str, name: str) -> Json:
        assert (namespace, name) == ("ovn-ipsec", "ovn-ipsec-ca")
        if self.data is None:
            raise BusyError("404", 5.0)
        return {"metadata": {"resourceVersion": "7"}, "data": self.data}

    def watch_config_map(
        self, namespace: str, name: str, version: str, wait_s: int
    ) -> Iterator[Json]:
        assert version == "7"
        assert self.data is not None
        yield {"type": "MODIFIED", "object": {"data": self.data | {"crl.pem": "list 2"}}}


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def node(api: Api) -> KubernetesWay:
    return KubernetesWay(PLACE, lambda: api)


def issued(key: ec.EllipticCurvePublicKey | None = None) -> Json:
    public = key or x509.load_der_x509_csr(CSR).public_key()
    pem = DESK.leaf("node-1", public).public_bytes(Encoding.PEM)
    return {"certificate": base64.b64encode(pem).decode()}


def refused(kind: str, message: str) -> Json:
    return {"conditions": [{"type": kind, "reason": "Policy", "message": message}]}


def test_approval_alone_is_no_answer_and_the_certificate_is(api: Api, node: KubernetesWay) -> None:
    api.coming = [{"conditions": [{"type": "Approved", "reason": "x"}]}, issued()]
    assert node.obtain(CSR, "node-1").serial_number
    assert api.held == {}


def test_silence_is_waited_for_with_the_same_request(api: Api, node: KubernetesWay) -> None:
    for _ in range(3):
        with pytest.raises(BusyError, match="is the signer ipsec.ovn.org/node running"):
            node.obtain(CSR, "node-1")
    (waiting,) = api.held.values()
    assert base64.b64decode(waiting["spec"]["request"]) == request_pem(CSR)


@pytest.mark.parametrize("kind", ["Denied", "Failed"])
def test_refusal_is_told_on_one_printable_line_of_bounded_length(
    api: Api, node: KubernetesWay, kind: str
) -> None:
    api.coming = [refused(kind, "no\n\x1b[2Jbinding" + "x" * 5000)]
    with pytest.raises(RefusedError) as error:
        node.obtain(CSR, "node-1")
    said = str(error.value)
    assert f"{kind}: Policy: no ?[2Jbinding" in said
    assert said.isprintable() and len(said) < 400


def test_certificate_for_another_key_is_not_taken(api: Api, node: KubernetesWay) -> None:
    api.coming = [issued(ec.generate_private_key(ec.SECP256R1()).public_key())]
    with pytest.raises(EnrolmentError, match="for another key"):
        node.obtain(CSR, "node-1")


def test_certificate_whose_key_cannot_be_read_is_a_named_error(
    api: Api, node: KubernetesWay
) -> None:
    good = DESK.leaf("node-1", x509.load_der_x509_csr(CSR).public_key())
    for der in with_odd_key(good.public_bytes(Encoding.DER)).values():
        pem = ssl.DER_cert_to_PEM_cert(der).encode()
        api.coming = [{"certificate": base64.b64encode(pem).decode()}]
        with pytest.raises(EnrolmentError, match="key"):
            node.obtain(CSR, "node-1")


def test_request_at_another_signer_is_neither_taken_up_nor_deleted(
    api: Api, node: KubernetesWay
) -> None:
    foreign = api.create_request(node._request(request_pem(CSR), "node-1"))
    foreign["spec"] = {**foreign["spec"], "signerName": "example.com/other"}
    foreign["status"] = issued()
    api.coming = [issued()]
    node.obtain(CSR, "node-1")
    assert list(api.held.values()) == [foreign]


def test_news_of_roots_is_passed_on_and_ends_the_wait_for_lists(
    api: Api, node: KubernetesWay
) -> None:
    heard = []
    node.on_news = lambda: heard.append(node.heard)
    assert node.lists(NOBODY, None) is None and len(heard) == 1
    found = node.lists(NOBODY, None)
    assert found is not None and found.pem == b"list 2" and len(heard) == 1
    assert api.data is not None
    other = Authority.create("other", kind=KeyType.P256)
    api.data = {"ca-bundle.pem": (other.pem + DESK.authority.pem).decode()}
    assert node.lists(NOBODY, found.tag) is None and len(heard) == 2
    assert node.heard is not None
    assert node.roots().signing_root == node.heard.signing_root
    api.data = {"ca-bundle.pem": "no certificate"}
    with pytest.raises(EnrolmentError, match="key ca-bundle.pem: this is no readable bundle"):
        node.roots()
    assert node.lists(NOBODY, found.tag) is None and len(heard) == 2
    api.data = {"other": "x"}
    with pytest.raises(BusyError, match="key ca-bundle.pem is waited for"):
        node.roots()


@given(st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", fullmatch=True))
def test_any_node_name_becomes_a_label(name: str) -> None:
    value = label_value(name)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?", value)
    assert value == name or len(name) > 63


def test_settings_want_a_node_name_and_one_way() -> None:
    said = parse_enroll_arguments(["unix:x", "--kubernetes"], {"NODE_NAME": "worker-1"})
    assert said.cluster == PLACE
    for argv, reason in (
        (["--kubernetes"], "NODE_NAME"),
        (["--kubernetes", "--node-name=Big"], "--node-name"),
        (["--kubernetes", "--node-name=a", "--url=https://ca"], "either"),
        (["--kubernetes", "--node-name=a", "--bundle=ca"], "NAMESPACE/NAME"),
        (["--kubernetes", "--node-name=a", "--signer-name=ca"], "DOMAIN/NAME"),
        (["--kubeconfig=/x", "--url=https://ca"], "go with --kubernetes"),
    ):
        with pytest.raises(SettingsError, match=reason):
            parse_enroll_arguments(["unix:x", *argv], {})


def test_agent_and_other_ways_do_not_load_the_client() -> None:
    program = "import sys, ovn_ipsec.cli; sys.exit('kubernetes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
