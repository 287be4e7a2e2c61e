"""Renders a snapshot as the JSON of ``tunnels/show`` and of ``/status``. Pure."""

from __future__ import annotations

from datetime import datetime

from ovn_ipsec.model.causes import Cause
from ovn_ipsec.model.conns import TunnelView
from ovn_ipsec.model.snapshot import ActiveConnection, SaDetail, Snapshot, TunnelStatus
from ovn_ipsec.status.report import chosen_tunnels, render_selector

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]


def json_tunnels(
    snapshot: Snapshot, now_s: float, name: str | None = None
) -> dict[str, JsonValue] | None:
    """``tunnels/show`` for ``--format json``; None when there is no tunnel ``name``."""
    tunnels = chosen_tunnels(snapshot, name)
    if tunnels is None:
        return None
    return {
        "tunnels": [_json_tunnel(tunnel, snapshot, now_s) for tunnel in tunnels],
        "node": _json_node(snapshot, now_s),
    }


def _json_tunnel(tunnel: TunnelStatus, snapshot: Snapshot, now_s: float) -> dict[str, JsonValue]:
    view = tunnel.view
    return {
        "name": tunnel.name,
        "version": tunnel.version,
        "state": str(tunnel.state),
        "reason": tunnel.reason,
        "error": tunnel.error,
        "up": tunnel.up,
        "missing": list(tunnel.missing),
        "cause": None if tunnel.cause is None else _json_cause(tunnel.cause),
        "ike_up": tunnel.ike_up,
        "warnings": list(tunnel.warnings),
        "config": None if view is None else _json_view(view),
        "policies": [
            {"direction": policy.direction, "selector": render_selector(policy)}
            for policy in tunnel.policies
        ],
        "security_associations": [
            {
                "src": state.src,
                "dst": state.dst,
                "spi": state.spi,
                "selector": render_selector(state.selector) if state.selector else None,
            }
            for state in tunnel.states
        ],
        "connections": [
            _json_connection(active, snapshot, now_s) for active in tunnel.connections
        ],
    }


def _json_connection(
    active: ActiveConnection, snapshot: Snapshot, now_s: float
) -> dict[str, JsonValue]:
    detail = snapshot.details.get(active.name, SaDetail())
    passed_s = now_s - snapshot.details_at_s
    rekey_s = None if detail.rekey_in_s is None else round(detail.rekey_in_s - passed_s)
    return {
        "name": active.name,
        "bytes_in": active.bytes_in,
        "bytes_out": active.bytes_out,
        "add_time": active.add_time,
        "cipher": detail.cipher,
        # One that should be over has been rekeyed since it was read.
        "rekey_in_s": rekey_s if rekey_s is not None and rekey_s >= 0 else None,
        "line": active.line,
    }


def _json_cause(cause: Cause) -> dict[str, JsonValue]:
    return {"code": str(cause.code), "text": cause.text, "remedy": cause.remedy}


def _json_view(view: TunnelView) -> dict[str, JsonValue]:
    return {
        "type": view.type,
        "local_ip": view.local_ip,
        "remote_ip": view.remote_ip,
        "address_family": view.address_family,
        "skb_mark": view.skb_mark,
        "local_cert": view.local_cert,
        "local_name": view.local_name,
        "local_key": view.local_key,
        "remote_cert": view.remote_cert,
        "remote_name": view.remote_name,
        "ca_cert": view.ca_cert,
        "psk_set": view.psk_set,
        "options": {key: value for key, value in view.options.items()},
        "ofport": view.ofport,
        "cfm_fault": view.cfm_fault,
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _json_node(snapshot: Snapshot, now_s: float) -> dict[str, JsonValue]:
    ike, guard, certificate = snapshot.ike, snapshot.guard, snapshot.certificate
    counters = guard.counters if guard else None
    return {
        "taken_at": snapshot.taken_at.isoformat(),
        "age_s": round(max(0.0, now_s - snapshot.taken_at_s), 3),
        "complete": snapshot.complete,
        "ike": None if ike is None else {"running": ike.running, "version": ike.version},
        "guard": None
        if guard is None
        else {
            "present": guard.present,
            "intact": guard.intact,
            "mode": str(guard.mode) if guard.mode else None,
            "dropped_out": counters.out_packets if counters else None,
            "dropped_in": counters.in_packets if counters else None,
        },
        "certificate": None
        if certificate is None
        else {
            "name": certificate.name,
            "not_after": _iso(certificate.not_after),
            "ca_not_after": _iso(certificate.ca_not_after),
            "problem": certificate.problem,
        },
        "causes": [_json_cause(cause) for cause in snapshot.causes],
        "log_problem": snapshot.log_problem,
        "problems": list(snapshot.problems),
        "stale": [
            {
                "subject": str(stale.subject),
                "reason": stale.reason,
                "age_s": None
                if stale.read_at_s is None
                else round(max(0.0, now_s - stale.read_at_s), 3),
            }
            for stale in snapshot.stale
        ],
    }
