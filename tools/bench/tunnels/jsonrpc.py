"""A client for the unix sockets that speak JSON-RPC: OVSDB's and ovs-appctl's (RFC 7047, 4).

python-ovs from PyPI parses JSON in Python, a second for a hundred tunnels on an emulated core,
which would be taken for the server's.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 1 << 20


class Connection:
    """One connection; a call at a time."""

    def __init__(self, path: Path) -> None:
        """Raises OSError: nobody listens there."""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._decoder = json.JSONDecoder()

    def call(self, method: str, params: list[object]) -> Any:
        """The result. Raises LookupError: the other side says no; ConnectionError: it is gone."""
        request = {"id": 1, "method": method, "params": params}
        self._socket.sendall(json.dumps(request).encode())
        received = b""
        while True:
            chunk = self._socket.recv(_CHUNK_BYTES)
            if not chunk:
                raise ConnectionError(f"{method}: closed without an answer")
            received += chunk
            if chunk.endswith(b"}") and (answer := self._decoded(received)) is not None:
                if answer["error"] is not None:
                    raise LookupError(f"{method}: {answer['error']}")
                return answer["result"]

    def close(self) -> None:
        self._socket.close()

    def _decoded(self, received: bytes) -> dict[str, Any] | None:
        try:
            answer: dict[str, Any] = self._decoder.decode(received.decode())
        except ValueError:  # not yet whole
            return None
        return answer
