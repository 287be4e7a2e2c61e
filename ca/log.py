"""The issued log on disk: append-only, and told to nobody before it is durable.

Order of a write: lines, sync, head, sync. The head's two slots are written in turn, so that a
power cut while one is written leaves the other. Whatever the head covers must be there
unchanged, else the log was tampered with; whatever goes beyond it was told to nobody, and the
next writer cuts it off.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ca.chain import (
    EMPTY,
    HEAD_NAME,
    LOG_NAME,
    PAGE,
    REMEDY,
    Head,
    check_lines,
    follow_chain,
    parse_head,
    render_head,
    render_lines,
)
from ca.entries import Entry
from ca.errors import LogTamperedError
from ca.files import Files, write_atomically


class IssuedLog:
    """The log of one state directory, read up to ``head``."""

    def __init__(self, files: Files, directory: Path) -> None:
        self._files = files
        self._log = directory / LOG_NAME
        self._head = directory / HEAD_NAME
        self.head = EMPTY

    def create(self) -> None:
        """A new, empty log. Raises OSError, also when there is one."""
        self._files.create(self._log, b"")
        self._files.create(self._head, render_head(EMPTY) + bytes(PAGE))
        self._files.sync(self._log)
        self._files.sync(self._head)
        self._files.sync_dir(self._log.parent)

    def newest_head(self) -> Head:
        """What the head file says now. Raises OSError and LogTamperedError."""
        return parse_head(self._files.read(self._head), self._head)[0]

    def read_new(self) -> list[Entry]:
        """What was written since the last call, by whatever process.

        Raises OSError and LogTamperedError.
        """
        head = self.newest_head()
        if head.count < self.head.count:
            # Both slots were written while they were being read: look again.
            head = self.newest_head()
        if head == self.head:
            return []
        if head.count <= self.head.count:
            raise LogTamperedError(
                f"{self._head}: goes back from entry {self.head.count} to {head.count}; {REMEDY}"
            )
        data = self._files.read(self._log, self.head.size, head.size - self.head.size)
        entries = check_lines(data, self.head, head, self._log)
        self.head = head
        return entries

    def append(self, entries: list[Entry]) -> None:
        """Write durably. The caller holds the lock and has read what is new. Raises OSError."""
        size = self._files.size(self._log)
        if size < self.head.size:
            raise LogTamperedError(f"{self._log}: shorter than {self._head} says; {REMEDY}")
        if size > self.head.size:
            self._files.truncate(self._log, self.head.size)
        lines, head = render_lines(entries, self.head)
        self._files.append(self._log, lines)
        self._files.sync(self._log)
        _, slot = parse_head(self._files.read(self._head), self._head)
        self._files.write_at(self._head, (1 - slot) * PAGE, render_head(head))
        self._files.sync(self._head)
        self.head = head

    def unfinished_bytes(self) -> int:
        """What an interrupted write left beyond the head."""
        return self._files.size(self._log) - self.head.size

    def hash_at(self, count: int) -> str | None:
        """The hash of an entry by number, as the line says; None for one that is not there."""
        lines = self._files.read(self._log, 0, self.head.size).split(b"\n")[:-1]
        if not 1 <= count <= len(lines):
            return None
        return str(json.loads(lines[count - 1])["hash"])

    def contents(self) -> Iterator[tuple[str, bytes]]:
        """Both files as far as they have been read, for a backup. Raises OSError."""
        yield LOG_NAME, self._files.read(self._log, 0, self.head.size)
        yield HEAD_NAME, render_head(self.head) + bytes(PAGE)

    def rebuild_head(self) -> list[Entry]:
        """Believe the log as it is, when the head file was lost. The caller holds the lock."""
        data = self._files.read(self._log)
        whole = data[: data.rfind(b"\n") + 1]
        entries, head = follow_chain(whole, EMPTY, self._log)
        write_atomically(self._files, self._head, render_head(head) + bytes(PAGE))
        self.head = head
        return entries
