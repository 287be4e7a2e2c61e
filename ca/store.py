"""The state directory: settings, issuer keys, the issued log, and the inventory it adds up to.

::

    DIR/              0700
      settings.json   written last by init: without it there is no authority here
      log.jsonl       the issued log, and with it all that is remembered
      log.head        how far the log goes
      keys/KEYID.pem  private keys of the roots in the bundle
      lock            flock: one writer at a time; holds the writer's pid

Several processes may use one directory: a server, and an operator's commands beside it. Who
writes holds the lock, and first reads what others have written.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from ca import settings as ca_settings
from ca.authority import Issuer, key_id
from ca.chain import Head
from ca.csr import PrivateKey
from ca.entries import Entry
from ca.errors import LogTamperedError, StoreError, UsageError
from ca.files import Files, write_atomically
from ca.inventory import Inventory
from ca.log import IssuedLog
from ca.settings import CaSettings

SETTINGS_NAME = "settings.json"
KEYS_NAME = "keys"
LOCK_NAME = "lock"
LOCK_TIMEOUT_S = 10.0
_OTHERS = 0o077
_KEY_NAME = re.compile(r"[0-9a-f]{40}\.pem")


class Batch:
    """Entries that are written together, or not at all."""

    def __init__(self, inventory: Inventory) -> None:
        self.inventory = inventory
        self.entries: list[Entry] = []

    def add(self, entry: Entry) -> None:
        """Count with this entry from now on; it is durable when the transaction has ended."""
        self.inventory.apply(entry)
        self.entries.append(entry)


class Store:
    """One state directory. Not for several threads at once; ``ca.desk`` sees to that."""

    def __init__(self, files: Files, directory: Path, lock_timeout_s: float = LOCK_TIMEOUT_S):
        self._files = files
        self.directory = directory
        self._lock_timeout_s = lock_timeout_s
        self._issuers: dict[str, Issuer] = {}
        self._log = IssuedLog(files, directory)
        self.inventory = Inventory()
        self._doubtful = False
        self.settings = self._read_settings()
        self.refresh()

    @property
    def head(self) -> Head:
        """How far the log has been read."""
        return self._log.head

    def unfinished_bytes(self) -> int:
        """What an interrupted write left behind the log's last entry. Raises StoreError."""
        with self._explained("read"):
            return self._log.unfinished_bytes()

    def expect_head(self, noted: str) -> None:
        """Raise LogTamperedError unless the log once ended at the head ``COUNT:HASH``."""
        count, _, digest = noted.partition(":")
        with self._explained("read"):
            known = self._log.hash_at(int(count)) if count.isdecimal() else None
        if known is None or known != digest:
            raise LogTamperedError(
                f"{self.directory}: {noted} was never the log's head: entries were replaced, or "
                "this is another authority"
            )

    def has_news(self) -> bool:
        """Whether another process has written. Raises StoreError."""
        with self._explained("read"):
            return self._log.newest_head() != self._log.head

    def refresh(self) -> None:
        """Read what was written since the last time. Raises StoreError."""
        if self._doubtful:
            self._log = IssuedLog(self._files, self.directory)
            self.inventory = Inventory()
            self._doubtful = False
        with self._explained("read"):
            entries = self._log.read_new()
        try:
            for entry in entries:
                self.inventory.apply(entry)
        except (ValueError, KeyError) as error:
            self._doubtful = True
            raise LogTamperedError(
                f"{self.directory}: the log contradicts itself: {error!r}"
            ) from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Batch]:
        """Hold the lock, and write the batch at the end; durable when this returns.

        On any exception nothing counts. Raises StoreError when writing fails.
        """
        with contextlib.ExitStack() as stack:
            with self._explained("lock"):
                stack.enter_context(
                    self._files.locked(self.directory / LOCK_NAME, self._lock_timeout_s)
                )
            self.refresh()
            batch = Batch(self.inventory)
            # What has been applied and not been written must be forgotten again.
            self._doubtful = True
            yield batch
            if batch.entries:
                with self._explained("write"):
                    self._log.append(batch.entries)
            self._doubtful = False

    def issuer(self, root: str) -> Issuer:
        """A root of the bundle with its key, by key id. Raises StoreError."""
        if root not in self._issuers:
            certificate = x509.load_der_x509_certificate(self.inventory.roots[root].der)
            self._issuers[root] = Issuer(certificate, self._read_key(root))
        return self._issuers[root]

    def write_key(self, key: PrivateKey) -> str:
        """Keep a new root's key; returns its id. The caller holds the lock."""
        name = key_id(key.public_key())
        with self._explained("write"):
            _write_key(self._files, self.directory, key)
        return name

    def sweep_keys(self) -> None:
        """Destroy the keys of roots that are not in the bundle. The caller holds the lock."""
        kept = {f"{root}.pem" for root in self.inventory.roots}
        keys = self.directory / KEYS_NAME
        with self._explained("tidy"):
            doomed = [name for name in self._files.names(keys) if name not in kept]
            for name in doomed:
                size = self._files.size(keys / name)
                self._files.write_at(keys / name, 0, bytes(size))
                self._files.sync(keys / name)
                self._files.remove(keys / name)
            if doomed:
                self._files.sync_dir(keys)
        for root in self._issuers.keys() - self.inventory.roots.keys():
            del self._issuers[root]

    def contents(self) -> Iterator[tuple[str, bytes]]:
        """Name and content of every file of a backup. The caller holds the lock."""
        with self._explained("read"):
            yield SETTINGS_NAME, self._files.read(self.directory / SETTINGS_NAME)
            yield from self._log.contents()
            for name in self._files.names(self.directory / KEYS_NAME):
                if _KEY_NAME.fullmatch(name):
                    path = self.directory / KEYS_NAME / name
                    yield f"{KEYS_NAME}/{name}", self._files.read(path)

    def _read_settings(self) -> CaSettings:
        path = self.directory / SETTINGS_NAME
        try:
            mode = self._files.mode(self.directory)
            data = self._files.read(path)
        except FileNotFoundError:
            raise StoreError(
                f"{self.directory}: no authority is here ({SETTINGS_NAME} is missing); name "
                "another directory with --state, or make one with: ovn-ipsec-ca init"
            ) from None
        except OSError as error:
            raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
        if mode & _OTHERS:
            raise StoreError(
                f"{self.directory}: open to others (mode {mode:o}) although it holds the issuer's "
                "key; consider the key known, or run: chmod 700"
            )
        try:
            return ca_settings.from_json(data)
        except UsageError as error:
            raise StoreError(f"{path}: {error}") from error

    def _read_key(self, root: str) -> PrivateKey:
        path = self.directory / KEYS_NAME / f"{root}.pem"
        with self._explained("read"):
            data = self._files.read(path)
        try:
            key = load_pem_private_key(data, None)
        except (ValueError, TypeError) as error:
            raise StoreError(f"{path}: no private key; restore it from a backup") from error
        if not isinstance(key, PrivateKey) or key_id(key.public_key()) != root:
            raise StoreError(f"{path}: the key of another root; restore it from a backup")
        return key

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise StoreError(
                f"cannot {what} {error.filename or self.directory}: it is missing; restore the "
                "state from a backup"
            ) from error
        except OSError as error:
            where = error.filename or self.directory
            raise StoreError(
                f"cannot {what} {where}: {error.strerror or error}; nothing was issued. Check "
                "space and permissions"
            ) from error


