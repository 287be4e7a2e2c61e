"""A browser, and pages of clusters that it can look at."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import pytest

from ovn_ipsec.settings import HttpAddress
from ovn_ipsec.web.collect import Collector
from ovn_ipsec.web.merge import merge
from ovn_ipsec.web.model import NodeReport
from ovn_ipsec.web.serve import WebServer
from tests.simulated import NOW
from tools.browser.driver import Browser, browser

Serve = Callable[[Sequence[NodeReport]], str]


class Simulated(Collector):
    """Has been told all that it will ever know."""

    def __init__(self, reports: Sequence[NodeReport]) -> None:
        super().__init__((), None, None, lambda: NOW)
        self._cluster = merge(reports, NOW)
        for number, at_s in enumerate(range(-3000, 60, 60)):
            self._history.note("node-1", NOW.timestamp() + at_s, number * number)


@pytest.fixture(scope="session")
def window() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:

        def start(reports: Sequence[NodeReport]) -> str:
            server = WebServer(HttpAddress("127.0.0.1", 0), Simulated(reports))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}/"

        yield start
