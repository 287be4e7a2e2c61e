"""What of Open vSwitch's schema is read, and the question to a server whether it has that.

Asked on every new connection, before anything is monitored: a server with another schema (an
upgrade, an unrelated database on the socket) then gives a named error instead of a half copy.
"""

from __future__ import annotations

import errno
import os
from enum import Enum
from typing import Any

import ovs.db.error
import ovs.db.idl
import ovs.db.schema
import ovs.db.types
import ovs.jsonrpc
import ovs.poller
import ovs.stream

from ovn_ipsec.errors import SourceError

DATABASE = "Open_vSwitch"


class _Kind(Enum):
    """The shape of a column that is read."""

    TEXT = "a string"
    TEXT_MAP = "a map of strings"
    OPTIONAL = "an optional value"
    REFERENCES = "a set of references"

    def fits(self, column: Any) -> bool:
        """Whether ``column`` (ovs.db.schema.ColumnSchema) has this shape."""
        kind = column.type
        text = ovs.db.types.StringType
        if self is _Kind.TEXT_MAP:
            return bool(kind.is_map() and kind.key.type == text and kind.value.type == text)
        if self is _Kind.TEXT:
            return bool(not kind.is_map() and kind.key.type == text and kind.n_max == 1)
        if self is _Kind.REFERENCES:
            return bool(not kind.is_map() and kind.key.type == ovs.db.types.UuidType)
        return bool(not kind.is_map() and kind.n_max == 1)


_REQUIRED = {
    "Open_vSwitch": {"other_config": _Kind.TEXT_MAP, "external_ids": _Kind.TEXT_MAP},
    "Interface": {"name": _Kind.TEXT, "type": _Kind.TEXT, "options": _Kind.TEXT_MAP},
    "Port": {"interfaces": _Kind.REFERENCES},
    "Bridge": {"datapath_type": _Kind.TEXT, "ports": _Kind.REFERENCES},
}
_SHOWN_ONLY = {"Interface": {"ofport": _Kind.OPTIONAL, "cfm_fault": _Kind.OPTIONAL}}
"""Columns that only ``tunnels/show`` prints: a schema without them is served all the same."""


def checked_schema(remote: str, schema_json: Any) -> Any:
    """An ``ovs.db.idl.SchemaHelper`` for the columns above; SourceError names what is missing."""
    try:
        schema = ovs.db.schema.DbSchema.from_json(schema_json)
    except ovs.db.error.Error as error:
        raise SourceError(f"OVSDB {remote}: its schema cannot be read: {error}") from error
    missing = []
    for table, columns in _REQUIRED.items():
        present = schema.tables[table].columns if table in schema.tables else {}
        for column, kind in columns.items():
            if column not in present or not kind.fits(present[column]):
                missing.append(f"{table}.{column} ({kind.value})")
    if missing:
        raise SourceError(
            f"OVSDB {remote}: the schema of database {DATABASE} (version {schema.version}) lacks "
            f"{', '.join(missing)}; use Open vSwitch 2.14 or later"
        )
    helper = ovs.db.idl.SchemaHelper(schema_json=schema_json)
    for table, columns in _REQUIRED.items():
        optional = _SHOWN_ONLY.get(table, {})
        present = schema.tables[table].columns
        shown = [c for c, k in optional.items() if c in present and k.fits(present[c])]
        helper.register_columns(table, [*columns, *shown])
    return helper


def _reason(code: int) -> str:
    if code == errno.ENOENT:
        return "no such socket"
    if code < 0:
        return "the connection was closed"
    return os.strerror(code).lower()


class SchemaRequest:
    """One question for the schema on a connection of its own; never blocks."""

    def __init__(self, remote: str) -> None:
        """Start to connect; SourceError when that fails at once."""
        self._remote = remote
        self._connection: Any = None
        code, self._stream = ovs.stream.Stream.open(remote)
        if code:
            raise self._unreachable(code)

    def _unreachable(self, code: int) -> SourceError:
        return SourceError(
            f"OVSDB {self._remote}: cannot connect: {_reason(code)}; is ovsdb-server running, and "
            "is this its socket?"
        )

    def run(self) -> Any:
        """The schema as JSON when the answer is there, else None; SourceError when it failed."""
        if self._connection is None:
            code = self._stream.connect()
            if code == errno.EAGAIN:
                return None
            if code:
                raise self._unreachable(code)
            self._connection = ovs.jsonrpc.Connection(self._stream)
            self._connection.send(ovs.jsonrpc.Message.create_request("get_schema", [DATABASE]))
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
                raise SourceError(
                    f"OVSDB {self._remote}: the server has no database {DATABASE}; is this Open "
                    "vSwitch's own socket (db.sock), not OVN's?"
                )

    def wait(self, poller: Any) -> None:
        """Have ``poller`` wake up when ``run`` has something to do."""
        if self._connection is None:
            self._stream.connect_wait(poller)
        else:
            self._connection.wait(poller)
            self._connection.recv_wait(poller)

    def close(self) -> None:
        """Close the connection; the object is of no further use."""
        if self._connection is not None:
            self._connection.close()
        else:
            self._stream.close()
