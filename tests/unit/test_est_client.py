"""The node's EST client against servers that answer nonsense, too much, or never."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from ca.est_tls import SelfIssued, server_context
from ovn_ipsec.errors import BusyError, EnrolmentError, RefusedError
from ovn_ipsec.identity import est
from ovn_ipsec.identity.est import Credentials, EstServer
from ovn_ipsec.identity.node import read_token
from ovn_ipsec.identity.token import parse_token
from tests.est_server import HOST
from tests.fake_desk import LIFE_S, FakeDesk
from tests.unit.ca.people import Office

DESK = FakeDesk()
ROOT = x509.load_der_x509_certificate(DESK.bundle()[0])
TLS = SelfIssued(DESK, (HOST,), lambda: dt.datetime.now(dt.UTC))
TOKEN = parse_token(DESK.token_text("node"))


@contextmanager
def answering(*chunks: bytes, pause_s: float = 0.0) -> Iterator[EstServer]:
    """A server with the authority's certificate that says this to one client, then closes."""
    context = server_context(TLS(), DESK.bundle())

    def serve(listener: socket.socket) -> None:
        try:
            plain, _ = listener.accept()
            with context.wrap_socket(plain, server_side=True) as secured:
                secured.recv(65536)
                for chunk in chunks:
                    secured.sendall(chunk)
                    time.sleep(pause_s)
        except OSError:
            pass  # the client has had enough

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield EstServer(f"https://{HOST}:{listener.getsockname()[1]}")
        thread.join(10)


def http(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


NONSENSE = {
    "nothing": (b"", "closed connection"),
    "no HTTP": (b"SSH-2.0-OpenSSH\r\n", "SSH"),
    "no PKCS #7": (http("200 OK", b"AAAA"), "no certs-only PKCS #7"),
    "no base64": (http("200 OK", b"\xff\xfe"), "no certs-only PKCS #7"),
    "a redirection": (http("302 Found", b"", "Location: https://evil/"), "302"),
    "a fault": (http("500 Internal Server Error"), "500"),
    "no answer at all": (http("204 No Content"), "no certs-only PKCS #7"),
    "endless headers": (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000, "more than 100 headers"),
    "a line without end": (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000, "header line"),
}


@pytest.mark.parametrize(("answer", "reason"), NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_a_named_error(answer: bytes, reason: str) -> None:
    with answering(answer) as server, pytest.raises(EnrolmentError, match=reason) as error:
        server.roots(ROOT)
    assert not isinstance(error.value, RefusedError | BusyError)


def test_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    with answering(head, b"A" * (3 << 20)) as server, pytest.raises(EnrolmentError, match="long"):
        server.roots(ROOT)
    monkeypatch.setattr(est, "_TOTAL_S", 0.2)
    for begun, drop in ((head, b"A"), (b"HTTP/1.1 200 OK\r\nX: ", b"y"), (b"", b"H")):
        with answering(begun, *[drop] * 60, pause_s=0.02) as server:
            begin = time.monotonic()
            with pytest.raises(EnrolmentError):
                server.roots(ROOT)
            assert time.monotonic() - begin < 1


def test_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(est, "_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = EstServer(f"https://{HOST}:{listener.getsockname()[1]}")
        with pytest.raises(EnrolmentError, match="timed out"):
            server.roots(ROOT)


def test_silence_that_was_asked_for_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bundle.pem").write_bytes(DESK.authority.pem)
    trusting = Credentials(tmp_path / "bundle.pem")
    monkeypatch.setattr(est, "_TIMEOUT_S", 0.7)
    monkeypatch.setattr(est, "_TOTAL_S", 0.7)
    with answering(b"H", http("304 Not Modified")[1:], pause_s=1.0) as server:
        assert server.lists(trusting, '"known"') is None
    with answering(http("304 Not Modified")) as server, pytest.raises(EnrolmentError, match="304"):
        server.lists(trusting, None)


def test_refusal_says_why_in_one_printable_line() -> None:
    body = b'{"reasons": ["the token\\nis used", "and \\u001b[2J more"]}'
    with answering(http("403 Forbidden", body)) as server, pytest.raises(RefusedError) as refused:
        server.enroll(b"csr", TOKEN, ROOT)
    assert str(refused.value).endswith("403: the token?is used; and ?[2J more")
    with (
        answering(http("401 Unauthorized", b"[1]")) as server,
        pytest.raises(RefusedError, match="no reason given"),
    ):
        server.enroll(b"csr", TOKEN, ROOT)


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("0", 1.0), ("99999999", 3600.0), ("soon", 30.0)]
)
def test_busy_server_is_asked_again_when_it_says(header: str, seconds: float) -> None:
    busy = http("503 Service Unavailable", b"", f"Retry-After: {header}")
    with answering(busy) as server, pytest.raises(BusyError) as refused:
        server.enroll(b"csr", TOKEN, ROOT)
    assert refused.value.retry_after_s == seconds


def test_token_is_sent_to_nobody_whose_certificate_does_not_verify() -> None:
    stranger = x509.load_der_x509_certificate(FakeDesk().bundle()[0])
    heard: list[bytes] = []
    context = server_context(TLS(), DESK.bundle())

    def serve(listener: socket.socket) -> None:
        plain, _ = listener.accept()
        try:
            with context.wrap_socket(plain, server_side=True) as secured:
                heard.append(secured.recv(65536))
        except (OSError, ssl.SSLError):
            plain.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        server = EstServer(f"https://{HOST}:{listener.getsockname()[1]}")
        with pytest.raises(EnrolmentError, match="not trusted"):
            server.enroll(b"csr", TOKEN, stranger)
        thread.join(10)
    assert b"".join(heard) == b""


@pytest.mark.parametrize(
    "url",
    ["http://ca", "ca:8443", "https://", "https://u:p@ca", "https://ca/x", "https://ca:99999"],
)
def test_address_that_is_none_is_a_named_error(url: str) -> None:
    with pytest.raises(EnrolmentError, match="--url") as error:
        EstServer(url)
    assert "u:p" not in str(error.value)


@given(st.text())
def test_any_text_is_a_token_or_a_named_error(text: str) -> None:
    try:
        token = parse_token(text)
    except EnrolmentError:
        return
    assert len(token.fingerprint) == 64 and token.secret


def test_token_file_that_cannot_be_read_is_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(EnrolmentError, match="No such file"):
        read_token(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(EnrolmentError, match="not UTF-8"):
        read_token(tmp_path / "binary")


def test_servers_own_certificate_renews_at_two_thirds_and_with_a_new_root() -> None:
    desk, now = FakeDesk(), [dt.datetime.now(dt.UTC)]
    source = SelfIssued(desk, (HOST,), lambda: now[0])
    first = source()
    now[0] += dt.timedelta(seconds=LIFE_S * 0.6)
    assert source() == first
    now[0] += dt.timedelta(seconds=LIFE_S * 0.1)
    second = source()
    assert second != first and b"PRIVATE" not in repr(second).encode()
    desk.roll_over()
    assert source() == second
    desk.switch()
    third = x509.load_pem_x509_certificate(source().certificate_pem)
    third.verify_directly_issued_by(desk.authority.pair.certificate)


def test_servers_own_certificate_is_replaced_when_a_clock_that_was_ahead_is_right() -> None:
    world = Office()
    world.clock.forward(days=300)
    source = SelfIssued(world.desk, (HOST,), world.clock)
    source()
    world.clock.forward(days=-299)
    present = source()
    shown = x509.load_pem_x509_certificate(present.certificate_pem)
    assert shown.not_valid_before_utc <= world.clock()
    assert source() == present
