"""The cache of the lab's images keeps what is used, and not for ever what is not."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tools.lab.machine.cache import ensure


def _build(directory: Path) -> None:
    (directory / "image").write_text("built")


def test_entries_that_nobody_used_for_weeks_go_when_another_is_built(tmp_path: Path) -> None:
    for key in ("used", "unused"):
        ensure(tmp_path / f"root-{key}", "an image", _build)
    ensure(tmp_path / "python-unused", "an image", _build)
    month_ago = time.time() - 30 * 86400
    for entry in tmp_path.iterdir():
        os.utime(entry, (month_ago, month_ago))
    ensure(tmp_path / "root-used", "an image", _build)
    ensure(tmp_path / "root-new", "an image", _build)
    assert {entry.name for entry in tmp_path.iterdir() if entry.is_dir()} == {
        "root-used",
        "root-new",
        "python-unused",
    }
