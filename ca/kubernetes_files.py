"""The state directory in Kubernetes objects, with the promises of ``ca.files``.

::

    Secret NAME               settings.json, log.head, the issuer's keys (key.KEYID.pem)
    ConfigMap NAME-log-00000  the first 128 KiB of log.jsonl
    ConfigMap NAME-log-00001  the next ...

A Secret holds 1 MiB, the log of 500 nodes more than that. The log has no secret in it, and the
head in the Secret vouches for all of it: so it lies in ConfigMaps, of which there may be any
number without a right to read other Secrets. A write costs the last block and the Secret.

A write is durable when the API server has taken it. There is no lock: each object is replaced
only in the version that was read, and the head, in the Secret, comes last. Who is too late gets
a conflict, and nothing of it counts: what its blocks hold beyond the head is cut off by the next
writer, as after a power cut. A leader puts its name on the Secret first (``take``); whoever read
the Secret before can write it no more, and finds the other name when it reads again.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path

from ca.errors import StoreError
from ca.files import PRIVATE_DIR
from ca.kubernetes_api import Api, ApiError, Conflict, Json, NotFound, path_of

BLOCK = 128 * 1024
LEADER = "ipsec.ovn.org/leader"
_LOG_NAME = "log.jsonl"
_KEYS = "keys"


class NotLeader(StoreError):  # noqa: N818 (what it is)
    """Another process has taken the state over."""


class _Conflict(OSError):
    """Somebody else wrote first."""


class KubernetesFiles:
    """``ca.files.Files`` on one Secret and its blocks.

    Between ``locked`` and its end the objects are read once and written from there, by the thread
    that holds it; other threads, and reads outside of it, ask the API server each time.
    """

    def __init__(self, api: Api, namespace: str, name: str) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._leader = ""
        self._mutex = threading.Lock()
        self._session: _Session | None = None
        self._owner = 0
        self._tail = _Tail()

    def take(self, identity: str) -> None:
        """From now on only this identity writes. Raises ApiError."""
        path = path_of("secrets", self._namespace, self._name)
        secret = self._api.get(path)
        annotations = secret["metadata"].get("annotations") or {}
        secret["metadata"]["annotations"] = {**annotations, LEADER: identity}
        self._api.replace(path, secret)
        self._leader = identity

    def exists(self) -> bool:
        """Whether there is a state. Raises ApiError."""
        with contextlib.suppress(NotFound):
            self._api.get(path_of("secrets", self._namespace, self._name))
            return True
        return False

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """See ``Files``: the Secret appears last, with everything in it.

        A log whose Secret was lost is not overwritten. Raises StoreError.
        """
        with self._exclusive():
            session = self._session = self._read(held=True)
            first = session.block(0)
            if first.count(b"\n") > 1 and not session.present:
                raise StoreError(
                    f"{self._where}: the Secret is gone, but ConfigMap {session.block_name(0)} "
                    "holds its log: restore the Secret from a backup, or remove the ConfigMaps "
                    "to begin anew with other roots"
                )
            session.forget_blocks()
            yield
            session.held = False
            session.write_blocks()
            session.write_secret()

    @contextlib.contextmanager
    def locked(self, path: Path, timeout_s: float) -> Iterator[None]:
        """See ``Files``: nobody waits here, a conflict shows when something is written."""
        with self._exclusive():
            session = self._read()
            if self._leader and session.leader != self._leader:
                raise NotLeader(f"{self._where}: {session.leader or 'nobody'} leads now")
            self._session = session
            yield

    def make_dir(self, path: Path) -> None:
        """See ``Files``: an object needs none."""

    def mode(self, path: Path) -> int:
        """See ``Files``: RBAC says who may read; FileNotFoundError when there is no Secret."""
        if not self._view().present:
            raise FileNotFoundError(errno.ENOENT, "no such Secret", str(path))
        return PRIVATE_DIR

    def names(self, path: Path) -> list[str]:
        """See ``Files``."""
        view = self._view()
        if path.name == _KEYS:
            return sorted(key[4:] for key in view.files if key.startswith("key."))
        names = {_KEYS if key.startswith("key.") else key for key in view.files}
        return sorted(names | ({_LOG_NAME} if view.present else set()))

    def size(self, path: Path) -> int:
        """See ``Files``."""
        view = self._view()
        return view.log_size() if path.name == _LOG_NAME else len(view.read(path))

    def read(self, path: Path, offset: int = 0, size: int = -1) -> bytes:
        """See ``Files``."""
        view = self._view()
        if path.name == _LOG_NAME:
            return view.read_log(offset, size)
        data = view.read(path)
        return data[offset:] if size < 0 else data[offset : offset + size]

    def create(self, path: Path, data: bytes) -> None:
        """See ``Files``."""
        view = self._writable()
        if path.name == _LOG_NAME:
            view.append(data)
        elif _key(path) in view.files:
            raise FileExistsError(errno.EEXIST, "exists", str(path))
        else:
            view.files[_key(path)] = data

    def append(self, path: Path, data: bytes) -> None:
        """See ``Files``: only the log is appended to."""
        self._writable().append(data)

    def write_at(self, path: Path, offset: int, data: bytes) -> None:
        """See ``Files``."""
        view = self._writable()
        before = view.read(path).ljust(offset, b"\0")
        view.files[_key(path)] = before[:offset] + data + before[offset + len(data) :]

    def truncate(self, path: Path, size: int) -> None:
        """See ``Files``: only the log is cut."""
        self._writable().truncate(size)

    def sync(self, path: Path) -> None:
        """See ``Files``: write the blocks of the log, or the Secret."""
        view = self._writable()
        if path.name == _LOG_NAME:
            view.write_blocks()
        else:
            view.write_secret()

    def rename(self, old: Path, new: Path) -> None:
        """See ``Files``."""
        files = self._writable().files
        files[_key(new)] = files.pop(_key(old))

    def remove(self, path: Path) -> None:
        """See ``Files``."""
        view = self._writable()
        view.read(path)
        del view.files[_key(path)]

    def sync_dir(self, path: Path) -> None:
        """See ``Files``."""
        self._writable().write_secret()

    @property
    def _where(self) -> str:
        return f"Secret {self._namespace}/{self._name}"

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._mutex:
            self._owner = threading.get_ident()
            try:
                yield
            finally:
                self._session, self._owner = None, 0

    def _view(self) -> _Session:
        if self._session is not None and self._owner == threading.get_ident():
            return self._session
        return self._read()

    def _writable(self) -> _Session:
        if self._session is None or self._owner != threading.get_ident():
            raise OSError(errno.EPERM, "written outside of a transaction", self._where)
        return self._session

    def _read(self, *, held: bool = False) -> _Session:
        return _Session(self._api, self._namespace, self._name, self._tail, held=held)


class _Tail:
    """Where the log's last block was seen, so that nobody has to count from the first."""

    number = 0