def create(
    files: Files, directory: Path, settings: CaSettings, key: PrivateKey, entries: list[Entry]
) -> None:
    """Make a state directory, settings last: before that there is no authority here.

    Raises StoreError, above all when there is something in the directory.
    """
    try:
        with files.at_once():
            _create(files, directory, settings, key, entries)
    except OSError as error:
        raise StoreError(
            f"cannot make an authority in {directory}: {error.strerror or error}"
        ) from error


def _create(
    files: Files, directory: Path, settings: CaSettings, key: PrivateKey, entries: list[Entry]
) -> None:
    files.make_dir(directory)
    present = files.names(directory)
    if SETTINGS_NAME in present:
        raise StoreError(f"{directory}: an authority is here already; see ovn-ipsec-ca show")
    if present:
        raise StoreError(
            f"{directory}: not empty ({', '.join(present[:5])}), but no authority either; "
            "if an init was interrupted, remove its contents"
        )
    files.make_dir(directory / KEYS_NAME)
    _write_key(files, directory, key)
    log = IssuedLog(files, directory)
    log.create()
    log.append(entries)
    write_atomically(files, directory / SETTINGS_NAME, ca_settings.to_json(settings))
    files.sync_dir(directory.parent)


def rebuild_head(files: Files, directory: Path) -> None:
    """Believe the log although its head file is lost. Raises StoreError."""
    try:
        with files.locked(directory / LOCK_NAME, LOCK_TIMEOUT_S):
            IssuedLog(files, directory).rebuild_head()
    except OSError as error:
        raise StoreError(f"{directory}: cannot rebuild log.head: {error.strerror}") from error


def _write_key(files: Files, directory: Path, key: PrivateKey) -> None:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = directory / KEYS_NAME / f"{key_id(key.public_key())}.pem"
    write_atomically(files, path, pem)
