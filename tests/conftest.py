"""Splits a run among machines that work side by side."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep every Nth test: with LAB_SHARD=2/3 the second, the fifth, and so on."""
    share = os.environ.get("LAB_SHARD")
    if not share:
        return
    number, of = (int(part) for part in share.split("/"))
    mine = items[number - 1 :: of]
    config.hook.pytest_deselected(items=[item for item in items if item not in mine])
    items[:] = mine
