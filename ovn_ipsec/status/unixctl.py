"""A control socket that ``ovs-appctl`` talks to, served from a thread of its own.

The protocol is Open vSwitch's unixctl: JSON-RPC 1.0 (RFC 7047 section 4 for the framing) over a
unix socket, a request per command, a string (or, after ``set-options --format json``, any JSON)
as result. python-ovs has a server for it too; this one differs in what a client can do to it:
request size, number of clients and waiting time are bounded, no exception of a command ends the
thread, and it does not use ``select``, which fails for descriptors from 1024 up.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_log = logging.getLogger(__name__)

MAX_CLIENTS = 128
MAX_REQUEST_BYTES = 64 * 1024
STALL_S = 10.0
"""A client that leaves half a request, or does not read its reply, for so long is dropped."""
_BACKLOG = 1024
"""Not yet accepted clients; a full queue refuses the next one at once (EAGAIN, unix(7))."""
_CHUNK_BYTES = 64 * 1024
_SUN_PATH_BYTES = 107
_SWEEP_S = 1.0
_NICE = -10


def _hurry() -> None:
    """Have this thread scheduled before others (setpriority(2): nice is a thread's own).

    Answers are short work, and whoever asks why tunnels are not up asks while pluto and everybody
    else is busy with them. Without the right to it (CAP_SYS_NICE) it is a thread like any other.
    """
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


class _BadRequestError(Exception):
    """The client does not speak the protocol; its connection is closed."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command: how it is called and what answers. ``run`` replies now or later, once."""

    usage: str
    min_args: int
    max_args: int
    run: Callable[[Call, list[str]], None]


@dataclass(eq=False, slots=True)
class _Client:
    sock: socket.socket
    progress_s: float
    received: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)
    wants_json: bool = False
    waiting: bool = False
    """A command was called and has not replied yet."""
    eof: bool = False
    closed: bool = False
    events: int = selectors.EVENT_READ


class Call:
    """One request. The reply methods are python-ovs's, whose ``vlog/*`` callbacks use them.

    They must be called in the server's thread (``ControlServer.call_soon`` from another one).
    """

    def __init__(self, server: ControlServer, client: _Client, request_id: object) -> None:
        self._server = server
        self._client = client
        self._request_id = request_id
        self._answered = False

    @property
    def wants_json(self) -> bool:
        """The client has asked for JSON instead of text."""
        return self._client.wants_json

    def set_json(self, wanted: bool) -> None:
        """From the next reply on, this client gets JSON (or text again)."""
        self._client.wants_json = wanted

    def reply(self, text: str | None) -> None:
        """Success, with a text for people; it gets a final newline if it has none."""
        body = text or ""
        if body and not body.endswith("\n"):
            body += "\n"
        self._answer({"reply-format": "plain", "reply": body} if self.wants_json else body, None)

    def reply_json(self, value: object) -> None:
        """Success, with a JSON value, for a client that wants it."""
        self._answer(value, None)

    def reply_error(self, text: str | None) -> None:
        """Failure; ``ovs-appctl`` prints the text and exits with 2."""
        self._answer(None, (text or "failed").rstrip("\n") + "\n")

    def _answer(self, result: object, error: str | None) -> None:
        if not self._answered:
            self._answered = True
            message = {"id": self._request_id, "result": result, "error": error}
            self._server.send(self._client, json.dumps(message).encode())


