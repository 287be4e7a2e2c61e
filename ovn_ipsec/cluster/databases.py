"""The few columns of OVN's databases and Open vSwitch's that a roll-out reads and writes.

Each call has a connection of its own (RFC 7047): there are few of them, and nothing is left to go
stale when a server is restarted or another one leads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ovn_ipsec.cluster.report import Report, parse_report, render_report
from ovn_ipsec.cluster.stages import Cluster, ClusterNode, GuardStage
from ovn_ipsec.errors import ClusterError, SourceError
from ovn_ipsec.sources.ovsdb_request import OneRequest

GUARD_OPTION = "ovn-ipsec-guard"
REPORT_KEY = "ovn-ipsec"
GUARD_MODE_KEY = "ipsec_guard_mode"
_TIMEOUT_S = 10
_NB, _SB, _OVS = "OVN_Northbound", "OVN_Southbound", "Open_vSwitch"

Row = dict[str, Any]


class Northbound:
    """The cluster's wishes."""

    def __init__(self, remote: str) -> None:
        self._remote = remote

    def stage(self) -> tuple[bool, GuardStage | None]:
        """Whether IPsec is on, and what the guards are told. Raises ClusterError."""
        row = _the_row(self._remote, _NB, "NB_Global", ["ipsec", "options"])
        return bool(row["ipsec"]), _stage(_map(row["options"]).get(GUARD_OPTION))

    def set_guard(self, stage: GuardStage | None) -> None:
        """Tell the guards; None: each is in its node's own mode."""
        update = _mutation("NB_Global", "options", GUARD_OPTION, stage)
        _transact(self._remote, _NB, [update])

    def set_ipsec(self, on: bool) -> None:
        """``NB_Global:ipsec``."""
        update = {"op": "update", "table": "NB_Global", "where": [], "row": {"ipsec": on}}
        _transact(self._remote, _NB, [update])


class Southbound:
    """What northd and the chassis say."""

    def __init__(self, remote: str) -> None:
        self._remote = remote

    @property
    def remote(self) -> str:
        """Where it is, as given."""
        return self._remote

    def nodes(self) -> tuple[ClusterNode, ...]:
        """Every chassis, with its report. Raises ClusterError."""
        chassis, private = _transact(
            self._remote,
            _SB,
            [
                _select("Chassis", ["name", "hostname"]),
                _select("Chassis_Private", ["name", "external_ids"]),
            ],
        )
        texts = {
            row["name"]: _map(row["external_ids"]).get(REPORT_KEY, "") for row in private["rows"]
        }
        rows = sorted(chassis["rows"], key=lambda row: str(row["name"]))
        return tuple(
            ClusterNode(row["name"], row["hostname"], parse_report(texts.get(row["name"], "")))
            for row in rows
        )

    def heard(self) -> tuple[str, bool]:
        """What the guards are told, and whether IPsec is on. Raises ClusterError."""
        row = _the_row(self._remote, _SB, "SB_Global", ["ipsec", "options"])
        return _map(row["options"]).get(GUARD_OPTION, ""), bool(row["ipsec"])

    def write_report(self, chassis: str, report: Report) -> None:
        """Raises ClusterError: also when the chassis has no row (yet)."""
        where = [["name", "==", chassis]]
        text = render_report(report)
        update = _mutation("Chassis_Private", "external_ids", REPORT_KEY, text, where)
        (result,) = _transact(self._remote, _SB, [update])
        if not result["count"]:
            raise ClusterError(
                f"OVSDB {self._remote}: there is no chassis {chassis}; is ovn-controller running?"
            )


class LocalSwitch:
    """This node's Open vSwitch."""

    def __init__(self, remote: str) -> None:
        self._remote = remote

    def settings(self) -> tuple[dict[str, str], dict[str, str]]:
        """``external_ids`` and ``other_config``. Raises ClusterError."""
        row = _the_row(self._remote, _OVS, _OVS, ["external_ids", "other_config"])
        return _map(row["external_ids"]), _map(row["other_config"])

    def ovn_tunnels(self) -> dict[str, dict[str, str]]:
        """The interfaces that ovn-controller has made, with options. Raises ClusterError."""
        ports, interfaces = _transact(
            self._remote,
            _OVS,
            [
                _select("Port", ["external_ids", "interfaces"]),
                _select("Interface", ["_uuid", "name", "options"]),
            ],
        )
        made = {
            row["interfaces"][1]
            for row in ports["rows"]
            if "ovn-chassis-id" in _map(row["external_ids"])
        }
        return {
            row["name"]: _map(row["options"])
            for row in interfaces["rows"]
            if row["_uuid"][1] in made
        }

    def set_guard_mode(self, stage: str) -> None:
        """What the agent is to obey; empty: nothing. Raises ClusterError."""
        update = _mutation(_OVS, "other_config", GUARD_MODE_KEY, stage or None)
        _transact(self._remote, _OVS, [update])


def read_cluster(northbound: Northbound, southbound: Southbound) -> Cluster:
    """All of it, now. Raises ClusterError: also without any chassis, as every wait would end."""
    ipsec, guard = northbound.stage()
    nodes = southbound.nodes()
    if not nodes:
        raise ClusterError(
            f"OVSDB {southbound.remote}: {_SB} has no chassis; give this cluster's by --sb, or "
            "start ovn-controller on its nodes"
        )
    return Cluster(ipsec, guard, nodes)


def _stage(text: str | None) -> GuardStage | None:
    if text is None:
        return None
    try:
        return GuardStage(text)
    except ValueError as error:
        raise ClusterError(
            f"NB_Global:options:{GUARD_OPTION} is {text!a}; remove it, or set audit or enforce"
        ) from error


def _select(table: str, columns: Sequence[str]) -> Row:
    return {"op": "select", "table": table, "where": [], "columns": list(columns)}


def _mutation(
    table: str, column: str, key: str, value: str | None, where: Sequence[object] = ()
) -> Row:
    """Sets one key of a map, or removes it; others write to the same column."""
    mutations: list[object] = [[column, "delete", ["set", [key]]]]
    if value is not None:
        mutations.append([column, "insert", ["map", [[key, str(value)]]]])
    return {"op": "mutate", "table": table, "where": list(where), "mutations": mutations}


def _the_row(remote: str, database: str, table: str, columns: Sequence[str]) -> Row:
    (result,) = _transact(remote, database, [_select(table, columns)])
    if not result["rows"]:
        raise ClusterError(f"OVSDB {remote}: {database} has no row in {table}; is it set up?")
    row: Row = result["rows"][0]
    return row


def _transact(remote: str, database: str, operations: Sequence[Row]) -> list[Row]:
    """At the first server that answers. Raises ClusterError."""
    problems = []
    for one in remote.split(","):
        try:
            request = OneRequest(one, "transact", [database, *operations])
            results: list[Row] = request.wait_for_answer(_TIMEOUT_S)
        except SourceError as error:
            problems.append(str(error))
            continue
        for result in results:
            if result and "error" in result:
                said = f"{result['error']}: {result.get('details', '')}"
                raise ClusterError(f"OVSDB {one}: {database}: {said}")
        return results
    raise ClusterError("; ".join(problems))


def _map(value: Any) -> dict[str, str]:
    return dict(value[1])