class _Session:
    """The objects as they were read, and what is to be written."""

    def __init__(
        self, api: Api, namespace: str, name: str, tail: _Tail, *, held: bool = False
    ) -> None:
        self._api, self._namespace, self._name, self._tail = api, namespace, name, tail
        self.held = held
        """Nothing is written yet."""
        self._secret = self._fetch("secrets", name)
        self.leader = _leader_of(self._secret or {})
        self.files = {
            key: b64decode(value)
            for key, value in ((self._secret or {}).get("data") or {}).items()
        }
        self._written = dict(self.files)
        self._maps: dict[int, Json | None] = {}
        self._blocks: dict[int, bytes] = {}
        self._dirty: set[int] = set()

    @property
    def present(self) -> bool:
        return self._secret is not None

    def read(self, path: Path) -> bytes:
        data = self.files.get(_key(path))
        if data is None:
            raise FileNotFoundError(errno.ENOENT, "missing", str(path))
        return data

    def block_name(self, number: int) -> str:
        return f"{self._name}-log-{number:05d}"

    def block(self, number: int) -> bytes:
        if number not in self._blocks:
            found = self._maps[number] = self._fetch("configmaps", self.block_name(number))
            data = ((found or {}).get("data") or {}).get(_LOG_NAME, "")
            self._blocks[number] = data.encode()
        return self._blocks[number]

    def forget_blocks(self) -> None:
        self._blocks = dict.fromkeys(self._blocks, b"")

    def log_size(self) -> int:
        number = self._tail.number
        while len(self.block(number)) == BLOCK:
            number += 1
        while number and not self.block(number) and len(self.block(number - 1)) < BLOCK:
            number -= 1
        self._tail.number = number
        return number * BLOCK + len(self.block(number))

    def read_log(self, offset: int, size: int) -> bytes:
        data = b""
        number = offset // BLOCK
        wanted = None if size < 0 else offset % BLOCK + size
        while wanted is None or len(data) < wanted:
            block = self.block(number)
            data += block
            if len(block) < BLOCK:
                break
            number += 1
        self._tail.number = max(self._tail.number, number - 1)
        return data[offset % BLOCK : wanted]

    def append(self, data: bytes) -> None:
        number = self.log_size() // BLOCK
        block = self.block(number)
        while True:
            room = BLOCK - len(block)
            self._blocks[number] = block + data[:room]
            self._dirty.add(number)
            data = data[room:]
            if not data:
                return
            number += 1
            self.block(number)  # for its version; what is in it lies beyond the log's end
            block = b""

    def truncate(self, size: int) -> None:
        number = size // BLOCK
        self._blocks[number] = self.block(number)[: size % BLOCK]
        self._dirty.add(number)
        while self.block(number + 1):
            number += 1
            self._blocks[number] = b""
            self._dirty.add(number)

    def write_blocks(self) -> None:
        if self.held:
            return
        # In the log's order: what an interrupted write leaves is seen, and cut off.
        for number in sorted(self._dirty):
            data = {_LOG_NAME: self._blocks[number].decode()}
            name = self.block_name(number)
            self._maps[number] = self._put("configmaps", name, self._maps.get(number), data)
        self._dirty.clear()

    def write_secret(self) -> None:
        if self.held or self.files == self._written:
            return
        data = {key: b64encode(value).decode() for key, value in self.files.items()}
        self._secret = self._put("secrets", self._name, self._secret, data)
        self._written = dict(self.files)

    def _fetch(self, kind: str, name: str) -> Json | None:
        try:
            return self._api.get(path_of(kind, self._namespace, name))
        except NotFound:
            return None
        except ApiError as error:
            raise OSError(errno.EIO, str(error), name) from error

    def _put(self, kind: str, name: str, before: Json | None, data: Json) -> Json:
        try:
            if before is not None:
                path = path_of(kind, self._namespace, name)
                return self._api.replace(path, {**before, "data": data})
            metadata = {"name": name, "namespace": self._namespace}
            return self._api.create(
                path_of(kind, self._namespace), {"metadata": metadata, "data": data}
            )
        except Conflict as error:
            raise _Conflict(
                errno.EAGAIN, "somebody else wrote at the same time; try again", name
            ) from error
        except ApiError as error:
            raise OSError(errno.EIO, str(error), name) from error


def _leader_of(secret: Json) -> str:
    return str((secret.get("metadata", {}).get("annotations") or {}).get(LEADER, ""))


def _key(path: Path) -> str:
    """A Secret's key for a file."""
    return f"key.{path.name}" if path.parent.name == _KEYS else path.name
