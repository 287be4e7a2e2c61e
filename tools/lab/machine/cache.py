"""The cache of built images: each entry appears at once and complete, or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

_KEPT_UNUSED_S = 14 * 86400


def cache_dir() -> Path:
    """``$XDG_CACHE_HOME/ovn-ipsec/lab``, made if it is missing."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = Path(base) / "ovn-ipsec" / "lab"
    path.mkdir(parents=True, exist_ok=True)
    return path


def say(message: str) -> None:
    """Tell the person who waits; standard output is left to the tests in the machine."""
    sys.stderr.write(f"lab: {message}\n")
    sys.stderr.flush()


def ensure(entry: Path, what: str, build: Callable[[Path], None]) -> Path:
    """Return `entry`, having `build` fill a new directory that then takes its name.

    Concurrent callers wait for the first one. A build that fails leaves nothing behind. Entries
    of the same kind (``KIND-KEY``) that nobody has used for two weeks go when one is built.
    """
    if entry.is_dir():
        os.utime(entry)
        return entry
    with entry.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if entry.is_dir():
            return entry
        say(f"building {what} (kept in {entry})")
        started = time.monotonic()
        unfinished = Path(tempfile.mkdtemp(prefix=f"{entry.name}.", dir=entry.parent))
        try:
            unfinished.chmod(0o755)
            build(unfinished)
            unfinished.rename(entry)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        say(f"built {what} in {time.monotonic() - started:.0f} s")
    _forget_unused(entry)
    return entry


def _forget_unused(newest: Path) -> None:
    kind = newest.name.rpartition("-")[0]
    for entry in newest.parent.glob(f"{kind}-*"):
        if entry == newest or not entry.is_dir():  # a lock may have gone with its entry
            continue
        if time.time() - entry.stat().st_mtime > _KEPT_UNUSED_S:
            shutil.rmtree(entry, ignore_errors=True)
            entry.with_suffix(".lock").unlink(missing_ok=True)
