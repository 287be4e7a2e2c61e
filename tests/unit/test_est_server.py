"""The EST server over real TLS on loopback: what it answers, and what it does not put up with."""

from __future__ import annotations

import base64
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ca.errors import StoreError
from ca.est_http import Limits
from ca.requests import CaBusy, bundle_digest, crls_pem
from tests.est_server import EST, HOST, RunningServer, csr_for, est_server
from tests.fake_desk import FakeDesk
from tests.real_desk import RealDesk
from tools.lab.pki import Authority, KeyType, Pair

LIMITS = Limits(linger_s=0.2)


@pytest.fixture(scope="module")
def desk() -> FakeDesk:
    return FakeDesk()


@pytest.fixture(scope="module")
def server(desk: FakeDesk) -> Iterator[RunningServer]:
    with est_server(desk, limits=LIMITS) as running:
        yield running


@dataclass
class Counter:
    """A desk, and the server in front of it."""

    desk: FakeDesk | RealDesk
    server: RunningServer


@pytest.fixture(params=["fake", "real"])
def counter(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Counter]:
    """Both, so that the fake is held to what the real one does."""
    desk = FakeDesk() if request.param == "fake" else RealDesk(tmp_path / "ca")
    with est_server(desk) as running:
        yield Counter(desk, running)


def roots_of(desk: FakeDesk | RealDesk) -> bytes:
    return b"".join(desk.bundle())


def test_anybody_gets_the_roots_and_learns_which_signs(
    desk: FakeDesk, server: RunningServer
) -> None:
    answer = server.ask("GET", f"{EST}/cacerts")
    der = [each.public_bytes(serialization.Encoding.DER) for each in answer.certificates()]
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/pkcs7-mime")
    assert tuple(der) == desk.bundle()
    assert answer.headers["OVN-IPsec-Signing-Root"] == sha256(desk.bundle()[0]).hexdigest()


def test_token_gives_a_certificate_and_it_renews_itself(counter: Counter, tmp_path: Path) -> None:
    desk, server = counter.desk, counter.server
    key = ec.generate_private_key(ec.SECP256R1())
    answer = server.enroll(csr_for("node-a", key=key), "node-a", desk.token("node-a"))
    (certificate,) = answer.certificates()
    assert certificate.public_key() == key.public_key()
    assert answer.headers["Content-Type"] == "application/pkcs7-mime; smime-type=certs-only"
    context = server.as_node(Pair(certificate, key), tmp_path, roots_of(desk))
    again = server.reenroll(csr_for("node-a"), context)
    assert again.status == 200
    (renewed,) = again.certificates()
    assert renewed.subject == certificate.subject
    assert renewed.public_key() != certificate.public_key()


@pytest.mark.parametrize(
    "header",
    ["", "Basic", "Basic !!", "Basic " + base64.b64encode(b"node").decode(), "Bearer abc"],
)
def test_request_without_token_is_asked_for_one(server: RunningServer, header: str) -> None:
    headers = {"Content-Type": "application/pkcs10"}
    if header:
        headers["Authorization"] = header
    answer = server.ask("POST", f"{EST}/simpleenroll", body=b"AAAA", headers=headers)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")


STOLEN = {
    "used by another node": ("thief", "node-b", False),
    "expired": ("node-b", "node-b", True),
}


@pytest.mark.parametrize(("user", "owner", "expired"), STOLEN.values(), ids=STOLEN)
def test_token_is_good_for_one_node_and_a_while(
    counter: Counter, user: str, owner: str, expired: bool
) -> None:
    desk, server = counter.desk, counter.server
    secret = desk.expired_token(owner) if expired else desk.token(owner)
    answer = server.enroll(csr_for(user), user, secret)
    assert answer.status == 403
    assert "token" in json.loads(answer.body)["reasons"][0]


def test_token_is_good_for_one_key_and_a_repeated_request_gets_the_same_certificate(
    counter: Counter,
) -> None:
    desk, server = counter.desk, counter.server
    secret, csr = desk.token("node-c"), csr_for("node-c")
    first, second = (server.enroll(csr, "node-c", secret) for _ in range(2))
    assert first.status == 200 and first.body == second.body
    assert server.enroll(csr_for("node-c"), "node-c", secret).status == 403


def test_a_hundred_uses_of_one_token_at_once_give_one_certificate(counter: Counter) -> None:
    desk, server = counter.desk, counter.server
    secret, signed = desk.token("node-d"), desk.signed
    csrs = [csr_for("node-d") for _ in range(100)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda csr: server.enroll(csr, "node-d", secret).status, csrs))
    # A desk with a rate limit does not even look at the last ones.
    assert answers.count(200) == 1 and set(answers) <= {200, 403, 503}
    assert desk.signed == signed + 1


