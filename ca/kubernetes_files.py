"""The state directory in Kubernetes objects, with the promises of ``ca.files``.

A write is durable when the API server has taken it, and a conflict is a write that failed.
``ca.kubernetes_state`` says which objects there are, and why no write undoes another's.

Between ``locked`` and its end the objects are read once and written from there, by the thread
that holds it. Other threads, and reads outside of it, ask the API server each time.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Iterator
from pathlib import Path

from ca.errors import StoreError
from ca.files import PRIVATE_DIR
from ca.kubernetes_api import Api
from ca.kubernetes_state import State

_LOG = "log.jsonl"
_SETTINGS = "settings.json"
_KEYS = "keys"
_KEY_PREFIX = "key."


class NotLeader(StoreError):
    """Another process has taken the state over."""


class KubernetesFiles:
    """``ca.files.Files`` on one Secret and its blocks."""

    def __init__(self, api: Api, namespace: str, name: str) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._leader = ""
        self._mutex = threading.Lock()
        self._owner = 0
        self._state: State | None = None
        self._making = False
        self._last: State | None = None
        """As our own last write has left it."""

    def take(self, identity: str) -> None:
        """From now on only this identity writes, and operators. Raises OSError."""
        with self._mutex:
            self._read().mark(identity)
            self._leader = identity

    def exists(self) -> bool:
        """Whether there is an authority. Raises OSError."""
        return _SETTINGS in self._read().files

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """See ``Files``: the Secret gets its content last, and all of it.

        A log whose Secret was lost is not overwritten: raises StoreError.
        """
        with self._held(self._read()) as state:
            state.mark()
            if not state.files and state.read_log(0, -1).count(b"\n") > 1:
                raise StoreError(
                    f"{self._where}: empty, but ConfigMaps {self._name}-log-* hold its log: put "
                    "the Secret back, or remove them and restore a backup or begin anew"
                )
            if not state.files:
                state.truncate(0)
            self._making = True
            yield
            state.write_blocks()
            state.write_secret()

    @contextlib.contextmanager
    def locked(self, path: Path, timeout_s: float) -> Iterator[None]:
        """See ``Files``: nobody waits here, a conflict shows when something is written."""
        with self._mutex:
            last, self._last = self._last, None
        state = self._read()
        if _SETTINGS not in state.files:
            raise FileNotFoundError(errno.ENOENT, "no authority in it", self._where)
        if self._leader and state.leader != self._leader:
            raise NotLeader(f"{self._where}: {state.leader or 'nobody'} leads now")
        with self._held(state):
            if last is not None and last.version == state.version:
                state.go_on_from(last)
            else:
                state.mark()
            yield
            self._last = state

    def make_dir(self, path: Path) -> None:
        """See ``Files``: an object needs none."""

    def mode(self, path: Path) -> int:
        """See ``Files``: who may read is a matter of RBAC."""
        return PRIVATE_DIR

    def names(self, path: Path) -> list[str]:
        """See ``Files``."""
        keys = self._view().files
        if path.name == _KEYS:
            return sorted(k.removeprefix(_KEY_PREFIX) for k in keys if k.startswith(_KEY_PREFIX))
        return sorted({_KEYS if key.startswith(_KEY_PREFIX) else key for key in keys})

    def size(self, path: Path) -> int:
        """See ``Files``."""
        state = self._view()
        return state.log_size() if path.name == _LOG else len(_content(state, path))

    def read(self, path: Path, offset: int = 0, size: int = -1) -> bytes:
        """See ``Files``."""
        state = self._view()
        if path.name == _LOG:
            return state.read_log(offset, size)
        data = _content(state, path)
        return data[offset:] if size < 0 else data[offset : offset + size]

    def create(self, path: Path, data: bytes) -> None:
        """See ``Files``."""
        state = self._writable()
        if path.name == _LOG:
            state.append(data)
        elif _key(path) in state.files:
            raise FileExistsError(errno.EEXIST, "exists", str(path))
        else:
            state.files[_key(path)] = data

    def append(self, path: Path, data: bytes) -> None:
        """See ``Files``: only the log is appended to."""
        self._writable().append(data)

    def write_at(self, path: Path, offset: int, data: bytes) -> None:
        """See ``Files``."""
        state = self._writable()
        before = _content(state, path).ljust(offset, b"\0")
        state.files[_key(path)] = before[:offset] + data + before[offset + len(data) :]

    def truncate(self, path: Path, size: int) -> None:
        """See ``Files``: only the log is cut."""
        self._writable().truncate(size)

    def sync(self, path: Path) -> None:
        """See ``Files``: write the blocks of the log, or the Secret."""
        state = self._writable()
        if self._making:
            return
        if path.name == _LOG:
            state.write_blocks()
        else:
            state.write_secret()

    def rename(self, old: Path, new: Path) -> None:
        """See ``Files``."""
        state = self._writable()
        data = state.files.pop(_key(old))
        if new.name == _LOG:
            state.truncate(0)
            state.append(data)
        else:
            state.files[_key(new)] = data

    def remove(self, path: Path) -> None:
        """See ``Files``."""
        state = self._writable()
        _content(state, path)
        del state.files[_key(path)]

    def sync_dir(self, path: Path) -> None:
        """See ``Files``."""
        state = self._writable()
        if not self._making:
            state.write_secret()

    @property
    def _where(self) -> str:
        return f"Secret {self._namespace}/{self._name}"

    @contextlib.contextmanager
    def _held(self, state: State) -> Iterator[State]:
        """This thread writes, and no other of this process."""
        with self._mutex:
            self._owner, self._state = threading.get_ident(), state
            try:
                yield state
            finally:
                self._owner, self._state, self._making = 0, None, False

    def _read(self) -> State:
        return State(self._api, self._namespace, self._name)

    def _view(self) -> State:
        if self._state is not None and self._owner == threading.get_ident():
            return self._state
        return self._read()

    def _writable(self) -> State:
        if self._state is None or self._owner != threading.get_ident():
            raise OSError(errno.EPERM, "written outside of a transaction", self._where)
        return self._state


def _content(state: State, path: Path) -> bytes:
    data = state.files.get(_key(path))
    if data is None:
        raise FileNotFoundError(errno.ENOENT, "missing", str(path))
    return data


def _key(path: Path) -> str:
    """A Secret's key for a file."""
    return _KEY_PREFIX + path.name if path.parent.name == _KEYS else path.name
