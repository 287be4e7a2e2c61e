"""Files of mode 0600 that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def install(path: Path, content: str) -> None:
    """Write ``content`` and put it in the place of what was there. Raises OSError."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    write_beside(path, content).replace(path)


def write_beside(final: Path, content: str) -> Path:
    """A hidden file beside ``final``, private before it has any content. Raises OSError."""
    temporary = final.with_name(f".{final.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        descriptor = os.open(temporary, flags, 0o600)
    except FileExistsError:  # left by an agent that was killed
        temporary.unlink()
        descriptor = os.open(temporary, flags, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except (OSError, ValueError):
        temporary.unlink(missing_ok=True)
        raise
    return temporary
