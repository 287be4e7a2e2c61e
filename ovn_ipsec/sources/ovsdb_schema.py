"""What of Open vSwitch's schema is read, and whether a server has that.

Checked on every new connection, before anything is monitored: a server with another schema (an
upgrade, an unrelated database on the socket) then gives a named error instead of a half copy.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import ovs.db.error
import ovs.db.idl
import ovs.db.schema
import ovs.db.types

from ovn_ipsec.errors import SourceError
from ovn_ipsec.sources.ovsdb_request import DATABASE, OneRequest


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


def schema_request(remote: str) -> OneRequest:
    """Ask for the schema; SourceError when that fails at once."""
    return OneRequest(remote, "get_schema", [DATABASE])
