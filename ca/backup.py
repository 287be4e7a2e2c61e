"""Backup and restore of a state directory: one tar file, 0600, which holds the issuer's key."""

from __future__ import annotations

import io
import tarfile
from datetime import datetime
from pathlib import Path

from ca.chain import EMPTY, HEAD_NAME, LOG_NAME, check_lines, parse_head
from ca.entries import Restored
from ca.errors import StoreError
from ca.files import Files, write_atomically
from ca.store import KEYS_NAME, SETTINGS_NAME, Store


def back_up(files: Files, store: Store, target: Path, now: datetime) -> int:
    """Write all of the state into ``target``, as of one moment; returns the number of entries.

    Raises StoreError.
    """
    archive = io.BytesIO()
    with store.transaction(), tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in store.contents():
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(content), 0o600, int(now.timestamp())
            tar.addfile(member, io.BytesIO(content))
        count = store.head.count
    try:
        write_atomically(files, target, archive.getvalue())
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error.strerror or error}") from error
    return count


def restore(
    source_files: Files, source: Path, files: Files, directory: Path, now: datetime
) -> Store:
    """Make a state directory from a backup, whose log must be whole. Raises StoreError.

    Tokens made before may have been used after the backup: they count as used.
    """
    members = _read(source_files, source)
    try:
        with files.at_once():
            files.make_dir(directory)
            if present := files.names(directory):
                raise StoreError(
                    f"{directory}: not empty ({', '.join(present[:5])}); restore into an empty one"
                )
            files.make_dir(directory / KEYS_NAME)
            settings = members.pop(SETTINGS_NAME)
            for name, content in members.items():
                write_atomically(files, directory / name, content)
            write_atomically(files, directory / SETTINGS_NAME, settings)
    except OSError as error:
        raise StoreError(f"cannot restore into {directory}: {error.strerror or error}") from error
    store = Store(files, directory)
    store.issuer(store.inventory.signing)
    with store.transaction() as batch:
        batch.add(Restored(now))
    return store


def _read(files: Files, source: Path) -> dict[str, bytes]:
    try:
        with tarfile.open(fileobj=io.BytesIO(files.read(source))) as tar:
            members = {}
            for member in tar.getmembers():
                content = tar.extractfile(member)
                if content is None or not _expected(member.name):
                    raise StoreError(f"{source}: holds {member.name!r}; not a backup of ours")
                members[member.name] = content.read()
    except (OSError, tarfile.TarError) as error:
        raise StoreError(f"{source}: cannot be read as a backup: {error}") from error
    _check(source, members)
    return members


def _check(source: Path, members: dict[str, bytes]) -> None:
    """Nothing is made of a backup that is not whole."""
    missing = {SETTINGS_NAME, LOG_NAME, HEAD_NAME} - members.keys()
    if missing:
        raise StoreError(f"{source}: incomplete: {', '.join(sorted(missing))} missing")
    head, _ = parse_head(members[HEAD_NAME], source)
    check_lines(members[LOG_NAME], EMPTY, head, source)


def _expected(name: str) -> bool:
    path = Path(name)
    if path.parent == Path(KEYS_NAME):
        return path.name not in ("", "..") and path.suffix == ".pem"
    return name in (SETTINGS_NAME, LOG_NAME, HEAD_NAME)
