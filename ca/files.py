"""The only door to the file system, so that tests can pull the plug at any operation.

Each method is one operation that may fail or be the last before a power cut. What is durable
after which sync is POSIX's promise: data after ``sync``, names after ``sync_dir``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from ca.errors import StoreLockedError

PRIVATE_DIR = 0o700
PRIVATE_FILE = 0o600
_LONGEST_NAP_S = 0.02


class Files(Protocol):
    """File operations. All raise OSError; files are readable by their owner alone."""

    def at_once(self) -> AbstractContextManager[None]:
        """A state is made inside. It appears at the end, whole, where that is possible."""

    def make_dir(self, path: Path) -> None:
        """Make a directory of mode 0700 unless it exists."""

    def mode(self, path: Path) -> int:
        """The permission bits."""

    def names(self, path: Path) -> list[str]:
        """What is in a directory."""

    def size(self, path: Path) -> int:
        """In bytes."""

    def read(self, path: Path, offset: int = 0, size: int = -1) -> bytes:
        """Up to ``size`` bytes (all) from ``offset``."""

    def create(self, path: Path, data: bytes) -> None:
        """Make a file of mode 0600 that must not exist."""

    def append(self, path: Path, data: bytes) -> None:
        """Write at the end of an existing file."""

    def write_at(self, path: Path, offset: int, data: bytes) -> None:
        """Overwrite a part of an existing file."""

    def truncate(self, path: Path, size: int) -> None:
        """Cut an existing file."""

    def sync(self, path: Path) -> None:
        """Make a file's content durable."""

    def rename(self, old: Path, new: Path) -> None:
        """Replace ``new``."""

    def remove(self, path: Path) -> None:
        """Remove a file."""

    def sync_dir(self, path: Path) -> None:
        """Make a directory's names durable."""

    def locked(self, path: Path, timeout_s: float) -> AbstractContextManager[None]:
        """Hold the lock of this name. Raises StoreLockedError, which names the holder."""


class RealFiles:
    """The file system.

    What root writes belongs to the owner of the directory it lies in, so that commands may run
    beside a server of another user; not with ``keep_owner``.
    """

    def __init__(self, *, keep_owner: bool = False) -> None:
        self._keep_owner = keep_owner

    def at_once(self) -> AbstractContextManager[None]:
        """See ``Files``: one file after the other."""
        return contextlib.nullcontext()

    def make_dir(self, path: Path) -> None:
        """See ``Files``."""
        if path.is_dir():
            return
        path.mkdir(mode=PRIVATE_DIR, parents=True)
        with _opened(path, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
            self._give_to_owner(descriptor, path)

    def mode(self, path: Path) -> int:
        """See ``Files``."""
        return path.stat().st_mode & 0o777

    def names(self, path: Path) -> list[str]:
        """See ``Files``."""
        return sorted(item.name for item in path.iterdir())

    def size(self, path: Path) -> int:
        """See ``Files``."""
        return path.stat().st_size

    def read(self, path: Path, offset: int = 0, size: int = -1) -> bytes:
        """See ``Files``."""
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def create(self, path: Path, data: bytes) -> None:
        """See ``Files``."""
        self._write(path, os.O_CREAT | os.O_EXCL, data)

    def append(self, path: Path, data: bytes) -> None:
        """See ``Files``."""
        self._write(path, os.O_APPEND, data)

    def write_at(self, path: Path, offset: int, data: bytes) -> None:
        """See ``Files``."""
        with _opened(path, os.O_WRONLY) as descriptor:
            while data:
                written = os.pwrite(descriptor, data, offset)
                offset, data = offset + written, data[written:]

    def truncate(self, path: Path, size: int) -> None:
        """See ``Files``."""
        os.truncate(path, size)

    def sync(self, path: Path) -> None:
        """See ``Files``."""
        with _opened(path, os.O_WRONLY) as descriptor:
            os.fdatasync(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """See ``Files``."""
        old.replace(new)

    def remove(self, path: Path) -> None:
        """See ``Files``."""
        path.unlink()

    def sync_dir(self, path: Path) -> None:
        """See ``Files``."""
        with _opened(path, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
            os.fsync(descriptor)

    @contextlib.contextmanager
    def locked(self, path: Path, timeout_s: float) -> Iterator[None]:
        """See ``Files``. The kernel lets go of the lock when its holder ends, however it ends."""
        with _opened(path, os.O_RDWR | os.O_CREAT) as descriptor:
            self._give_to_owner(descriptor, path)
            _wait_for_lock(descriptor, path, timeout_s)
            os.pwrite(descriptor, f"{os.getpid():<20}\n".encode(), 0)
            yield

    def _write(self, path: Path, flags: int, data: bytes) -> None:
        with _opened(path, os.O_WRONLY | flags) as descriptor:
            self._give_to_owner(descriptor, path)
            while data:
                data = data[os.write(descriptor, data) :]

    def _give_to_owner(self, descriptor: int, path: Path) -> None:
        if os.geteuid() == 0 and not self._keep_owner:
            directory = path.parent.stat()
            os.fchown(descriptor, directory.st_uid, directory.st_gid)


def write_atomically(files: Files, path: Path, data: bytes) -> None:
    """Either the old content or the new one is there afterwards, whatever happens."""
    fresh = path.with_name(path.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        files.remove(fresh)
    files.create(fresh, data)
    files.sync(fresh)
    files.rename(fresh, path)
    files.sync_dir(path.parent)


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE_FILE)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _wait_for_lock(descriptor: int, path: Path, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    nap_s = 0.001
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
                raise StoreLockedError(
                    f"{path.parent}: process {holder or 'unknown'} has held the lock for "
                    f"{timeout_s:g} s; wait for it or end it"
                ) from None
            time.sleep(nap_s)
            nap_s = min(nap_s * 2, _LONGEST_NAP_S)
        else:
            return
