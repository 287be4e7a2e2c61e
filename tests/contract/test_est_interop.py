"""EST with clients that are not ours: curl speaks HTTP and TLS, openssl makes and reads the rest.

The calls are those that RFC 7030 has in its appendix.
"""

from __future__ import annotations

import base64
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.est_server import EST, HOST, RunningServer, est_server
from tests.fake_desk import FakeDesk

pytestmark = pytest.mark.contract


@pytest.fixture
def desk() -> FakeDesk:
    return FakeDesk()


@pytest.fixture
def server(desk: FakeDesk) -> Iterator[RunningServer]:
    with est_server(desk) as running:
        yield running


def run(directory: Path, *argv: str, stdin: bytes = b"") -> bytes:
    """A program's output; the test fails where the program is missing or does."""
    assert shutil.which(argv[0]), f"{argv[0]} is not installed"
    done = subprocess.run(argv, cwd=directory, input=stdin, capture_output=True, timeout=30)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def curl(directory: Path, server: RunningServer, path: str, *options: str) -> bytes:
    return run(
        directory,
        "curl",
        "--silent",
        "--show-error",
        "--fail-with-body",
        "--noproxy",
        "*",
        *options,
        f"https://{HOST}:{server.port}{path}",
    )


def certificate_in(directory: Path, answer: bytes) -> bytes:
    """The first certificate of a base64 certs-only message, as PEM."""
    der = base64.b64decode(answer)
    text = run(directory, "openssl", "pkcs7", "-inform", "DER", "-print_certs", stdin=der)
    return run(directory, "openssl", "x509", stdin=text)


def make_csr(directory: Path, name: str, stem: str) -> None:
    argv = ["openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-outform", "DER"]
    names = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    out = ["-keyout", f"{stem}.key", "-out", f"{stem}.der"]
    run(directory, *argv, *names, *out)
    coded = run(directory, "openssl", "base64", "-in", f"{stem}.der")
    (directory / f"{stem}.p10").write_bytes(coded)


def test_curl_and_openssl_enrol_and_renew(
    desk: FakeDesk, server: RunningServer, tmp_path: Path
) -> None:
    root = certificate_in(tmp_path, curl(tmp_path, server, f"{EST}/cacerts", "--insecure"))
    (tmp_path / "root.pem").write_bytes(root)
    trust = ("--cacert", "root.pem", "--tlsv1.3")

    make_csr(tmp_path, "chassis-1", "first")
    post = ("--header", "Content-Type: application/pkcs10", "--data-binary")
    user = ("--user", f"chassis-1:{desk.token('chassis-1')}")
    answer = curl(tmp_path, server, f"{EST}/simpleenroll", *trust, *user, *post, "@first.p10")
    (tmp_path / "first.pem").write_bytes(certificate_in(tmp_path, answer))
    run(tmp_path, "openssl", "verify", "-CAfile", "root.pem", "first.pem")

    make_csr(tmp_path, "chassis-1", "second")
    own = ("--cert", "first.pem", "--key", "first.key")
    answer = curl(tmp_path, server, f"{EST}/simplereenroll", *trust, *own, *post, "@second.p10")
    (tmp_path / "second.pem").write_bytes(certificate_in(tmp_path, answer))
    run(tmp_path, "openssl", "verify", "-CAfile", "root.pem", "second.pem")
    subject = run(tmp_path, "openssl", "x509", "-noout", "-subject", "-in", "second.pem")
    assert subject.strip() in (b"subject=CN = chassis-1", b"subject=CN=chassis-1")
