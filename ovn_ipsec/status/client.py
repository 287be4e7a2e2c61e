"""Asks the agent of this node over its control socket, as ``ovs-appctl`` does (unixctl.py)."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from ovn_ipsec.errors import OvnIpsecError

ANSWER_WAIT_S = 10.0
REFRESH_WAIT_S = 15.0
MOST_BYTES = 256 * 1024 * 1024
_CHUNK_BYTES = 256 * 1024


class AgentUnreachableError(OvnIpsecError):
    """No agent answers on this node."""


def find_socket(rundir: Path, program: str) -> Path:
    """The control socket of the agent that runs: by its pidfile, else the newest one.

    Raises AgentUnreachableError.
    """
    try:
        pid = int((rundir / f"{program}.pid").read_text("ascii"))
        path = rundir / f"{program}.{pid}.ctl"
        if path.exists():
            return path
    except (OSError, ValueError):
        pass
    try:
        found = [(path.stat().st_mtime, path) for path in rundir.glob(f"{program}.*.ctl")]
    except OSError as error:
        raise AgentUnreachableError(f"{rundir}: {error.strerror}") from error
    if not found:
        raise AgentUnreachableError(
            f"no agent of this node: {rundir} holds no {program}.PID.ctl; start ovn-ipsec agent, "
            "or set OVS_RUNDIR to where its socket is"
        )
    return max(found)[1]


def ask_status(path: Path, *, refresh: bool) -> dict[str, Any]:
    """The JSON of ``tunnels/show``; with ``refresh`` after a pass of the agent, if that is done
    in time. Raises AgentUnreachableError.
    """
    try:
        with _Session(path) as session:
            if refresh:
                session.settimeout(REFRESH_WAIT_S)
                try:
                    session.call("refresh")
                except TimeoutError:
                    return ask_status(path, refresh=False)
            session.settimeout(ANSWER_WAIT_S)
            session.call("set-options", "--format", "json")
            answer = session.call("tunnels/show")
    except OSError as error:
        raise AgentUnreachableError(
            f"the agent does not answer on {path}: {error.strerror or error}; is it running, and "
            "are you root?"
        ) from error
    if not isinstance(answer, dict) or "tunnels" not in answer:
        raise AgentUnreachableError(f"{path}: its owner answers as another program does")
    return answer


class _Session:
    """One connection; a request at a time."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._serial = 0
        self._socket.settimeout(ANSWER_WAIT_S)
        try:
            self._socket.connect(os.fspath(path))
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> _Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def settimeout(self, timeout_s: float) -> None:
        """What the next calls may take, each."""
        self._socket.settimeout(timeout_s)

    def call(self, method: str, *params: str) -> object:
        """The result. Raises OSError; TimeoutError among them."""
        self._serial += 1
        request = {"method": method, "params": params, "id": self._serial}
        self._socket.sendall(json.dumps(request).encode())
        received = bytearray()
        while True:
            chunk = self._socket.recv(_CHUNK_BYTES)
            if not chunk:
                raise ConnectionResetError(None, "it hung up")
            received += chunk
            if len(received) > MOST_BYTES:
                raise ConnectionAbortedError(None, "its answer has no end")
            # Only what ends in a brace can be whole: a long answer is parsed a few times at most.
            if received.endswith(b"}"):
                try:
                    answer = json.loads(received)
                except ValueError:
                    continue
                if isinstance(answer, dict) and answer.get("id") == self._serial:
                    if answer.get("error") is not None:
                        raise OSError(None, str(answer["error"]).strip())
                    return answer.get("result")
                received.clear()
