"""One question to an OVSDB server (RFC 7047, section 4) on a connection of its own."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Any

import ovs.jsonrpc
import ovs.poller
import ovs.stream
import ovs.timeval

from ovn_ipsec.errors import SourceError

DATABASE = "Open_vSwitch"


def _reason(code: int) -> str:
    if code == errno.ENOENT:
        return "no such socket"
    if code < 0:
        return "the connection was closed"
    return os.strerror(code).lower()


class OneRequest:
    """One question and its answer. Only ``wait_for_answer`` blocks."""

    def __init__(self, remote: str, method: str, params: Sequence[object]) -> None:
        """Start to connect; SourceError when that fails at once."""
        self._remote = remote
        self._database = str(params[0])
        self._question = ovs.jsonrpc.Message.create_request(method, list(params))
        self._connection: Any = None
        try:
            code, self._stream = ovs.stream.Stream.open(remote)
        except (OSError, TypeError) as error:
            # python-ovs reads the files of an ssl: remote now; TypeError: there are none.
            raise SourceError(
                f"OVSDB {remote}: its private key, certificate or CA certificate cannot be used: "
                f"{error}; check the files"
            ) from error
        if code:
            raise self._unreachable(code)

    def _unreachable(self, code: int) -> SourceError:
        return SourceError(
            f"OVSDB {self._remote}: cannot connect: {_reason(code)}; is ovsdb-server running, and "
            "is this its socket?"
        )

    def run(self) -> Any:
        """The answer's JSON when it is there, else None; SourceError when it failed."""
        if self._connection is None:
            code = self._stream.connect()
            if code == errno.EAGAIN:
                return None
            if code:
                raise self._unreachable(code)
            self._connection = ovs.jsonrpc.Connection(self._stream)
            self._connection.send(self._question)
        self._connection.run()
        while True:
            code, message = self._connection.recv()
            if code == errno.EAGAIN:
                return None
            if code:
                raise self._unreachable(code)
            if message.type == ovs.jsonrpc.Message.T_REPLY:
                return message.result
            if message.type == ovs.jsonrpc.Message.T_ERROR:
                wanted = "Open vSwitch's own socket (db.sock), not OVN's"
                if self._database != DATABASE:
                    wanted = "the remote of that one"
                raise SourceError(
                    f"OVSDB {self._remote}: the server has no database {self._database}; is this "
                    f"{wanted}?"
                )

    def wait(self, poller: Any) -> None:
        """Have ``poller`` wake up when ``run`` has something to do."""
        if self._connection is None:
            self._stream.connect_wait(poller)
        else:
            self._connection.wait(poller)
            self._connection.recv_wait(poller)

    def wait_for_answer(self, timeout_s: int) -> Any:
        """The answer, after which the connection is closed; SourceError also when none came."""
        try:
            deadline = ovs.timeval.msec() + 1000 * timeout_s
            while (answer := self.run()) is None:
                if ovs.timeval.msec() >= deadline:
                    raise SourceError(
                        f"OVSDB {self._remote}: no answer in {timeout_s} s; is ovsdb-server "
                        "overloaded or stopped?"
                    )
                poller = ovs.poller.Poller()
                self.wait(poller)
                poller.timer_wait_until(deadline)
                poller.block()
            return answer
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection; the object is of no further use."""
        if self._connection is not None:
            self._connection.close()
        else:
            self._stream.close()
