"""Pages that the cluster view of three real nodes served, byte for byte, in headless Chromium."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tools.browser.driver import ENTER, TAB, Browser, browser

pytestmark = pytest.mark.web

Pages = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def pages() -> Pages:
    results = Path(os.environ.get("LAB_PAGES", "lab-results/latest-bookworm"))
    found = list(results.glob("*/cluster-pages.json"))
    assert found, f"no pages of the lab below {results}: run `make test-web-lab`"
    kept: Pages = json.loads(found[0].read_text())
    return kept


@pytest.fixture(scope="module")
def url(pages: Pages) -> Iterator[str]:
    """Where they are served again, with the headers that they had."""

    class Again(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages.get(self.path)
            if page is None:
                self.send_error(404)
                return
            self.send_response_only(page["status"])
            for name, value in page["headers"].items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(page["body"].encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Again)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as started:
        yield started


CELLS = """
const found = {};
for (const link of document.querySelectorAll('.matrix td a'))
  found[link.getAttribute('aria-label')] =
    [link.textContent, getComputedStyle(link.closest('td')).backgroundColor];
return found;
"""


def test_each_pair_of_real_nodes_has_the_sign_and_colour_of_its_state(
    window: Browser, url: str
) -> None:
    window.open(url)
    cells = window.run(CELLS)
    down = {name: shown for name, shown in cells.items() if ": not encrypted" in name}
    well = {name: shown for name, shown in cells.items() if ": encrypted, say both" in name}
    assert {name.partition(":")[0] for name in down} == {"a and c", "c and a"}
    assert len(well) == 4 and len(cells) == 6
    (red,), (green,) = ({tuple(shown) for shown in group.values()} for group in (down, well))
    assert (red[0], green[0]) == ("✗", "✓")
    transparent = "rgba(0, 0, 0, 0)"
    assert red[1] != green[1] and transparent not in (red[1], green[1])


def test_keyboard_leads_to_the_broken_pair_where_each_side_says_why(
    window: Browser, url: str, pages: Pages
) -> None:
    told = json.loads(pages["/cluster.json"]["body"])
    (broken,) = (pair for pair in told["pairs"] if pair["state"] == "down")
    causes = [rows[0]["cause"] for rows in broken["tunnels"]]
    assert causes[0] != causes[1]
    window.open(url)
    for _ in range(30):
        window.press(TAB)
        focused = window.run("return document.activeElement.getAttribute('aria-label') || ''")
        if focused.startswith("a and c: not encrypted"):
            break
    else:
        pytest.fail("no Tab led to the pair")
    window.press(ENTER)
    assert "/pair/" in window.url
    text = window.run("return document.body.innerText")
    first, second = text.split("c says")
    assert "a says" in first and causes[0] in first
    assert causes[1] in second


def test_link_leads_from_a_well_pair_to_a_node_and_its_certificate(
    window: Browser, url: str
) -> None:
    window.open(url)
    rows = window.run(
        "const rows = document.querySelectorAll('#nodes ~ .wide tbody tr');"
        "return [...rows].map(row => row.innerText)"
    )
    assert [row.split("\t")[0] for row in rows] == ["a", "b", "c"]
    assert all("enforce" in row and row.count("days left") == 2 for row in rows)
    window.run("document.querySelector('.matrix td.encrypted a').click()")
    wait_for(window, "/pair/")
    text = window.run("return document.body.innerText")
    assert "encrypted, say both ends" in text and "Cipher" in text
    window.run("document.querySelector('h2 a').click()")
    wait_for(window, "/node/")
    facts = window.run("return document.querySelector('dl').innerText")
    assert "days left" in facts and "enforce" in facts


def wait_for(window: Browser, part: str) -> None:
    """A click that leads on returns before the page is there."""
    for _ in range(100):
        if part in window.url and window.run("return document.readyState") == "complete":
            return
    pytest.fail(f"{window.url}: not on {part}")
