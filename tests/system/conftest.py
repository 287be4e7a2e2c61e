"""A fresh lab for each test; a test that fails leaves what explains it in the results."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.lab.lab import Lab

_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Remember a failed call, for the fixture that cleans up after it."""
    report = yield
    if report.when == "call":
        item.stash[_FAILED] = report.failed
    return report


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """An underlay network without hosts."""
    with Lab() as opened:
        yield opened
        if request.node.stash.get(_FAILED, False):
            name = re.sub(r"[^\w.-]+", "-", request.node.name)
            opened.dump(Path(os.environ.get("LAB_RESULTS_DIRECTORY", "/results")) / name)
