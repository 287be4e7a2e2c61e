"""The loop's priority: lowered and as it was again, or left alone."""

from __future__ import annotations

import os
import threading

import pytest

from ovn_ipsec.agent.priority import Priority


def in_a_thread(monkeypatch: pytest.MonkeyPatch, *, privileged: bool) -> list[int]:
    """nice of a thread before, while and after it gives way; the kernel's own rule is stood in
    for where this process has the right, or lacks it."""
    nice = {"now": 3}
    seen: list[int] = []

    def set_nice(_which: int, _who: int, value: int) -> None:
        if value < nice["now"] and not privileged:
            raise PermissionError
        nice["now"] = value

    monkeypatch.setattr(os, "setpriority", set_nice)
    monkeypatch.setattr(os, "getpriority", lambda _which, _who: nice["now"])

    def run() -> None:
        priority = Priority()
        for act in (priority.restore, priority.lower, priority.lower, priority.restore):
            act()
            seen.append(nice["now"])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return seen


def test_thread_that_may_come_back_gives_way_and_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert in_a_thread(monkeypatch, privileged=True) == [3, 13, 13, 3]


def test_thread_that_could_not_come_back_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_a_thread(monkeypatch, privileged=False) == [3, 3, 3, 3]