class ControlServer:
    """The socket and its thread. Make it after daemonizing: threads do not survive a fork."""

    def __init__(self, path: Path, commands: Mapping[str, Command]) -> None:
        """Listen on ``path`` (replacing a stale socket). Raises OSError when that fails."""
        self._path = path
        self._commands = commands
        self._clients: set[_Client] = set()
        self._soon: deque[Callable[[], None]] = deque()
        self._more: set[_Client] = set()
        self._closing = False
        self._listener = _listen(path)
        self._wake_out, self._wake_in = socket.socketpair()
        for sock in (self._listener, self._wake_out, self._wake_in):
            sock.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_out, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="unixctl", daemon=True)

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering and remove the socket. Replies already given are sent first."""
        if self._thread.is_alive():
            self._closing = True
            self._wake()
            self._thread.join(timeout=2 * _SWEEP_S)
        else:
            self._listener.close()
        self._path.unlink(missing_ok=True)

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` run in the server's thread. Any thread may call this."""
        self._soon.append(callback)
        self._wake()

    def send(self, client: _Client, data: bytes) -> None:
        """Queue a reply and send what the socket takes now. In the server's thread only."""
        client.waiting = False
        if client.closed:
            return
        client.unsent += data
        self._flush(client)
        if client.received and not client.closed:
            self._more.add(client)

    def _wake(self) -> None:
        # Full means that a wake-up is pending already; closed means that nobody is left.
        with contextlib.suppress(BlockingIOError, OSError):
            self._wake_in.send(b"x")

    def _serve(self) -> None:
        _hurry()
        try:
            swept_s = time.monotonic()
            while not self._closing:
                swept_s = self._turn(swept_s)
        except Exception:
            _log.exception("control socket %s: the server ends; restart the agent", self._path)
            raise
        finally:
            # Also after a bug: a refused connection tells more than one that hangs.
            for client in list(self._clients):
                self._close_client(client)
            self._selector.close()
            for sock in (self._listener, self._wake_out, self._wake_in):
                sock.close()

    def _turn(self, swept_s: float) -> float:
        idle_s = _SWEEP_S if self._clients else None  # without clients there is nothing to sweep
        for key, events in self._selector.select(0 if self._more else idle_s):
            self._handle(key, events)
        while self._soon:
            self._soon.popleft()()
        for client in list(self._more):
            self._more.discard(client)
            self._take_request(client)
        now_s = time.monotonic()
        if now_s - swept_s < _SWEEP_S:
            return swept_s
        self._sweep(now_s)
        return now_s

    def _handle(self, key: selectors.SelectorKey, events: int) -> None:
        if key.fileobj is self._listener:
            self._accept()
        elif key.fileobj is self._wake_out:
            with contextlib.suppress(BlockingIOError):
                self._wake_out.recv(_CHUNK_BYTES)
        else:
            client: _Client = key.data
            if events & selectors.EVENT_WRITE:
                self._flush(client)
            if events & selectors.EVENT_READ and not client.closed:
                self._receive(client)

    def _accept(self) -> None:
        """One client per turn: those already here are served before the next one comes in."""
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            _log.warning("control socket %s: accept: %s", self._path, error.strerror)
            self._evict()
            time.sleep(0.1)  # out of descriptors: do not spin on a listener that stays ready
            return
        if len(self._clients) >= MAX_CLIENTS and not self._evict():
            sock.close()
            return
        sock.setblocking(False)
        client = _Client(sock, time.monotonic())
        self._clients.add(client)
        self._selector.register(sock, selectors.EVENT_READ, client)

    def _evict(self) -> bool:
        """Drop the client that has been idle for longest; False when every one waits for us."""
        idle = [client for client in self._clients if not client.waiting]
        if idle:
            self._close_client(min(idle, key=lambda client: client.progress_s))
        return bool(idle)

    def _sweep(self, now_s: float) -> None:
        for client in list(self._clients):
            stuck = client.unsent or (client.received and not client.waiting)
            if stuck and now_s - client.progress_s > STALL_S:
                self._close_client(client)

    def _receive(self, client: _Client) -> None:
        try:
            data = client.sock.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._close_client(client)
            return
        if not data:
            client.eof = True
            self._settle(client)
            return
        client.progress_s = time.monotonic()
        client.received += data
        self._take_request(client)

    def _take_request(self, client: _Client) -> None:
        """Call at most one command, so that a client that sends many delays nobody for long."""
        if client.waiting or client.closed or client.unsent:
            if len(client.received) > MAX_REQUEST_BYTES:
                self._close_client(client)
            return
        try:
            request, consumed = _parse(bytes(client.received))
            if consumed:
                del client.received[:consumed]
                self._call(client, request)
        except _BadRequestError as error:
            _log.warning("control socket %s: client dropped: %s", self._path, error)
            self._close_client(client)

    def _call(self, client: _Client, request: object) -> None:
        call, method, params = self._read_request(client, request)
        command = self._commands.get(method)
        client.waiting = True
        if command is None:
            call.reply_error(f'"{method}" is not a valid command')
        elif len(params) < command.min_args:
            call.reply_error(f'"{method}" command requires at least {command.min_args} arguments')
        elif len(params) > command.max_args:
            call.reply_error(f'"{method}" command takes at most {command.max_args} arguments')
        else:
            try:
                command.run(call, params)
            except Exception:  # noqa: BLE001 - one bad command must not silence the socket
                _log.exception("control socket %s: command %s failed", self._path, method)
                call.reply_error(f'"{method}" failed inside the agent; see its log')

    def _read_request(self, client: _Client, request: object) -> tuple[Call, str, list[str]]:
        if not isinstance(request, dict) or request.get("id") is None:
            raise _BadRequestError("not a JSON-RPC request")
        method, params = request.get("method"), request.get("params")
        if not isinstance(method, str) or not isinstance(params, list):
            raise _BadRequestError("a JSON-RPC request without method or params")
        if not all(isinstance(param, str) for param in params):
            raise _BadRequestError("a command with an argument that is no string")
        return Call(self, client, request["id"]), method, params

    def _flush(self, client: _Client) -> None:
        try:
            while client.unsent:
                sent = client.sock.send(client.unsent)
                del client.unsent[:sent]
                client.progress_s = time.monotonic()
        except BlockingIOError:
            pass
        except OSError:
            self._close_client(client)
            return
        self._settle(client)
        if client.received and not client.unsent and not client.waiting:
            self._more.add(client)

    def _settle(self, client: _Client) -> None:
        """Watch for what the client can do next; close it when that is nothing."""
        if client.closed:
            return
        if client.eof and not client.waiting and not client.unsent:
            self._close_client(client)
            return
        events = 0 if client.eof else selectors.EVENT_READ
        events |= selectors.EVENT_WRITE if client.unsent else 0
        if events == client.events:
            return
        if client.events == 0:
            self._selector.register(client.sock, events, client)
        elif events == 0:
            self._selector.unregister(client.sock)
        else:
            self._selector.modify(client.sock, events, client)
        client.events = events

    def _close_client(self, client: _Client) -> None:
        if not client.closed:
            client.closed = True
            if client.events:
                self._selector.unregister(client.sock)
            client.sock.close()
            self._clients.discard(client)
            self._more.discard(client)


