"""The few file operations that the identity's directory needs. What they promise is durable."""

from __future__ import annotations

import os
from pathlib import Path


class Disk:
    """Every change of the directory goes through here, so that tests can cut the power at each."""

    def make_directory(self, path: Path) -> None:
        """A new directory that only its owner may enter."""
        path.mkdir(mode=0o700)

    def write(self, path: Path, data: bytes) -> None:
        """A new file of mode 0600, its content on disk. An existing one is an error."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def sync(self, directory: Path) -> None:
        """The names in a directory are on disk."""
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """In one step. A directory in the way is an error unless it is empty."""
        old.rename(new)

    def replace(self, old: Path, new: Path) -> None:
        """A file takes the place of another, in one step."""
        old.replace(new)

    def remove(self, path: Path) -> None:
        """Delete a file."""
        path.unlink()

    def remove_directory(self, path: Path) -> None:
        """Delete an empty directory."""
        path.rmdir()
