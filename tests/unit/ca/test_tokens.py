"""Join tokens: one use, one node, a short time, and nothing of them on disk."""

from __future__ import annotations

import contextlib
import threading
import time
from base64 import urlsafe_b64decode
from hashlib import sha256
from pathlib import Path

import pytest

from ca import office, roots
from ca.chain import LOG_NAME
from ca.desk import LocalDesk
from ca.errors import UsageError
from ca.files import RealFiles
from ca.requests import ByOperator, ByToken, CaBusy, RequestDenied
from ca.store import Store
from tests.unit.ca.disk import Disk
from tests.unit.ca.people import SETTINGS, STATE, Clock, Office, csr, key, serial_of


def denied(world: Office, token: ByToken, name: str, own: str) -> str:
    with pytest.raises(RequestDenied) as error:
        world.desk.sign(csr(name, own=key(own)), token)
    return str(error.value)


def test_token_carries_the_fingerprint_of_the_root_and_its_secret_is_not_stored(
    tmp_path: Path,
) -> None:
    state = tmp_path / "ca"
    files, clock = RealFiles(), Clock()
    roots.init_authority(files, state, SETTINGS, clock(), office.random_serial)
    desk = LocalDesk(Store(files, state), clock, office.random_serial)
    token = office.make_token(desk, "a.b-1", SETTINGS.leaf_life, replace=False)
    name, secret, fingerprint = token.text.rsplit(".", 2)
    assert name == "a.b-1"
    assert urlsafe_b64decode(fingerprint + "=") == sha256(desk.bundle()[0]).digest()
    desk.sign(csr("a.b-1"), ByToken("a.b-1", secret))
    for path in state.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0
        assert path.is_dir() or secret.encode() not in path.read_bytes()
    assert secret not in repr(ByToken("a.b-1", secret))


def test_token_works_once() -> None:
    world = Office()
    token = ByToken("a", world.token("a", replace=True))
    world.desk.sign(csr("a"), token)
    assert "used before" in denied(world, token, "a", "thief")
    world.open()
    assert "used before" in denied(world, token, "a", "thief 2")


def test_token_of_another_node_is_no_token() -> None:
    world = Office()
    token = world.token("a")
    assert "no join token of this chassis id" in denied(world, ByToken("b", token), "b", "b")
    assert "names 'b'" in denied(world, ByToken("a", token), "b", "b")


def test_token_ends() -> None:
    world = Office()
    token = ByToken("a", world.token("a", life_s=60))
    world.clock.forward(seconds=60)
    assert "has expired" in denied(world, token, "a", "a")


def test_token_for_a_node_that_has_a_certificate_needs_a_word_when_it_is_made() -> None:
    world = Office()
    world.desk.sign(csr("a"), ByToken("a", world.token("a")))
    with pytest.raises(UsageError, match="--replace"):
        world.token("a")


@pytest.mark.parametrize("same_request", [False, True])
def test_hundred_uses_of_one_token_at_once_give_one_certificate(same_request: bool) -> None:
    world = Office()
    token = ByToken("a", world.token("a", replace=True))
    requests = [csr("a", own=key("a" if same_request else f"a {n}")) for n in range(100)]
    if same_request:
        requests = requests[:1] * 100
    answers: list[bytes] = []
    start = threading.Barrier(len(requests))

    def use(request: bytes) -> None:
        start.wait()
        with contextlib.suppress(RequestDenied, CaBusy):
            answers.append(world.desk.sign(request, token))

    threads = [threading.Thread(target=use, args=(request,)) for request in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == (100 if same_request else 1)
    assert len(set(answers)) == 1
    assert len(Store(world.files, world.store.directory).inventory.issued) == 1


def test_two_processes_share_one_directory(tmp_path: Path) -> None:
    """A token made beside a running server works at once, and only once in both."""
    files, clock, state = RealFiles(), Clock(), tmp_path / "ca"
    roots.init_authority(files, state, SETTINGS, clock(), office.random_serial)
    server, command = (
        LocalDesk(Store(files, state), clock, office.random_serial) for _ in range(2)
    )
    token = office.make_token(command, "a", SETTINGS.leaf_life, replace=False).text
    first = server.sign(csr("a"), ByToken("a", token))
    with pytest.raises(RequestDenied):
        command.sign(csr("a", own=key("thief")), ByToken("a", token))
    crls = server.crls()
    office.revoke_node(command, "a")
    assert server.crls() != crls
    assert command.bundle() == server.bundle()
    assert first


class SlowDisk(Disk):
    """Takes its time to sync, as disks do."""

    syncs = 0

    def sync(self, path: Path) -> None:
        time.sleep(0.002)
        self.syncs += 1
        super().sync(path)


def test_answers_that_share_a_sync_leave_only_after_it() -> None:
    disk = SlowDisk()
    disk.__dict__.update(Office().files.__dict__)
    world = Office(files=disk)
    log, early = disk.now[STATE / LOG_NAME], []
    requests = {f"n{number}": csr(f"n{number}") for number in range(100)}

    def ask(name: str) -> None:
        serial = serial_of(world.desk.sign(requests[name], ByOperator(name)))
        if serial.encode() not in log.durable:
            early.append(name)

    threads = [threading.Thread(target=ask, args=(name,)) for name in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not early
    assert len(world.store.inventory.issued) == 100
    assert disk.syncs < 100
