"""A disk in memory that fails, or loses its power, at the operation that a test chooses.

It keeps what POSIX promises and no more: content is durable after ``sync``, names after
``sync_dir``. Of everything else a power cut leaves some, none, or a torn part.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import random
from collections.abc import Iterator
from pathlib import Path


class PowerCut(BaseException):
    """Not an Exception: no code may go on after it."""


class _File:
    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.durable = b""


class Disk:
    """``ca.files.Files`` in memory."""

    def __init__(self) -> None:
        self.now: dict[Path, _File] = {}
        self.durable: dict[Path, _File] = {}
        self.directories: set[Path] = set()
        self.operations = 0
        self.writes = 0
        self.fail_at: int | None = None
        """Of all operations: this one raises OSError, when it has been done in part."""
        self.cut_at: int | None = None
        """Of those that write: at this one the power goes."""

    def copy(self) -> Disk:
        """The same disk in another world."""
        return copy.deepcopy(self)

    def after_power_cut(self, seed: int) -> Disk:
        """What is there when the power is back."""
        dice = random.Random(seed)
        disk = Disk()
        disk.directories = set(self.directories)
        for path in sorted(self.now.keys() | self.durable.keys()):
            before, after = self.durable.get(path), self.now.get(path)
            file = before if before is after else dice.choice([before, after])
            if file is not None:
                content = _remains(bytes(file.data), file.durable, dice)
                survivor = disk.now[path] = disk.durable[path] = _File(content)
                survivor.durable = content
        return disk

    def at_once(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def make_dir(self, path: Path) -> None:
        self._operate(path)
        self.directories.add(path)

    def mode(self, path: Path) -> int:
        self._operate(path)
        if path not in self.directories:
            raise FileNotFoundError(errno.ENOENT, "missing", str(path))
        return 0o700

    def names(self, path: Path) -> list[str]:
        self._operate(path)
        children = self.now.keys() | self.directories
        return sorted(child.name for child in children if child.parent == path)

    def size(self, path: Path) -> int:
        self._operate(path)
        return len(self._file(path).data)

    def read(self, path: Path, offset: int = 0, size: int = -1) -> bytes:
        self._operate(path)
        data = bytes(self._file(path).data)
        return data[offset:] if size < 0 else data[offset : offset + size]

    def create(self, path: Path, data: bytes) -> None:
        if path in self.now:
            raise FileExistsError(errno.EEXIST, "exists", str(path))
        self.now[path] = _File()
        with self._writing(path):
            self.now[path].data += data

    def append(self, path: Path, data: bytes) -> None:
        with self._writing(path):
            self._file(path).data += data

    def write_at(self, path: Path, offset: int, data: bytes) -> None:
        with self._writing(path):
            self._file(path).data[offset : offset + len(data)] = data

    def truncate(self, path: Path, size: int) -> None:
        with self._writing(path):
            del self._file(path).data[size:]

    def sync(self, path: Path) -> None:
        with self._writing(path, torn=False):
            file = self._file(path)
            file.durable = bytes(file.data)

    def rename(self, old: Path, new: Path) -> None:
        with self._writing(old, torn=False):
            self.now[new] = self.now.pop(old)

    def remove(self, path: Path) -> None:
        self._file(path)
        with self._writing(path, torn=False):
            del self.now[path]

    def sync_dir(self, path: Path) -> None:
        with self._writing(path, torn=False):
            for name in self.now.keys() | self.durable.keys():
                if name.parent == path:
                    self._sync_name(name)

    @contextlib.contextmanager
    def locked(self, path: Path, timeout_s: float) -> Iterator[None]:
        self._operate(path)
        yield

    def _sync_name(self, name: Path) -> None:
        if name in self.now:
            self.durable[name] = self.now[name]
        else:
            del self.durable[name]

    def _file(self, path: Path) -> _File:
        if path not in self.now:
            raise FileNotFoundError(errno.ENOENT, "missing", str(path))
        return self.now[path]

    def _operate(self, path: Path) -> None:
        self.operations += 1
        if self.operations == self.fail_at:
            raise OSError(errno.EIO, "the disk fails", str(path))

    @contextlib.contextmanager
    def _writing(self, path: Path, *, torn: bool = True) -> Iterator[None]:
        """Half of the write is done when it fails; all or nothing when it is one step."""
        self.operations += 1
        self.writes += 1
        fails, cut = self.operations == self.fail_at, self.writes == self.cut_at
        if not torn and (fails or cut):
            self._stop(path, cut=cut)
        before = bytes(self.now[path].data) if path in self.now else b""
        yield
        if fails or cut:
            if path in self.now and not cut:
                self.now[path].data = bytearray(_torn(before, bytes(self.now[path].data)))
            self._stop(path, cut=cut)

    def _stop(self, path: Path, *, cut: bool) -> None:
        if cut:
            raise PowerCut
        raise OSError(errno.ENOSPC, "the disk is full", str(path))


def _torn(before: bytes, after: bytes) -> bytes:
    """The first half of what differs is new."""
    size = max(len(before), len(after))
    old, new = before.ljust(size, b"\0"), after.ljust(size, b"\0")
    differing = [i for i in range(size) if old[i] != new[i]] or [0]
    middle = (differing[0] + differing[-1] + 1) // 2
    return (new[:middle] + old[middle:])[: max(len(before), min(middle, len(after)))]


def _remains(volatile: bytes, durable: bytes, dice: random.Random) -> bytes:
    if volatile == durable:
        return durable
    kind = dice.choice(["old", "new", "torn", "zeros"])
    if kind == "old":
        return durable
    if kind == "new":
        return volatile
    torn = _torn(durable, volatile)
    if kind == "zeros" and len(volatile) > len(durable) and volatile.startswith(durable):
        # The size is durable and the content is not.
        return durable + bytes(len(volatile) - len(durable))
    return torn
