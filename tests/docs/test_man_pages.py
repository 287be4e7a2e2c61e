"""The man pages, as mandoc and man read them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools.reference import PROJECT

pytestmark = pytest.mark.docs

PAGES = sorted((PROJECT / "share/man/man8").glob("*.8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_has_nothing_that_mandoc_finds_fault_with(page: Path) -> None:
    done = subprocess.run(["mandoc", "-T", "lint", page], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
