"""Drives a browser: chromedriver speaks HTTP and JSON (W3C WebDriver), no more is needed."""

from __future__ import annotations

import base64
import http.client
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

INSTALL = Path(__file__).with_name("install.sh")
ANSWER_S = 60
TAB, ENTER = "\ue004", "\ue007"
"""WebDriver, section 17.4.2: keys."""
_FLAGS = (
    "--headless",
    "--no-sandbox",  # tests run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1200,900",
)


class BrowserError(Exception):
    """The browser did not do what was asked."""


class Browser:
    """One window."""

    def __init__(self, port: int, session: str) -> None:
        self._port = port
        self._base = f"/session/{session}"

    def open(self, url: str) -> None:
        """Go there, until the page and what it needs are loaded."""
        self._do("POST", "/url", {"url": url})

    @property
    def url(self) -> str:
        """Where it is."""
        return str(self._do("GET", "/url"))

    def run(self, script: str) -> Any:
        """What the body of a function returns that runs in the page."""
        return self._do("POST", "/execute/sync", {"script": script, "args": []})

    def press(self, key: str) -> None:
        """One key, as a keyboard sends it."""
        taps = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        source = {"type": "key", "id": "keyboard", "actions": taps}
        self._do("POST", "/actions", {"actions": [source]})

    def picture(self) -> bytes:
        """The window as PNG."""
        return base64.b64decode(self._do("GET", "/screenshot"))

    def _do(self, method: str, path: str, body: object = None) -> Any:
        return _ask(self._port, method, self._base + path, body)

    def quit(self) -> None:
        """End the window and its browser."""
        self._do("DELETE", "")


@contextmanager
def browser() -> Iterator[Browser]:
    """Installs what is missing, starts, and ends all that it started."""
    subprocess.run([INSTALL], check=True)
    with tempfile.TemporaryDirectory() as scratch:
        process = subprocess.Popen(
            ["chromedriver", "--port=0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            port = _port_of(process)
            options = {"args": [*_FLAGS, f"--user-data-dir={scratch}/profile"]}
            wanted = {"alwaysMatch": {"goog:chromeOptions": options}}
            made = _ask(port, "POST", "/session", {"capabilities": wanted})
            window = Browser(port, made["sessionId"])
            try:
                yield window
            finally:
                window.quit()
        finally:
            process.terminate()
            process.wait(30)


def _port_of(process: subprocess.Popen[str]) -> int:
    for line in process.stdout or ():
        if found := re.search(r"started successfully on port (\d+)", line):
            return int(found[1])
    raise BrowserError("chromedriver ended before it listened")


def _ask(port: int, method: str, path: str, body: object) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json"})
        value = json.loads(connection.getresponse().read())["value"]
    finally:
        connection.close()
    if isinstance(value, dict) and "error" in value:
        raise BrowserError(f"{method} {path}: {value['error']}: {value['message']}")
    return value
