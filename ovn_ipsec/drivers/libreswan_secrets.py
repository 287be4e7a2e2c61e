"""The pre-shared keys of all tunnels, in one file.

For each key that changes pluto forgets all and reads its files anew, which takes it four times as
long when they are 500. How a restarted agent knows whose a key is: by the comment above it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from ovn_ipsec.drivers.libreswan_text import HEADER
from ovn_ipsec.drivers.private_files import install

# With a dot, as no tunnel's plain stem has one.
_NAME = "all.tunnels.secrets"
_UNREAD = "keys-unread"
_ENTRY = re.compile(r"^# tunnel (\S+)\n([^#\n].*)$", re.MULTILINE)
_LOG = logging.getLogger(__name__)


class SecretsFile:
    """Lines of ipsec.secrets(5), by the file stem of their tunnel. Not thread-safe.

    The file is read once, at the first use; what is forgotten stays in it until ``settle`` or
    the next ``change``. A mark beside it stands from before a change until ``read_by_pluto``, so
    that an agent that dies in between is not the last who knew. Methods may raise OSError.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / _NAME
        self._mark = directory / _UNREAD
        self._lines: dict[str, str] | None = None
        self._written = True
        """Whether the file says what ``_lines`` says."""
        self._old: list[Path] = []
        """Files of single tunnels, as they were written before."""
        self.unread = self._mark.exists()
        """Whether pluto may not know what the file says."""

    def stems(self) -> frozenset[str]:
        """Whose lines there are."""
        return frozenset(self._read())

    def keep_only(self, stems: Collection[str]) -> None:
        """Forget what belongs to no tunnel of these."""
        for stem in self.stems().difference(stems):
            self.forget(stem)

    def forget(self, stem: str) -> None:
        """Forget one tunnel's, if it has any."""
        if self._read().pop(stem, None) is not None:
            self._written = False

    def settle(self) -> None:
        """Make the file say what there is, if it does not."""
        self._read()
        if not self._written:
            self.change({})

    def change(self, lines: Mapping[str, str | None]) -> None:
        """Set these (None: no line), and make the file say what there is."""
        merged = {**self._read(), **lines}
        wanted = {stem: line for stem, line in merged.items() if line is not None}
        entries = [f"# tunnel {stem}\n{line}\n" for stem, line in wanted.items()]
        text = "".join([HEADER, "\n", *entries]) if entries else ""
        if text != self._text():
            self._mark.touch(mode=0o600)
            self.unread = True
            if text:
                install(self._path, text)
            else:
                self._path.unlink(missing_ok=True)
        for path in self._old:
            path.unlink(missing_ok=True)
        self._lines, self._written, self._old = wanted, True, []

    def read_by_pluto(self) -> None:
        """pluto has read the file since it was changed last."""
        self._mark.unlink(missing_ok=True)
        self.unread = False

    def _read(self) -> dict[str, str]:
        if self._lines is None:
            lines = dict(_ENTRY.findall(self._text()))
            for path in self._path.parent.glob("*.secrets"):
                if path != self._path and path.is_file():
                    lines |= self._read_old(path)
            self._lines, self._written = lines, not self._old
        return self._lines

    def _read_old(self, path: Path) -> dict[str, str]:
        try:
            text = path.read_text("ascii", "replace")
        except OSError as error:
            _LOG.warning("%s: left alone: %s", path, error.strerror)
            return {}
        self._old.append(path)
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        return {path.stem: lines[-1]} if lines else {}

    def _text(self) -> str:
        try:
            return self._path.read_text("ascii", "replace")
        except FileNotFoundError:
            return ""
