"""The pre-shared keys of all tunnels, in one file.

For each key that changes pluto forgets all and reads its files anew, which takes it four times as
long when they are 500. How a restarted agent knows whose a key is: by the comment above it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from ovn_ipsec.drivers.libreswan_text import HEADER
from ovn_ipsec.drivers.private_files import install

# With a dot, as no tunnel's plain stem has one.
_NAME = "all.tunnels.secrets"
_ENTRY = re.compile(r"^# tunnel (\S+)\n([^#\n].*)$", re.MULTILINE)


class SecretsFile:
    """Lines of ipsec.secrets(5), by the file stem of their tunnel. Not thread-safe.

    The file is read once, at the first use; what is forgotten stays in it until the next
    ``change``. Every method may raise OSError, and has then changed nothing.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / _NAME
        self._lines: dict[str, str] | None = None
        self._old: list[Path] = []
        """Files of single tunnels, as they were written before."""

    def stems(self) -> frozenset[str]:
        """Whose lines there are."""
        return frozenset(self._read())

    def keep_only(self, stems: Collection[str]) -> None:
        """Forget what belongs to no tunnel of these."""
        for stem in self.stems().difference(stems):
            self.forget(stem)

    def forget(self, stem: str) -> bool:
        """Forget one tunnel's; whether it had any."""
        return self._read().pop(stem, None) is not None

    def change(self, lines: Mapping[str, str | None]) -> bool:
        """Set these (None: no line) and make the file say what there is; whether it did not."""
        merged = {**self._read(), **lines}
        wanted = {stem: line for stem, line in merged.items() if line is not None}
        entries = [f"# tunnel {stem}\n{line}\n" for stem, line in wanted.items()]
        text = "".join([HEADER, "\n", *entries]) if entries else ""
        changed = text != self._text()
        if changed and text:
            install(self._path, text)
        elif changed:
            self._path.unlink(missing_ok=True)
        for path in self._old:
            path.unlink(missing_ok=True)
        self._lines, self._old = wanted, []
        return changed

    def _read(self) -> dict[str, str]:
        if self._lines is None:
            lines = dict(_ENTRY.findall(self._text()))
            old = [path for path in self._path.parent.glob("*.secrets") if path != self._path]
            for path in old:
                for line in path.read_text("ascii", "replace").splitlines():
                    if not line.startswith("#"):
                        lines.setdefault(path.stem, line)
            self._lines, self._old = lines, old
        return self._lines

    def _text(self) -> str:
        try:
            return self._path.read_text("ascii", "replace")
        except FileNotFoundError:
            return ""
