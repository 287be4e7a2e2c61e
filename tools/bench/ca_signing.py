"""Certificates per second through the whole desk, and against one openssl process each.

``python -m tools.bench.ca_signing`` on one core: requests are made before the clock starts, then
threads hand them to the desk: request check, policy, signing, log, group commit with sync.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ca import office, roots
from ca.cli import open_desk, wall_clock
from ca.csr import KeyKind
from ca.files import RealFiles
from ca.requests import ByToken
from ca.settings import DAY_S, CaSettings

GOAL_PER_S = 500
GOAL_RATIO = 20


def main() -> int:
    """Print rates and ratios; 1 when a goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--openssl-count", type=int, default=50)
    parser.add_argument("--key", type=KeyKind, choices=list(KeyKind), default=KeyKind.P256)
    parser.add_argument("--directory", help="where the state lies, on a real disk", default=None)
    flags = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(dir=flags.directory) as name:
        directory = Path(name)
        requests = [(f"node-{n}", _request(f"node-{n}")) for n in range(flags.count)]
        ours = _through_the_desk(directory / "ca", requests, flags.threads, flags.key)
        theirs = _through_openssl(directory, requests[: flags.openssl_count])
    print(f"desk, {flags.key}, {flags.threads} threads, one core: {ours:8.0f} certificates/s")
    print(f"one openssl x509 -req each, one core:       {theirs:8.1f} certificates/s")
    print(f"ratio {ours / theirs:.1f} (goal {GOAL_RATIO}), rate {ours:.0f} (goal {GOAL_PER_S})")
    return 0 if ours >= GOAL_PER_S and ours >= GOAL_RATIO * theirs else 1


def _request(name: str) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    key = ec.generate_private_key(ec.SECP256R1())
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def _through_the_desk(
    state: Path, requests: list[tuple[str, bytes]], threads: int, kind: KeyKind
) -> float:
    settings = CaSettings(name="bench", key_kind=kind, token_life_s=DAY_S)
    roots.init_authority(RealFiles(), state, settings, wall_clock(), office.random_serial)
    desk = open_desk(str(state))
    life = settings.leaf_life
    ready = [
        (csr, ByToken(name, office.make_token(desk, name, life, replace=False).text))
        for name, csr in requests
    ]
    work = iter(ready)
    lock = threading.Lock()

    def serve() -> None:
        for csr, requester in _shared(work, lock):
            desk.sign(csr, requester)

    crew = [threading.Thread(target=serve) for _ in range(threads)]
    start_s = time.perf_counter()
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    return len(requests) / (time.perf_counter() - start_s)


def _shared(
    work: Iterator[tuple[bytes, ByToken]], lock: threading.Lock
) -> Iterator[tuple[bytes, ByToken]]:
    while True:
        with lock:
            item = next(work, None)
        if item is None:
            return
        yield item


def _through_openssl(directory: Path, requests: list[tuple[str, bytes]]) -> float:
    """A P-256 authority as scripts build one: no policy, no log."""
    root, key, extensions = (directory / name for name in ("root.pem", "root.key", "ext"))
    extensions.write_text("basicConstraints=critical,CA:FALSE\nkeyUsage=digitalSignature\n")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
    subprocess.run(
        ["openssl", "req", "-x509", *curve, "-subj", "/CN=bench", "-keyout", key, "-out", root],
        check=True,
        capture_output=True,
    )
    for name, csr in requests:
        (directory / f"{name}.csr").write_bytes(csr)
    start_s = time.perf_counter()
    for name, _ in requests:
        asked, given = directory / f"{name}.csr", directory / f"{name}.crt"
        words: list[str | Path] = ["openssl", "x509", "-req", "-days", "1825"]
        words += ["-inform", "DER", "-in", asked, "-out", given]
        words += ["-CA", root, "-CAkey", key, "-extfile", extensions]
        subprocess.run(words, check=True, capture_output=True)
    return len(requests) / (time.perf_counter() - start_s)


if __name__ == "__main__":
    raise SystemExit(main())
