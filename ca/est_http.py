"""HTTP/1.1 over TLS 1.3 for a few small resources, with a bound on everything a client can spend.

h11 reads and writes the protocol, asyncio moves the bytes. No ready-made server would do: uvicorn
and hypercorn hand no application the client's certificate, aiohttp's gives a client all the time
it likes for its headers. h11 has no dependencies of its own.

Bounded are: the TLS handshake, the time until a request is complete, its header and body bytes,
the time in which an answer must be taken, and connections, in all and per address.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

import h11

_LOG = logging.getLogger(__name__)

_READ_BYTES = 16 << 10
_CLOSE_S = 1.0
_LINGER_BYTES = 8 << 20
_ACCEPT_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client, and all together, may use."""

    body_bytes: int = 64 << 10
    header_bytes: int = 16 << 10
    handshake_s: float = 10.0
    request_s: float = 15.0
    """From when a request may begin until its last byte is here; so idle connections end, too."""
    answer_s: float = 15.0
    """Until the client has taken the answer."""
    linger_s: float = 1.0
    """How long a refused body is thrown away, so that the client gets to read the refusal."""
    requests_per_connection: int = 100
    connections: int = 2048
    """Further ones wait to be accepted."""
    connections_per_address: int = 256
    """Further ones are closed at once, so that one machine cannot take all."""


@dataclass(frozen=True, slots=True)
class Request:
    """One complete request."""

    method: str
    path: str
    """Without the query."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """By lower-case name; repeated ones joined by a comma."""
    body: bytes = b""
    peer: bytes | None = None
    """The client's certificate (DER), verified by TLS against the roots."""


@dataclass(frozen=True, slots=True)
class Response:
    """One answer. Content-Length is added."""

    status: HTTPStatus
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[Request], Awaitable[Response]]


class _Refused(Exception):
    """The request is not read to its end."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status)
        self.status = status


class HttpServer:
    """Accepts connections on one listening socket and gives requests to a handler."""

    def __init__(
        self,
        listener: socket.socket,
        handler: Handler,
        context: Callable[[], Awaitable[ssl.SSLContext]],
        limits: Limits,
    ) -> None:
        """``context`` is asked for each connection, so a new certificate holds from then on."""
        self._listener = listener
        self._handler = handler
        self._context = context
        self._limits = limits
        self._room = asyncio.Semaphore(limits.connections)
        self._by_address: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until cancelled; then every connection is closed."""
        self._listener.setblocking(False)
        try:
            while True:
                await self._room.acquire()
                connection, address = await self._accept()
                task = asyncio.create_task(self._serve(connection, address))
                self._tasks.add(task)
                task.add_done_callback(self._ended)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._room.release()
        if not task.cancelled() and task.exception() is not None:
            _LOG.error("A connection ended by a fault", exc_info=task.exception())

    async def _accept(self) -> tuple[socket.socket, str]:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self._listener)
            except ConnectionAbortedError:
                continue
            except OSError as error:  # out of descriptors: those in use will end
                _LOG.error("No connection can be accepted: %s", error.strerror)
                await asyncio.sleep(_ACCEPT_PAUSE_S)
                continue
            host = str(address[0])
            if self._by_address[host] < self._limits.connections_per_address:
                return connection, host
            connection.close()

    async def _serve(self, connection: socket.socket, host: str) -> None:
        self._by_address[host] += 1
        try:
            reader, writer = await self._handshake(connection)
            try:
                await _Conversation(reader, writer, self._handler, self._limits).run()
            finally:
                await _close(writer)
        except (OSError, ssl.SSLError, TimeoutError) as error:
            # Clients come and go as they like; what they did is not worth a line each.
            _LOG.debug("%s: connection ended: %s", host, error)
        finally:
            connection.close()
            self._by_address[host] -= 1
            if not self._by_address[host]:
                del self._by_address[host]

    async def _handshake(
        self, connection: socket.socket
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol,
            connection,
            ssl=await self._context(),
            ssl_handshake_timeout=self._limits.handshake_s,
            ssl_shutdown_timeout=_CLOSE_S,
        )
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        async with asyncio.timeout(2 * _CLOSE_S):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        writer.transport.abort()


class _Conversation:
    """The requests of one connection, one after the other."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        handler: Handler,
        limits: Limits,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._handler = handler
        self._limits = limits
        self._peer: bytes | None = writer.get_extra_info("ssl_object").getpeercert(True)
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.header_bytes)

    async def run(self) -> None:
        for _ in range(self._limits.requests_per_connection):
            try:
                async with asyncio.timeout(self._limits.request_s):
                    request = await self._request()
            except _Refused as refused:
                await self._refuse(refused.status)
                return
            except h11.RemoteProtocolError as error:
                await self._refuse(HTTPStatus(error.error_status_hint))
                return
            if request is None:
                return
            await self._send(await self._answer(request))
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    async def _request(self) -> Request | None:
        """The next request; None when the client has ended the conversation."""
        head = await self._event()
        if not isinstance(head, h11.Request):
            return None
        headers: dict[str, str] = {}
        for name, value in head.headers:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        length = headers.get("content-length", "0")
        # Nothing of a body that is announced as too long is read.
        if len(length) > 9 or int(length) > self._limits.body_bytes:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        body = await self._body()
        path = head.target.decode("latin-1").partition("?")[0]
        return Request(head.method.decode("latin-1"), path, headers, body, self._peer)

    async def _body(self) -> bytes:
        body = bytearray()
        if self._http.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[])
            await self._write(self._http.send(go_on))
        while True:
            event = await self._event()
            if isinstance(event, h11.Data):
                body += event.data
                if len(body) > self._limits.body_bytes:
                    raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            elif isinstance(event, h11.EndOfMessage):
                return bytes(body)
            else:
                raise _Refused(HTTPStatus.BAD_REQUEST)

    async def _event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._http.receive_data(await self._reader.read(_READ_BYTES))

    async def _answer(self, request: Request) -> Response:
        try:
            return await self._handler(request)
        except Exception:  # noqa: BLE001 (one request must not end the server)
            # The client gets no detail.
            _LOG.exception("%s %r failed", request.method, request.path)
            return Response(HTTPStatus.INTERNAL_SERVER_ERROR)

    async def _refuse(self, status: HTTPStatus) -> None:
        """Answer without having read everything, and let the client get to read it."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        await self._send(Response(status, headers=(("Connection", "close"),)))
        thrown_away = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.linger_s):
                while thrown_away < _LINGER_BYTES:
                    data = await self._reader.read(_READ_BYTES)
                    if not data:
                        return
                    thrown_away += len(data)

    async def _send(self, response: Response) -> None:
        headers = list(response.headers)
        # RFC 9110 section 8.6: these two have no length.
        if response.status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            headers.append(("Content-Length", str(len(response.body))))
        head = h11.Response(
            status_code=response.status, headers=headers, reason=response.status.phrase
        )
        data = self._http.send(head) or b""
        if response.body:
            data += self._http.send(h11.Data(data=response.body)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        async with asyncio.timeout(self._limits.answer_s):
            await self._write(data)

    async def _write(self, data: bytes | None) -> None:
        self._writer.write(data or b"")
        await self._writer.drain()
