"""The issued log's lines and head as text, and how they hold together. Pure.

A line is an entry's JSON: ``n`` (from 1), the entry's fields, and last ``hash``, the SHA-256
(hex) of the hash before (32 bytes) followed by the line's JSON without ``hash``. The head says
how far the log goes, in two slots of one page each, each with a checksum.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256

from ca.entries import Entry, dump, from_json, to_json
from ca.errors import LogTamperedError

LOG_NAME = "log.jsonl"
HEAD_NAME = "log.head"
PAGE = 4096
REMEDY = "restore the state from a backup, and find out who changed it"


@dataclass(frozen=True, slots=True)
class Head:
    """How far the log goes."""

    count: int
    size: int
    hash: str


EMPTY = Head(0, 0, sha256(b"ovn-ipsec issued log").hexdigest())


def render_head(head: Head) -> bytes:
    """One slot."""
    values = {"count": head.count, "size": head.size, "hash": head.hash}
    values["check"] = sha256(dump(values)).hexdigest()
    return (dump(values) + b"\n").ljust(PAGE, b"\0")


def parse_head(data: bytes, path: object) -> tuple[Head, int]:
    """The newer of the two slots, and which it is."""
    slots = [(_parse_slot(data[i * PAGE : (i + 1) * PAGE]), i) for i in (0, 1)]
    valid = [(head, i) for head, i in slots if head is not None]
    if not valid:
        raise LogTamperedError(
            f"{path}: damaged; {REMEDY}, or, if the log beside it is known to be whole, "
            "run verify-log --rebuild-head"
        )
    return max(valid, key=lambda item: item[0].count)


def render_lines(entries: list[Entry], head: Head) -> tuple[bytes, Head]:
    """The lines for these entries, and the head after them."""
    lines = []
    count, digest = head.count, head.hash
    for entry in entries:
        count += 1
        body = dump({"n": count, **to_json(entry)})
        digest = sha256(bytes.fromhex(digest) + body).hexdigest()
        lines.append(body[:-1] + b',"hash":"' + digest.encode() + b'"}\n')
    data = b"".join(lines)
    return data, Head(count, head.size + len(data), digest)


def check_lines(data: bytes, start: Head, end: Head, path: object) -> list[Entry]:
    """The entries between two heads. Raises LogTamperedError for whatever does not fit."""
    if len(data) < end.size - start.size:
        raise LogTamperedError(
            f"{path}: ends {end.size - start.size - len(data)} bytes before entry {end.count} "
            f"does; {REMEDY}"
        )
    entries, reached = follow_chain(data, start, path)
    if reached != end:
        raise LogTamperedError(
            f"{path}: its last entry is {reached.count} ({reached.hash[:16]}), not {end.count} "
            f"({end.hash[:16]}) as {HEAD_NAME} says; {REMEDY}"
        )
    return entries


def follow_chain(data: bytes, start: Head, path: object) -> tuple[list[Entry], Head]:
    """The entries in ``data``, each checked against the one before, and the head after them."""
    entries = []
    count, digest = start.count, start.hash
    for line in data.split(b"\n")[:-1]:
        count += 1
        try:
            values = json.loads(line)
            number, given = values["n"], values.pop("hash")
            body = dump(values)
            digest = sha256(bytes.fromhex(digest) + body).hexdigest()
            entry = from_json(values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LogTamperedError(
                f"{path}: entry {count} is unreadable ({error}); {REMEDY}"
            ) from error
        if number != count:
            raise LogTamperedError(
                f"{path}: entry {number} is where entry {count} belongs: entries were removed "
                f"or moved; {REMEDY}"
            )
        if given != digest:
            raise LogTamperedError(
                f"{path}: entry {count} is not what was written after entry {count - 1}: one of "
                f"the two was changed; {REMEDY}"
            )
        entries.append(entry)
    return entries, Head(count, start.size + len(data), digest)


def _parse_slot(page: bytes) -> Head | None:
    try:
        values = json.loads(page.rstrip(b"\0"))
        check = values.pop("check")
        if check != sha256(dump(values)).hexdigest():
            return None
        return Head(values["count"], values["size"], values["hash"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
