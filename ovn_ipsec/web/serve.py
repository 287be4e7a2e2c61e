"""The pages over HTTP, on loopback: whoever may look reaches it by ssh or a proxy that asks who.

Only GET, no cookies, nothing to change. A request for another host's name is refused, so that no
page of somebody else's can read this one by a name that it points to 127.0.0.1 (DNS rebinding).
"""

from __future__ import annotations

import re
import socket
import sys
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from socketserver import TCPServer
from typing import Any

from ovn_ipsec.settings import HttpAddress
from ovn_ipsec.web.collect import Collector
from ovn_ipsec.web.page import front, missing_page, node_page, pair_page
from ovn_ipsec.web.style import CSS
from ovn_ipsec.web.text import render_json

POLICY = (
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HTML, _JSON, _STYLE = "text/html", "application/json", "text/css"
_PAGE = re.compile(r"/(node|pair)/([0-9a-f]{16})(?:/([0-9a-f]{16}))?")
_READ_TIMEOUT_S = 10.0

Answer = tuple[HTTPStatus, str, str]


def answer(collector: Collector, path: str) -> Answer:
    """Status, media type and body."""
    cluster = collector.cluster()
    if path == "/":
        return HTTPStatus.OK, _HTML, front(cluster, collector.bars())
    if path == "/style.css":
        return HTTPStatus.OK, _STYLE, CSS
    if path == "/cluster.json":
        return HTTPStatus.OK, _JSON, render_json(cluster)
    match = _PAGE.fullmatch(path)
    places = {node.key: number for number, node in enumerate(cluster.nodes)}
    one, other = (places.get(key or "") for key in match.groups()[1:]) if match else (None, None)
    if match and one is not None:
        if match[1] == "node" and match[3] is None:
            bars = collector.bars(cluster.nodes[one].name)
            return HTTPStatus.OK, _HTML, node_page(cluster, one, bars)
        if match[1] == "pair" and other is not None and other != one:
            return HTTPStatus.OK, _HTML, pair_page(cluster, one, other)
    return HTTPStatus.NOT_FOUND, _HTML, missing_page()


class WebServer(ThreadingHTTPServer):
    """Listens until ``close``; the caller runs ``serve_forever``."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, at: HttpAddress, collector: Collector) -> None:
        """Raises OSError: the port is taken."""
        self.address_family = socket.AF_INET6 if ":" in at.address else socket.AF_INET
        self.collector = collector
        super().__init__((at.address, at.port), _Handler)

    def server_bind(self) -> None:
        """Not HTTPServer's, which looks the address up in DNS."""
        TCPServer.server_bind(self)
        self.server_port = int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is nothing to tell."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def may_ask(host: str | None) -> bool:
    """Whether a Host header names this host itself: loopback, or no name at all (HTTP/1.0)."""
    if host is None:
        return True
    name = re.sub(r":[0-9]+$", "", host)
    try:
        return ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return name.lower() == "localhost"


class _Handler(BaseHTTPRequestHandler):
    server: WebServer
    timeout = _READ_TIMEOUT_S
    protocol_version = "HTTP/1.0"
    server_version = "ovn-ipsec"
    sys_version = ""

    def do_GET(self) -> None:
        began_s = time.perf_counter()
        if may_ask(self.headers["Host"]):
            status, media_type, body = answer(self.server.collector, self.path.partition("?")[0])
        else:
            status, media_type = HTTPStatus.MISDIRECTED_REQUEST, "text/plain"
            body = "ask by 127.0.0.1 or localhost; a proxy must set Host so\n"
        data = body.encode("utf-8", "replace")
        self.send_response(status)
        self.send_header("Content-Type", f"{media_type}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        made_ms = (time.perf_counter() - began_s) * 1000
        self.send_header("Server-Timing", f"page;dur={made_ms:.1f}")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Nobody needs a line for each look."""
