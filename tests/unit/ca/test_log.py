"""The issued log finds whatever was changed, removed, moved or cut off."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ca.chain import EMPTY, HEAD_NAME, LOG_NAME, check_lines, render_lines
from ca.entries import (
    Acknowledged,
    Denied,
    Entry,
    How,
    Restored,
    Revoked,
    dump,
    from_json,
    to_json,
)
from ca.errors import LogTamperedError, StoreError, StoreLockedError
from ca.files import RealFiles
from ca.requests import ByOperator
from ca.store import SETTINGS_NAME, Store, rebuild_head
from tests.unit.ca.disk import Disk
from tests.unit.ca.people import START, STATE, Office, csr

Lines = list[bytes]
TAMPERINGS: dict[str, Callable[[Lines], Lines]] = {
    "changed": lambda lines: [*lines[:2], lines[2].replace(b'"b"', b'"c"'), *lines[3:]],
    "last one changed": lambda lines: [*lines[:-1], lines[-1].replace(b'"d"', b'"e"')],
    "removed": lambda lines: [*lines[:2], *lines[3:]],
    "first one removed": lambda lines: lines[1:],
    "moved": lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
    "doubled": lambda lines: [*lines[:2], lines[1], *lines[2:]],
    "last one removed": lambda lines: lines[:-1],
    "cut in a line": lambda lines: [*lines[:-1], lines[-1][:40]],
    "emptied": lambda lines: [],
    "rehashed": lambda lines: rehashed([*lines[:2], lines[2].replace(b'"b"', b'"c"'), *lines[3:]]),
}


def rehashed(lines: Lines) -> Lines:
    """As by somebody who knows the format, and forgets the head."""
    fixed, digest = [], EMPTY.hash
    for line in lines:
        values = json.loads(line)
        del values["hash"]
        digest = sha256(bytes.fromhex(digest) + dump(values)).hexdigest()
        fixed.append(dump({**values, "hash": digest}) + b"\n")
    return fixed


def written() -> tuple[Office, Disk]:
    world = Office()
    for name in ("a", "b", "d"):
        world.desk.sign(csr(name), ByOperator(name))
    assert isinstance(world.files, Disk)
    return world, world.files


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_tampered_log_is_found_and_nothing_is_signed_on_it(tampering: str) -> None:
    _, disk = written()
    file = disk.now[STATE / LOG_NAME]
    lines = bytes(file.data).splitlines(keepends=True)
    file.data = bytearray(b"".join(TAMPERINGS[tampering](lines)))
    with pytest.raises(LogTamperedError) as error:
        Store(disk, STATE)
    assert str(STATE / LOG_NAME) in str(error.value) and "backup" in str(error.value)


def test_running_authority_notices_that_its_log_was_cut() -> None:
    world, disk = written()
    del disk.now[STATE / LOG_NAME].data[-10:]
    with pytest.raises(LogTamperedError):
        world.desk.sign(csr("x"), ByOperator("x"))


def test_older_state_put_back_below_a_running_authority_is_noticed() -> None:
    world = Office()
    assert isinstance(world.files, Disk)
    older = {path: bytes(file.data) for path, file in world.files.now.items()}
    world.desk.sign(csr("a"), ByOperator("a"))
    for path, content in older.items():
        world.files.now[path].data = bytearray(content)
    with pytest.raises(LogTamperedError, match="goes back"):
        world.desk.sign(csr("x"), ByOperator("x"))


def test_noted_head_exposes_a_history_that_was_written_anew() -> None:
    world, _ = written()
    noted = f"{world.store.head.count}:{world.store.head.hash}"
    world.desk.sign(csr("x"), ByOperator("x"))
    world.store.expect_head(noted)
    other, _ = written()
    for wrong in (noted, "9:ab", "nonsense", "0:"):
        with pytest.raises(LogTamperedError):
            other.store.expect_head(wrong)


def test_lost_head_is_an_error_with_a_remedy_that_works() -> None:
    world, disk = written()
    disk.now[STATE / HEAD_NAME].data = bytearray(8192)
    with pytest.raises(LogTamperedError, match="rebuild-head"):
        Store(disk, STATE)
    rebuild_head(disk, STATE)
    assert Store(disk, STATE).head == world.store.head


@pytest.mark.parametrize("name", [SETTINGS_NAME, HEAD_NAME, LOG_NAME])
@pytest.mark.parametrize("content", [b"", b"{", None])
def test_truncated_state_file_is_a_named_error(name: str, content: bytes | None) -> None:
    _, disk = written()
    if content is None:
        del disk.now[STATE / name]
    else:
        disk.now[STATE / name].data = bytearray(content)
    with pytest.raises(StoreError, match=name):
        Store(disk, STATE)


def test_lost_key_is_a_named_error_and_leaves_the_log_readable() -> None:
    world, disk = written()
    (name,) = (path for path in disk.now if path.suffix == ".pem")
    del disk.now[name]
    store = Store(disk, STATE)
    with pytest.raises(StoreError, match=name.name):
        store.issuer(world.store.inventory.signing)


def test_second_writer_waits_and_is_told_who_has_the_lock(tmp_path: Path) -> None:
    files = RealFiles()
    with (
        files.locked(tmp_path / "lock", 1),
        pytest.raises(StoreLockedError, match=f"process {os.getpid()} "),
        files.locked(tmp_path / "lock", 0.05),
    ):
        raise AssertionError("two hold the lock")


def test_state_that_others_may_read_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    (tmp_path / SETTINGS_NAME).write_bytes(b"{}")
    with pytest.raises(StoreError, match="chmod 700"):
        Store(RealFiles(), tmp_path)


texts = st.text(max_size=12)
moments = st.datetimes(timezones=st.just(START.tzinfo))
entries = st.lists(
    st.one_of(
        st.builds(Acknowledged, moments, texts, texts, st.booleans()),
        st.builds(Revoked, moments, texts, st.lists(texts).map(tuple), st.booleans()),
        st.builds(
            Denied,
            moments,
            texts,
            st.sampled_from(How),
            texts,
            texts,
            st.booleans(),
            st.lists(texts).map(tuple),
        ),
        st.builds(Restored, moments),
    ),
    min_size=1,
    max_size=6,
)


@given(entries)
def test_entry_is_read_as_it_was_written(written_entries: list[Entry]) -> None:
    assert [from_json(json.loads(dump(to_json(e)))) for e in written_entries] == written_entries
    data, head = render_lines(written_entries, EMPTY)
    assert check_lines(data, EMPTY, head, "log") == written_entries


@settings(max_examples=60)
@given(entries, st.data())
def test_any_changed_byte_is_found(written_entries: list[Entry], data: st.DataObject) -> None:
    lines, head = render_lines(written_entries, EMPTY)
    at = data.draw(st.integers(0, len(lines) - 1))
    changed = bytearray(lines)
    changed[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(LogTamperedError):
        assert check_lines(bytes(changed), EMPTY, head, "log") == written_entries