WRONG_NAMES = {
    "another node": csr_for("victim"),
    "two nodes": csr_for("node-e", "victim"),
    "wildcard": csr_for("*"),
    "address": csr_for("node-e", sans=[x509.IPAddress(ipaddress.ip_address("192.0.2.1"))]),
    "uri": csr_for("node-e", sans=[x509.UniformResourceIdentifier("spiffe://x/y")]),
    "mail": csr_for("node-e", sans=[x509.RFC822Name("a@example.org")]),
    "authority": csr_for("node-e", ca=True),
    "garbage": b"\x30\x03\x02\x01\x00",
}


@pytest.mark.parametrize("csr", WRONG_NAMES.values(), ids=WRONG_NAMES)
def test_request_for_more_than_the_own_name_is_denied_with_reasons(
    counter: Counter, csr: bytes
) -> None:
    desk, server = counter.desk, counter.server
    answer = server.enroll(csr, "node-e", desk.token("node-e"))
    assert (answer.status, answer.headers["Content-Type"]) == (403, "application/problem+json")
    assert json.loads(answer.body)["reasons"]


def test_renewal_needs_a_certificate_of_ours_that_still_counts(
    counter: Counter, tmp_path: Path
) -> None:
    desk, server = counter.desk, counter.server
    csr = csr_for("node-f")
    assert server.reenroll(csr, None).status == 403
    revoked = server.as_node(desk.node("node-f"), tmp_path, roots_of(desk))
    desk.revoke("node-f")
    assert server.reenroll(csr, revoked).status == 403
    stranger = Authority.create("first", kind=KeyType.P256).issue("node-f", kind=KeyType.P256)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        server.reenroll(csr, server.as_node(stranger, tmp_path, roots_of(desk)))


def test_certificate_that_has_expired_opens_nothing(
    desk: FakeDesk, server: RunningServer, tmp_path: Path
) -> None:
    late = desk.authority.issue("node-g", kind=KeyType.P256, starts_in_s=-100, lasts_s=50)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        server.reenroll(csr_for("node-g"), server.as_node(late, tmp_path, roots_of(desk)))


def test_body_that_is_no_request_is_refused_before_the_desk_sees_it(
    desk: FakeDesk, server: RunningServer
) -> None:
    basic = {"Authorization": "Basic " + base64.b64encode(b"node:token").decode()}
    pkcs10 = basic | {"Content-Type": "application/pkcs10"}
    for headers, body, status in (
        (basic | {"Content-Type": "text/plain"}, b"AAAA", 415),
        (pkcs10, b"", 400),
        (pkcs10, b"not base64!", 400),
        (pkcs10, b"AAAAA", 400),
    ):
        answer = server.ask("POST", f"{EST}/simpleenroll", body=body, headers=headers)
        assert answer.status == status


def test_unknown_paths_and_methods_are_named_errors(server: RunningServer) -> None:
    assert server.ask("GET", "/.well-known/est/label/cacerts").status == 404
    assert server.ask("GET", "/../../etc/passwd").status == 404
    answer = server.ask("GET", f"{EST}/simpleenroll")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert server.ask("GET", f"{EST}/csrattrs").status == 204


def test_busy_desk_and_full_disk_say_when_to_come_again(
    desk: FakeDesk, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object) -> bytes:
        raise CaBusy("too many requests of this node", 6.2)

    monkeypatch.setattr(desk, "sign", busy)
    answer = server.enroll(csr_for("node-h"), "node-h", desk.token("node-h"))
    assert (answer.status, answer.headers["Retry-After"]) == (503, "7")

    def full(*_: object) -> bytes:
        raise StoreError("/var/lib/ca/log: no space left on device")

    monkeypatch.setattr(desk, "sign", full)
    answer = server.enroll(csr_for("node-h"), "node-h", "x")
    assert answer.status == 503 and b"/var/lib" not in answer.body


