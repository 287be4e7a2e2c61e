"""Tunnel interfaces and node settings from Open vSwitch's database.

One connection is one ``_VswitchIdl``: a private copy of the few columns that matter, made only
after the server's schema has been read and found to have them. When the connection goes, the
copy goes, and the last snapshot stays: a database that is down, restarted or replaced by an
unrelated one changes nothing (ovsdb-server(7); RFC 7047; COMPAT "OVSDB").

What is monitored stays cheap beside thousands of other ports: ``Interface`` by type (a
condition that the server evaluates), ``Bridge`` only where ``datapath_type`` is ``netdev``, and
``Port``, which maps an interface to its bridge, only while there is such a bridge.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import replace
from typing import Any

import ovs.db.data
import ovs.db.idl
import ovs.db.types
import ovs.timeval
from ovsdbapp.backend.ovs_idl.connection import OvsdbIdl

from ovn_ipsec.errors import SourceError
from ovn_ipsec.model.facts import NodeFact, TunnelFact
from ovn_ipsec.sources.ovsdb_request import OneRequest
from ovn_ipsec.sources.ovsdb_schema import checked_schema, schema_request

_log = logging.getLogger(__name__)

TUNNEL_TYPES = frozenset({"geneve", "vxlan", "gre", "stt"})

_RETRY_LEAST_MS = 250
_RETRY_MOST_MS = 4_000
_ANSWER_MS = 30_000
"""From connecting to a complete copy; then the server counts as not answering."""


# A row's attribute makes its value twice, in case a transaction of ours has changed it, which
# takes longer than all else that is done for a row; and of references it takes only those to rows
# of the copy. So columns are read where the row keeps them.


def _scalar(row: Any, column: str) -> Any:
    """The one value of a column; None when it is empty or not in this schema."""
    datum = row._data.get(column)
    return None if datum is None else datum.as_scalar()


def _mapping(row: Any, column: str) -> dict[str, str]:
    """The value of a map of strings."""
    return {key.value: value.value for key, value in row._data[column].values.items()}


def _holds(row: Any, column: str, member: uuid.UUID) -> bool:
    """Whether a set of references, which can have thousands of members, holds ``member``."""
    return ovs.db.data.Atom(ovs.db.types.UuidType, member) in row._data[column].values


def _references(row: Any, column: str) -> list[uuid.UUID]:
    """The UUIDs in a set of references, of rows outside of the copy, too."""
    return [atom.value for atom in row._data[column].values]


class _VswitchIdl(OvsdbIdl):  # type: ignore[misc]  # ovsdbapp has no types
    """The copy of one connection, with tunnel rows turned into facts as they change."""

    def __init__(self, remote: str, schema: Any) -> None:
        self.facts: dict[uuid.UUID, TunnelFact] = {}
        self.changed = False
        self._port_of: dict[uuid.UUID, uuid.UUID] = {}
        self._was_monitoring = False
        super().__init__(remote, schema, leader_only=False)
        self.tables["Interface"].condition = [["type", "==", t] for t in sorted(TUNNEL_TYPES)]
        self.tables["Bridge"].condition = [["datapath_type", "==", "netdev"]]
        self.tables["Port"].condition = [False]

    @property
    def lost(self) -> bool:
        """The connection broke, could not be made, or the server started the copy anew."""
        # The session's number is 1 from the first attempt on and grows with each loss and each
        # further attempt; python-ovs has no public way to ask an Idl about its connection.
        if self._session.get_seqno() > 1:
            return True
        self._was_monitoring |= self.state == self.IDL_S_MONITORING
        # Rows that go when a copy is started anew are not reported one by one.
        return self._was_monitoring and self.state != self.IDL_S_MONITORING

    @property
    def answered(self) -> bool:
        """The first copy has arrived."""
        return bool(self.state == self.IDL_S_MONITORING)

    @property
    def complete(self) -> bool:
        """The mapping of interfaces to netdev bridges, where there is one, has arrived, too."""
        return not self.netdev or self.tables["Port"].condition_state.acked == [True]

    @property
    def netdev(self) -> bool:
        """There is a bridge with the userspace datapath."""
        return bool(self.tables["Bridge"].rows)

    def node(self) -> NodeFact | None:
        """The settings; None in a database that is not set up yet."""
        # A row in which every column has its default is not reported when it appears.
        for row in self.tables["Open_vSwitch"].rows.values():
            return NodeFact(_mapping(row, "other_config"), _mapping(row, "external_ids"))
        return None

    def cooperative_yield(self) -> None:
        """Called by the base class for each row, to let green threads run: there are none here.

        ovsdbapp's gives the core away, which costs as much as half of all else does for a row.
        """

    def notify(self, event: str, row: Any, updates: Any = None) -> None:
        """Called by the base class for each row of a change, once all rows are in."""
        handler = {
            "Interface": self._interface_changed,
            "Open_vSwitch": self._node_changed,
            "Port": self._port_changed,
            "Bridge": self._bridge_changed,
        }.get(row._table.name)
        # That of Debian 12 (3.1) tells of the server's own table, Database, too.
        if handler is not None:
            handler(event, row)

    def _interface_changed(self, event: str, row: Any) -> None:
        fact, kind = None, _scalar(row, "type")
        # A server too old for conditions sends every interface.
        if event != ovs.db.idl.ROW_DELETE and kind in TUNNEL_TYPES:
            fact = TunnelFact(
                name=_scalar(row, "name"),
                type=kind,
                options=_mapping(row, "options"),
                ofport=_scalar(row, "ofport"),
                cfm_fault=_scalar(row, "cfm_fault"),
                datapath_type=self._datapath_of(row.uuid),
            )
        if fact is None:
            self.changed |= self.facts.pop(row.uuid, None) is not None
        elif self.facts.get(row.uuid) != fact:
            self.facts[row.uuid] = fact
            self.changed = True

    def _node_changed(self, event: str, row: Any) -> None:
        self.changed = True

    def _port_changed(self, event: str, row: Any) -> None:
        for interface in _references(row, "interfaces"):
            if event != ovs.db.idl.ROW_DELETE:
                self._port_of[interface] = row.uuid
            elif self._port_of.get(interface) == row.uuid:
                del self._port_of[interface]
            self._judge_datapath(interface)

    def _bridge_changed(self, event: str, row: Any) -> None:
        self.tables["Port"].condition = [self.netdev]
        for interface in self.facts:
            self._judge_datapath(interface)

    def _judge_datapath(self, interface: uuid.UUID) -> None:
        fact = self.facts.get(interface)
        if fact is None:
            return
        datapath = self._datapath_of(interface)
        if fact.datapath_type != datapath:
            self.facts[interface] = replace(fact, datapath_type=datapath)
            self.changed = True

    def _datapath_of(self, interface: uuid.UUID) -> str:
        port = self._port_of.get(interface)
        bridges = self.tables["Bridge"].rows.values()
        if port is not None and any(_holds(bridge, "ports", port) for bridge in bridges):
            return "netdev"
        return "system"


Snapshot = tuple[NodeFact, tuple[TunnelFact, ...]]


class OvsdbSource:
    """The tunnels and settings in the database at ``remote``, across any loss of connection.

    To be driven by a loop: ``run()``, then ``wait(poller)``, then ``poller.block()``. Nothing
    here blocks, and no thread is started.
    """

    def __init__(self, remote: str) -> None:
        """``remote`` as ovsdb(7) has it, e.g. ``unix:/run/openvswitch/db.sock``."""
        self._remote = remote
        self._request: OneRequest | None = None
        self._idl: _VswitchIdl | None = None
        self._snapshot: Snapshot = (NodeFact(), ())
        self._in_sync = False
        self._problem: str | None = f"OVSDB {remote}: not connected yet"
        self._retry_at_ms = 0
        self._backoff_ms = 0
        self._deadline_ms = 0

    @property
    def in_sync(self) -> bool:
        """A complete snapshot has been taken at least once."""
        return self._in_sync

    @property
    def problem(self) -> str | None:
        """Why the snapshot may be out of date; None while connected."""
        return self._problem

    def snapshot(self) -> Snapshot:
        """The node's settings and its tunnels by name, as last seen. Values, no live rows."""
        return self._snapshot

    def run(self) -> bool:
        """Do what can be done now; True when the snapshot or ``problem`` changed."""
        before = (self._in_sync, self._problem)
        changed = False
        try:
            if self._idl is None:
                self._ask()
            if self._idl is not None:
                changed = self._follow(self._idl)
        except SourceError as error:
            self._fail(str(error))
        return changed or before != (self._in_sync, self._problem)

    def wait(self, poller: Any) -> None:
        """Have ``poller`` (ovs.poller.Poller) wake up when ``run`` has something to do."""
        if self._request is not None:
            self._request.wait(poller)
            poller.timer_wait_until(self._deadline_ms)
        elif self._idl is not None:
            self._idl.wait(poller)
            if not self._idl.answered:
                poller.timer_wait_until(self._deadline_ms)
        else:
            poller.timer_wait_until(self._retry_at_ms)

    def close(self) -> None:
        """Close every connection."""
        if self._request is not None:
            self._request.close()
            self._request = None
        if self._idl is not None:
            self._idl.close()
            self._idl = None

    def _ask(self) -> None:
        """Get the server's schema and, with it, start a copy."""
        now_ms = ovs.timeval.msec()
        if self._request is None:
            if now_ms < self._retry_at_ms:
                return
            self._deadline_ms = now_ms + _ANSWER_MS
            self._request = schema_request(self._remote)
        answer = self._request.run()
        if answer is None:
            self._check_deadline()
            return
        schema = checked_schema(self._remote, answer)
        self._request.close()
        self._request = None
        self._idl = _VswitchIdl(self._remote, schema)

    def _follow(self, idl: _VswitchIdl) -> bool:
        """Take in what the server sent; True when the snapshot changed."""
        idl.run()
        if idl.lost:
            raise SourceError(
                f"OVSDB {self._remote}: connection lost; the last known tunnels stay in force. "
                "Is ovsdb-server running?"
            )
        if not idl.answered:
            self._check_deadline()
            return False
        if not idl.complete or not (idl.changed or self._problem):
            return False
        node = idl.node()
        if node is None:
            self._problem = (
                f"OVSDB {self._remote}: table Open_vSwitch has no row; the database is not set up "
                "yet (ovs-vsctl init)"
            )
            return False
        if self._problem is not None:
            _log.info("OVSDB %s: connected", self._remote)
            self._problem = None
            self._backoff_ms = 0
            self._in_sync = True
        idl.changed = False
        tunnels = sorted(idl.facts.values(), key=lambda fact: fact.name)
        before, self._snapshot = self._snapshot, (node, tuple(tunnels))
        return before != self._snapshot

    def _check_deadline(self) -> None:
        if ovs.timeval.msec() >= self._deadline_ms:
            raise SourceError(
                f"OVSDB {self._remote}: no complete answer in {_ANSWER_MS // 1000} s; is the "
                "server overloaded or stopped?"
            )

    def _fail(self, problem: str) -> None:
        """Drop the connection, keep the snapshot, try again after the back-off."""
        self.close()
        self._problem = problem
        self._retry_at_ms = ovs.timeval.msec() + self._backoff_ms
        self._backoff_ms = min(max(2 * self._backoff_ms, _RETRY_LEAST_MS), _RETRY_MOST_MS)
