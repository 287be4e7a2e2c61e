"""The node's settings in Open vSwitch's database: read the chassis id, write three paths.

Each call has a connection of its own, open for some milliseconds: this happens once in a while,
and nothing is left to go stale when the server is restarted or replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import ovs.db.error
import ovs.db.idl
from ovsdbapp import exceptions
from ovsdbapp.backend.ovs_idl.command import BaseCommand
from ovsdbapp.backend.ovs_idl.connection import Connection, OvsdbIdl
from ovsdbapp.backend.ovs_idl.transaction import Transaction

from ovn_ipsec.errors import EnrolmentError, SourceError
from ovn_ipsec.sources.ovsdb_request import DATABASE, OneRequest
from ovn_ipsec.sources.ovsdb_schema import schema_request

_TABLE = "Open_vSwitch"
_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Columns of the one row of table Open_vSwitch."""

    other_config: Mapping[str, str]
    external_ids: Mapping[str, str]


class NodeDatabase:
    """The database at ``remote``, e.g. ``unix:/run/openvswitch/db.sock``."""

    def __init__(self, remote: str, timeout_s: int = _TIMEOUT_S) -> None:
        self._remote = remote
        self._timeout_s = timeout_s

    def read(self) -> NodeSettings:
        """The settings now. Raises EnrolmentError.

        A plain select: it happens at every step, and copying schema and row first costs fifty
        times as much.
        """
        columns = ["other_config", "external_ids"]
        select = {"op": "select", "table": _TABLE, "where": [], "columns": columns}
        try:
            request = OneRequest(self._remote, "transact", [DATABASE, select])
            (result,) = request.wait_for_answer(self._timeout_s)
        except SourceError as error:
            raise EnrolmentError(str(error)) from error
        if "error" in result:
            said = f"{result['error']}: {result.get('details')}"
            raise EnrolmentError(f"OVSDB {self._remote}: table {_TABLE} cannot be read: {said}")
        if not result["rows"]:
            raise _not_set_up(self._remote)
        other_config, external_ids = (dict(result["rows"][0][column][1]) for column in columns)
        return NodeSettings(other_config, external_ids)

    def set_other_config(self, values: Mapping[str, str]) -> None:
        """Set these keys, in one transaction, and no others. Raises EnrolmentError."""
        with _Session(self._remote, self._timeout_s) as session:
            session.row()
            session.commit(values)


class _SetKeys(BaseCommand):  # type: ignore[misc]  # ovsdbapp has no types
    """Sets keys of other_config one by one: other programs write to the same column."""

    def __init__(self, api: Any, values: Mapping[str, str]) -> None:
        super().__init__(api)
        self._values = values

    def run_idl(self, txn: Any) -> None:
        (row,) = self.api.idl.tables[_TABLE].rows.values()
        for key, value in self._values.items():
            row.setkey("other_config", key, value)


class _Session:
    """One connection with a copy of the one row."""

    def __init__(self, remote: str, timeout_s: int) -> None:
        self._remote = remote
        self._timeout_s = timeout_s
        self._connection: Any = None

    def __enter__(self) -> _Session:
        try:
            schema = schema_request(self._remote).wait_for_answer(self._timeout_s)
            helper = ovs.db.idl.SchemaHelper(schema_json=schema)
            helper.register_columns(_TABLE, ["other_config", "external_ids"])
            idl = OvsdbIdl(self._remote, helper, leader_only=False)
        except (SourceError, ovs.db.error.Error) as error:
            raise EnrolmentError(str(error)) from error
        self._connection = Connection(idl, self._timeout_s)
        try:
            self._connection.start()
        except exceptions.TimeoutException as error:
            idl.close()
            raise self._silent() from error
        return self

    def __exit__(self, *_: object) -> None:
        # The thread that ends here closes the connection.
        self._connection.stop(self._timeout_s)

    def row(self) -> Any:
        """The one row. Raises EnrolmentError: the database is not set up."""
        with self._connection.lock:
            for row in self._connection.idl.tables[_TABLE].rows.values():
                return row
        raise _not_set_up(self._remote)

    def commit(self, values: Mapping[str, str]) -> None:
        """Write, and wait until the server has it on disk."""
        api = SimpleNamespace(idl=self._connection.idl)
        transaction = Transaction(
            api, self._connection, self._timeout_s, check_error=True, log_errors=False
        )
        transaction.add(_SetKeys(api, values))
        try:
            done = transaction.commit()
        except exceptions.TimeoutException as error:
            raise self._silent() from error
        except (RuntimeError, ValueError) as error:
            raise EnrolmentError(f"OVSDB {self._remote}: not written: {error}") from error
        if done is None:
            raise EnrolmentError(f"OVSDB {self._remote}: not written: the server took it back")

    def _silent(self) -> EnrolmentError:
        return EnrolmentError(
            f"OVSDB {self._remote}: no answer in {self._timeout_s} s; is ovsdb-server overloaded "
            "or stopped?"
        )


def _not_set_up(remote: str) -> EnrolmentError:
    return EnrolmentError(
        f"OVSDB {remote}: table {_TABLE} has no row; the database is not set up yet "
        "(ovs-vsctl init)"
    )