def test_fault_in_the_desk_ends_one_request_and_tells_nothing(
    desk: FakeDesk, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> tuple[bytes, ...]:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(desk, "crls", broken)
    answer = server.ask("GET", "/crl")
    assert (answer.status, answer.body) == (500, b"")
    assert server.ask("GET", f"{EST}/cacerts").status == 200


def test_node_says_which_bundle_it_trusts(
    desk: FakeDesk, server: RunningServer, tmp_path: Path
) -> None:
    digest = bundle_digest(desk.bundle())
    context = server.as_node(desk.node("node-i"), tmp_path, roots_of(desk))
    path = "/ovn-ipsec/bundle"
    assert server.ask("POST", path, body=digest.encode()).status == 403
    assert server.ask("POST", path, body=b"x" * 64, context=context).status == 400
    assert server.ask("POST", path, body=digest.encode(), context=context).status == 204
    assert desk.acknowledged == [("node-i", digest)]


def test_node_that_waits_hears_of_a_revocation_at_once(counter: Counter, tmp_path: Path) -> None:
    desk, server = counter.desk, counter.server
    context = server.as_node(desk.node("node-j"), tmp_path, roots_of(desk))
    now = server.ask("GET", "/crl")
    wait = {"If-None-Match": now.headers["ETag"], "Prefer": "wait=20"}
    assert server.ask("GET", "/crl", headers=wait).status == 304, "a stranger holds no connection"
    revoke = threading.Timer(0.2, desk.revoke, ["node-k"])
    revoke.start()
    begin = time.monotonic()
    answer = server.ask("GET", "/crl", headers=wait, context=context)
    assert (answer.status, answer.body) == (200, crls_pem(desk.crls()))
    assert time.monotonic() - begin < 5
    wait = {"If-None-Match": answer.headers["ETag"], "Prefer": "wait=0"}
    assert server.ask("GET", "/crl", headers=wait, context=context).status == 304


def test_deny_list_is_signed_by_every_root(counter: Counter) -> None:
    desk, server = counter.desk, counter.server
    before = server.ask("GET", "/crl")
    desk.roll_over()
    answer = server.ask("GET", "/crl")
    assert answer.headers["Content-Type"] == "application/x-pem-file"
    assert answer.headers["ETag"] != before.headers["ETag"]
    lists = [part for part in answer.body.split(b"-----END X509 CRL-----\n") if part]
    for root, text in zip(desk.bundle(), lists, strict=True):
        crl = x509.load_pem_x509_crl(text + b"-----END X509 CRL-----\n")
        public = x509.load_der_x509_certificate(root).public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        assert crl.is_signature_valid(public)


def test_body_of_four_megabytes_is_refused_whether_announced_or_not(
    server: RunningServer,
) -> None:
    head = b"POST /.well-known/est/simpleenroll HTTP/1.1\r\nHost: x\r\n"
    announced = server.raw(head + b"Content-Length: 4194304\r\n\r\n" + b"A" * (4 << 20))
    assert announced.startswith(b"HTTP/1.1 413 ")
    chunk = b"10000\r\n" + b"A" * 65536 + b"\r\n"
    chunked = server.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 64)
    assert chunked.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "data",
    [
        b"GET /crl HTTP/1.1\r\nHost: x\r\nX: " + b"A" * 70_000 + b"\r\n\r\n",
        b"NONSENSE\r\n\r\n",
        b"GET /crl HTTP/1.1\r\n\r\n",
        b"POST /crl HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /crl HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    ],
    ids=["long header", "nonsense", "no host", "negative length", "two lengths"],
)
def test_malformed_request_is_refused_and_the_connection_closed(
    server: RunningServer, data: bytes
) -> None:
    assert server.raw(data)[:10] in (b"HTTP/1.1 4", b"")
    assert server.ask("GET", f"{EST}/cacerts").status == 200


def _until_closed(connection: socket.socket, drip: bytes) -> float:
    """Seconds until the server closes on a client that sends one byte at a time."""
    begin = time.monotonic()
    connection.settimeout(0.05)
    while time.monotonic() - begin < 8:
        try:
            connection.sendall(drip)
            if connection.recv(4096) == b"":
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - begin


@pytest.fixture
def hasty(desk: FakeDesk) -> Iterator[RunningServer]:
    with est_server(desk, limits=Limits(handshake_s=0.4, request_s=0.4)) as running:
        yield running


def test_slow_client_is_cut_off_in_handshake_headers_and_body(hasty: RunningServer) -> None:
    server = hasty
    with socket.create_connection((HOST, server.port)) as plain:
        plain.sendall(b"\x16\x03\x01\x40\x00")  # a record that takes for ever to come
        assert _until_closed(plain, b"\x00") < 4
    for begun in (b"", b"GET /crl HTTP/1.1\r\nX: ", _BODY_BEGUN):
        plain = socket.create_connection((HOST, server.port))
        with server.context.wrap_socket(plain, server_hostname=HOST) as secured:
            if begun:
                secured.sendall(begun)
            assert _until_closed(secured, b"A" if begun else b"") < 4


_BODY_BEGUN = (
    b"POST /.well-known/est/simpleenroll HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n"
)


def test_one_address_cannot_take_every_connection(desk: FakeDesk) -> None:
    with est_server(desk, limits=Limits(connections_per_address=3)) as server:

        def answers() -> bool:
            time.sleep(0.02)
            try:
                return server.ask("GET", f"{EST}/cacerts").status == 200
            except OSError:
                return False

        held = [socket.create_connection((HOST, server.port)) for _ in range(3)]
        # It may not have accepted them yet, nor noticed later that they have gone.
        assert any(not answers() for _ in range(100))
        for connection in held:
            connection.close()
        assert any(answers() for _ in range(100))


def test_tls_older_than_1_3_is_refused(server: RunningServer, desk: FakeDesk) -> None:
    context = server.trusting(roots_of(desk))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        server.ask("GET", f"{EST}/cacerts", context=context)


def test_several_requests_share_a_connection(server: RunningServer) -> None:
    get = b"GET /crl HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /crl HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert server.raw(get + get + last).count(b"HTTP/1.1 200 ") == 3
