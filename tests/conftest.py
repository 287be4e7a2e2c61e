"""Splits a run among machines that work side by side."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from hypothesis import settings

# A busy machine is slow; how slow is no finding about the code. CI judges a change by the same
# examples each time; whoever runs the tests at a desk looks for new ones.
settings.register_profile("any-machine", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("any-machine")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a test that was skipped is a test that is missing; the lab judges its own runs so."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if "CI" in os.environ and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


_MODULE_WEIGHT = 8
"""Starting a module's nodes takes about as long as so many of its tests."""


@pytest.hookimpl(trylast=True)  # after -m and -k: what is left out weighs nothing
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep this machine's share: with LAB_SHARD=2/3 the second of three.

    Whole modules, because their tests share a running lab; the largest are dealt first.
    """
    share = os.environ.get("LAB_SHARD")
    if not share:
        return
    number, of = (int(part) for part in share.split("/"))
    sizes = Counter(item.path for item in items)
    loads = [0] * of
    mine = set()
    for path, size in sorted(sizes.items(), key=lambda entry: (-entry[1], entry[0])):
        lightest = loads.index(min(loads))
        loads[lightest] += _MODULE_WEIGHT + size
        if lightest == number - 1:
            mine.add(path)
    config.hook.pytest_deselected(items=[item for item in items if item.path not in mine])
    items[:] = [item for item in items if item.path in mine]
