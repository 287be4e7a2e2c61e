"""Small files that somebody else writes, parsed again only when their stat signature changed.

A file that did not change costs one stat(2). Nothing here blocks or raises.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from ovn_ipsec.sources.pem import PemProblem

_LOG = logging.getLogger(__name__)

MAX_FILE_BYTES = 1 << 20

Signature = tuple[int, int, int, int, int]
"""dev, ino, size, mtime_ns, ctime_ns."""


class Parsed(Protocol):
    """What a file says, or what is wrong with it."""

    @property
    def problem(self) -> str | None:
        """None: nothing."""


Fact = TypeVar("Fact", bound=Parsed)


class ParsedFiles(Generic[Fact]):
    """Files of one kind, by path."""

    def __init__(
        self, parse: Callable[[str, bytes], Fact], failed: Callable[[str, str], Fact]
    ) -> None:
        """``parse`` may raise PemProblem; ``failed`` makes a fact of a path and its problem."""
        self._parse = parse
        self._failed = failed
        self._known: dict[str, tuple[Signature, Fact]] = {}

    def read(self, path: str) -> Fact:
        """The file as it is now; the same object while the file is the same."""
        known = self._known.get(path)
        try:
            if known and known[0] == _signature(Path(path).stat()):
                return known[1]
            signature, data = _read(path)
        except (OSError, ValueError) as error:
            # ValueError: a NUL or a lone surrogate in a path from OVSDB.
            self._known.pop(path, None)
            reason = error.strerror if isinstance(error, OSError) else "not a possible path"
            text = f"{path!r}: cannot be read: {reason}; check the path and its mode"
            return self._failed(path, text)
        except PemProblem as problem:
            self._known.pop(path, None)
            return self._failed(path, f"{path!r} {problem}")
        try:
            fact = self._parse(path, data)
        except PemProblem as problem:
            fact = self._failed(path, f"{path!r} {problem}")
        _LOG.info("Read %r%s", path, ": " + fact.problem if fact.problem else "")
        self._known[path] = (signature, fact)
        return fact

    def forget_others(self, named: Collection[str | None]) -> None:
        """Drop what is known of files that are not named any more."""
        for path in self._known.keys() - set(named):
            del self._known[path]


def _read(path: str) -> tuple[Signature, bytes]:
    """The content with the signature that it had before it was read.

    O_NONBLOCK: opening a FIFO must not wait for a writer.
    """
    if not path.startswith("/"):
        raise PemProblem("is a relative path; give an absolute one")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise PemProblem("is not a regular file; name the PEM file itself")
        if status.st_size > MAX_FILE_BYTES:
            raise PemProblem(f"has {status.st_size} bytes; a PEM file is under {MAX_FILE_BYTES}")
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise PemProblem(f"has over {MAX_FILE_BYTES} bytes; a PEM file has fewer")
    if not data.strip():
        raise PemProblem("is empty; write the PEM text into it")
    return _signature(status), data


def _signature(status: os.stat_result) -> Signature:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
