"""A fresh lab for each test; a test that fails leaves what explains it in the results."""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tools.lab.lab import Lab, open_labs


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Dump every lab that still runs when a test or its set-up fails."""
    report = yield
    if report.failed and report.when != "teardown":
        name = re.sub(r"[^\w.-]+", "-", item.nodeid.removeprefix("tests/system/"))
        results = Path(os.environ.get("LAB_RESULTS_DIRECTORY", "/results"))
        (results / name).mkdir(parents=True, exist_ok=True)
        # Not only at the end of the run, which a machine that is stopped never reaches.
        (results / name / "failure.txt").write_text(report.longreprtext)
        for number, opened in enumerate(open_labs):
            opened.dump(results / name / str(number))
    return report


@pytest.fixture
def lab() -> Iterator[Lab]:
    """An underlay network without hosts."""
    with Lab() as opened:
        yield opened
