"""The objects that hold the state, read and written so that nobody's write undoes another's.

::

    Secret NAME               settings.json, log.head, the issuer's keys (key.KEYID.pem)
    ConfigMap NAME-log-00000  the first 128 KiB of log.jsonl
    ConfigMap NAME-log-00001  the next ...

A Secret holds 1 MiB, the log of 500 nodes more than that. The log has no secret in it, and the
head in the Secret vouches for all of it: so it lies in ConfigMaps, of which there may be any
number without a right to read other Secrets.

There is no lock. Every object is replaced only in the version that was read, blocks first, and
the Secret with the head last, which makes it count. That alone would not do: who has an old head
in hand and reads a block after another's write would cut off what counts by now. So a writer
first marks the Secret, then reads the log's last blocks, and then sees that the Secret is still
the one it marked. From there on

- who has read the Secret before the mark cannot make anything count any more;
- who marks it later reads the blocks later than we did, so that whatever they write there turns
  our write of these blocks into a conflict, or ours theirs.

What a loser leaves in the blocks lies beyond the head, and is cut off by the next writer, as after
a power cut. Our own last write is as good as a mark, for as long as the Secret is still that one.
"""

from __future__ import annotations

import errno
import secrets
from base64 import b64decode, b64encode

from ca.chain import HEAD_NAME, parse_head
from ca.errors import LogTamperedError
from ca.kubernetes_api import Api, ApiError, Conflict, Json, NotFound, path_of

BLOCK = 128 * 1024
LEADER = "ipsec.ovn.org/leader"
_MARK = "ipsec.ovn.org/writer"
_LOG = "log.jsonl"


class State:
    """The objects as they were read, and what is to be written. Raises OSError throughout."""

    def __init__(self, api: Api, namespace: str, name: str) -> None:
        """Read the Secret alone."""
        self._api, self._namespace, self._name = api, namespace, name
        self._secret = self._fetch("secrets", name)
        self.files = {
            key: b64decode(value)
            for key, value in ((self._secret or {}).get("data") or {}).items()
        }
        self._written = dict(self.files)
        self._maps: dict[int, Json | None] = {}
        self._blocks: dict[int, bytes] = {}
        self._dirty: set[int] = set()

    @property
    def version(self) -> str:
        """Of the Secret; empty when there is none."""
        return str(self._metadata.get("resourceVersion", ""))

    @property
    def leader(self) -> str:
        """Who alone may write, besides operators."""
        return str((self._metadata.get("annotations") or {}).get(LEADER, ""))

    def mark(self, leader: str = "") -> None:
        """Begin to write; as leader, keep former ones from writing."""
        annotations = dict(self._metadata.get("annotations") or {})
        annotations[_MARK] = secrets.token_hex(8)
        if leader:
            annotations[LEADER] = leader
        body: Json = {**(self._secret or {}), "metadata": {**self._metadata}}
        body["metadata"]["annotations"] = annotations
        self._secret = self._put("secrets", self._name, body)
        self.log_size()
        if State(self._api, self._namespace, self._name).version != self.version:
            raise _too_late(self._name)

    def go_on_from(self, before: State) -> None:
        """Know the blocks from our own last write, of this version of the Secret."""
        newest = sorted(before._blocks)[-2:]
        self._blocks = {number: before._blocks[number] for number in newest}
        self._maps = {number: before._maps.get(number) for number in newest}

    def log_size(self) -> int:
        """Up to the end of what is there, whether it counts or not."""
        number = self._committed() // BLOCK
        while len(self._block(number)) == BLOCK:
            number += 1
        return number * BLOCK + len(self._block(number))

    def read_log(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes (all, if negative)."""
        data = b""
        number = offset // BLOCK
        wanted = None if size < 0 else offset % BLOCK + size
        while wanted is None or len(data) < wanted:
            block = self._block(number)
            data += block
            if len(block) < BLOCK:
                break
            number += 1
        return data[offset % BLOCK : wanted]

    def append(self, data: bytes) -> None:
        """At the end of the log."""
        number = self.log_size() // BLOCK
        block = self._block(number)
        while True:
            room = BLOCK - len(block)
            self._change(number, block + data[:room])
            data = data[room:]
            if not data:
                return
            number += 1
            self._block(number)  # for its version; what is in it lies beyond the log's end
            block = b""

    def truncate(self, size: int) -> None:
        """Cut the log, which must not be cut before what counts."""
        number = size // BLOCK
        self._change(number, self._block(number)[: size % BLOCK])
        while self._block(number + 1):
            number += 1
            self._change(number, b"")

    def write_blocks(self) -> None:
        """In the log's order: what an interrupted write leaves is seen, and cut off."""
        for number in sorted(self._dirty):
            name = self._block_name(number)
            body = {
                **(self._maps.get(number) or {}),
                "data": {_LOG: self._blocks[number].decode()},
            }
            self._maps[number] = self._put("configmaps", name, body)
        self._dirty.clear()

    def write_secret(self) -> None:
        """From now on it counts."""
        if self.files == self._written:
            return
        data = {key: b64encode(value).decode() for key, value in self.files.items()}
        self._secret = self._put("secrets", self._name, {**(self._secret or {}), "data": data})
        self._written = dict(self.files)

    @property
    def _metadata(self) -> Json:
        return dict((self._secret or {}).get("metadata", {}))

    def _committed(self) -> int:
        try:
            return parse_head(self._written[HEAD_NAME], HEAD_NAME)[0].size
        except (KeyError, LogTamperedError):
            return 0  # none yet, or damaged: then the log is looked at from its beginning

    def _block_name(self, number: int) -> str:
        return f"{self._name}-log-{number:05d}"

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            found = self._maps[number] = self._fetch("configmaps", self._block_name(number))
            self._blocks[number] = ((found or {}).get("data") or {}).get(_LOG, "").encode()
        return self._blocks[number]

    def _change(self, number: int, data: bytes) -> None:
        self._blocks[number] = data
        self._dirty.add(number)

    def _fetch(self, kind: str, name: str) -> Json | None:
        try:
            return self._api.get(path_of(kind, self._namespace, name))
        except NotFound:
            return None
        except ApiError as error:
            raise OSError(errno.EIO, str(error), name) from error

    def _put(self, kind: str, name: str, body: Json) -> Json:
        metadata = body.get("metadata", {})
        try:
            if "resourceVersion" in metadata:
                return self._api.replace(path_of(kind, self._namespace, name), body)
            metadata = {**metadata, "name": name, "namespace": self._namespace}
            path = path_of(kind, self._namespace)
            return self._api.create(path, {**body, "metadata": metadata})
        except Conflict as error:
            raise _too_late(name) from error
        except ApiError as error:
            raise OSError(errno.EIO, str(error), name) from error


def _too_late(name: str) -> OSError:
    return OSError(errno.EAGAIN, "somebody else wrote at the same time; try again", name)
