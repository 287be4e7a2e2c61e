"""Follows pluto's log, wherever it goes: a file, or the journal. Never blocks for long.

pluto logs to the file of its ``--logfile`` or of ``logfile=`` in ``config setup``; without one to
syslog, which with systemd is the journal. A file is read in the tick, at most ``MOST_BYTES`` at a
time; journalctl(1) is asked by a thread, and only while somebody wants to know.
"""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ovn_ipsec.drivers.command import run
from ovn_ipsec.drivers.libreswan_log import learn
from ovn_ipsec.drivers.libreswan_text import included_patterns
from ovn_ipsec.errors import CommandError
from ovn_ipsec.model.evidence import Evidence

MOST_BYTES = 256 * 1024
"""Of a log that grows faster, the newest part is read: what failed long ago matters least."""
JOURNAL_PERIOD_S = 10.0
JOURNAL_LINES = 2000
_JOURNAL_WAIT_S = 5.0
_JOURNALS = (Path("/run/systemd/journal/socket"), Path("/dev/log"))
_LOGFILE = re.compile(r"^[ \t]+logfile[ \t]*=[ \t]*\"?([^\"\s#]+)\"?", re.MULTILINE)
_CURSOR = "-- cursor: "


class PlutoLog:
    """What pluto's log has told so far. Not thread-safe.

    ``find_file`` says where pluto logs to, None for syslog; it is asked again for another pluto.
    """

    def __init__(
        self,
        find_file: Callable[[], Path | None],
        *,
        journalctl: Sequence[str] = ("journalctl",),
    ) -> None:
        self._find_file = find_file
        self._generation: str | None = None
        self._file: _File | None = None
        self._journal = _Journal(journalctl)
        self._evidence = Evidence()

    def read(self, generation: str, now_s: float, *, wanted: bool) -> Evidence:
        """What is known after reading what has been written since the last call.

        ``wanted``: some tunnel is not up. Without, only what costs nothing is read.
        """
        if generation and generation != self._generation:
            self._generation = generation
            path = self._find_file()
            if path is None:
                self._file = None
            elif self._file is None or self._file.path != path:
                self._file = _File(path)
        if self._generation is None:
            return replace(self._evidence, problem="pluto has not been seen yet")
        source = self._journal if self._file is None else self._file
        lines = source.read(now_s, wanted=wanted)
        self._evidence = replace(learn(self._evidence, lines, now_s), problem=source.problem)
        return self._evidence


class _File:
    """A log file, also when it is rotated or cut."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: str | None = None
        self._at: tuple[int, int] | None = None
        """Inode and offset; None before the first reading."""
        self._rest = b""

    def read(self, now_s: float, *, wanted: bool) -> list[str]:
        try:
            with self.path.open("rb") as file:
                data = self._new_part(file.fileno())
        except OSError as error:
            self.problem = f"pluto's log {self.path} cannot be read: {error.strerror}"
            return []
        self.problem = None
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()[-4096:]
        return [line.decode(errors="replace") for line in lines]

    def _new_part(self, descriptor: int) -> bytes:
        stat = os.fstat(descriptor)
        inode, offset = self._at or (stat.st_ino, max(0, stat.st_size - MOST_BYTES))
        if inode != stat.st_ino or offset > stat.st_size:
            offset, self._rest = 0, b""
        if stat.st_size - offset > MOST_BYTES:
            offset, self._rest = stat.st_size - MOST_BYTES, b""
        data = (
            os.pread(descriptor, stat.st_size - offset, offset) if stat.st_size > offset else b""
        )
        self._at = (stat.st_ino, offset + len(data))
        return data


class _Journal:
    """systemd's journal, asked now and then by a thread of its own."""

    def __init__(self, journalctl: Sequence[str]) -> None:
        self._argv = (*journalctl, "--quiet", "--no-pager", "--output=cat", "--show-cursor")
        self._cursor: str | None = None
        self._asked_at: float | None = None
        self._lines: deque[str] = deque(maxlen=JOURNAL_LINES)
        self._thread: threading.Thread | None = None
        self._found: str | None = "pluto's log has not been read yet"

    @property
    def problem(self) -> str | None:
        """Why nothing is known from it."""
        return self._found

    def read(self, now_s: float, *, wanted: bool) -> list[str]:
        busy = self._thread is not None and self._thread.is_alive()
        lines: list[str] = []
        while self._lines:
            lines.append(self._lines.popleft())
        due = self._asked_at is None or now_s - self._asked_at >= JOURNAL_PERIOD_S
        if wanted and due and not busy:
            self._asked_at = now_s
            # A daemon: it may be waiting for journalctl when the process ends.
            self._thread = threading.Thread(target=self._ask, name="pluto-log", daemon=True)
            self._thread.start()
        return lines

    def _ask(self) -> None:
        if not any(path.exists() for path in _JOURNALS):
            self._found = "pluto logs to syslog, and there is none; set logfile= in ipsec.conf"
            return
        more = ["--after-cursor", self._cursor] if self._cursor else ["--since=-10min"]
        argv = [*self._argv, "--lines", str(JOURNAL_LINES), *more, "_COMM=pluto"]
        try:
            said = run(argv, timeout_s=_JOURNAL_WAIT_S).stdout
        except CommandError as error:
            self._cursor = None
            self._found = f"pluto's log in the journal cannot be read: {error}"
            return
        lines = said.splitlines()
        if lines and lines[-1].startswith(_CURSOR):
            self._cursor = lines.pop().removeprefix(_CURSOR)
        self._lines.extend(lines)
        self._found = None


def log_file(pid: int | None, root_conf: Path) -> Path | None:
    """Where the pluto of this process id logs to; None: syslog, or unknown.

    Its command line wins over ``root_conf`` and the files that it includes (ipsec.conf(5)).
    """
    if pid is not None:
        try:
            argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            argv = []
        for word, value in zip(argv, argv[1:], strict=False):
            if word == "--logfile":
                return Path(value)
    try:
        text = root_conf.read_text("utf-8", "replace")
        texts = [text]
        for pattern in included_patterns(text):
            within = Path("/").glob(pattern.lstrip("/"))
            texts += [path.read_text("utf-8", "replace") for path in within if path.is_file()]
    except (OSError, ValueError, NotImplementedError):
        return None
    found = [match[1] for text in texts for match in _LOGFILE.finditer(text)]
    return Path(found[-1]) if found else None