def _parse(data: bytes) -> tuple[object, int]:
    """The first JSON value of ``data`` and the bytes it takes; 0 bytes: not complete yet."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        if len(data) - error.start < 4 and len(data) <= MAX_REQUEST_BYTES:
            return None, 0
        raise _BadRequestError("not UTF-8") from error
    start = len(text) - len(text.lstrip())
    if start == len(text):
        return None, 0 if len(data) <= MAX_REQUEST_BYTES else len(data)
    if text[start] != "{":
        raise _BadRequestError("not a JSON object")
    try:
        value, end = json.JSONDecoder().raw_decode(text, start)
    except json.JSONDecodeError as error:
        if len(data) > MAX_REQUEST_BYTES:
            raise _BadRequestError(f"no request within {MAX_REQUEST_BYTES} bytes") from error
        return None, 0
    except (ValueError, RecursionError) as error:
        raise _BadRequestError("a JSON value beyond all reason") from error
    return value, len(text[:end].encode())


def _listen(path: Path) -> socket.socket:
    """A socket at ``path`` that only our user may connect to."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory = None
    try:
        os.fchmod(listener.fileno(), 0o700)  # before bind: the file is never open to others
        address = os.fspath(path)
        if len(os.fsencode(address)) > _SUN_PATH_BYTES:
            directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
            address = f"/proc/self/fd/{directory}/{path.name}"
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    finally:
        if directory is not None:
            os.close(directory)
    return listener
