"""What the command line shows of the inventory. Pure. No secret is ever in it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from ca.chain import Head
from ca.entries import Issued, to_json
from ca.inventory import Inventory
from ca.policy import TokenStanding
from ca.rollover import Phase, Rollover
from ca.settings import CaSettings


def state_of(issued: Issued, inventory: Inventory, now: datetime) -> str:
    """In one word."""
    if issued.serial in inventory.revoked:
        return "revoked"
    return "valid" if now < issued.not_after else "expired"


def certificates(inventory: Inventory, now: datetime, *, every: bool) -> list[dict[str, Any]]:
    """The newest live certificate of each id, or every one that is on record."""
    rows = []
    for issued in inventory.issued.values():
        live = list(inventory.live(issued.chassis_id, now))
        if not every and (not live or live[-1] is not issued):
            continue
        row = to_json(issued)
        shown = ("chassis_id", "serial", "how", "not_before", "not_after", "issuer")
        rows.append({**{k: row[k] for k in shown}, "state": state_of(issued, inventory, now)})
    return sorted(rows, key=lambda row: (row["chassis_id"].lower(), row["not_before"]))


def denials(inventory: Inventory) -> list[dict[str, Any]]:
    """The refusals that are remembered, oldest first."""
    shown = ("at", "chassis_id", "how", "proven", "reasons")
    rows = [to_json(entry) for entry in inventory.refusals.values()]
    return [{key: row[key] for key in shown} for row in rows]


def tokens(inventory: Inventory, now: datetime) -> list[dict[str, Any]]:
    """Join tokens by handle."""
    return [
        {
            "handle": token.handle,
            "chassis_id": token.chassis_id,
            "expires": token.expires.isoformat(),
            "replace": token.replace,
            "state": _token_state(token, now),
        }
        for token in inventory.tokens.values()
    ]


def usable_again(inventory: Inventory, chassis_id: str, now: datetime) -> str:
    """What comes of letting a revoked node back; empty for any other, and when nothing does."""
    name = chassis_id.lower()
    if name not in inventory.denied_names:
        return ""
    old = list(inventory.unexpired(name, now))
    if old:
        which = f"{len(old)} that have not expired, the last one until "
        which += str(max(item.not_after for item in old))
    elif name not in inventory.known_ids():
        which = "none of which is on record"
    else:
        return ""
    return (
        f"{chassis_id} was revoked, and peers go by names: with its new certificate its old ones "
        f"are good again, too, for whoever has their keys ({which}). If others may have a key, "
        "use a new chassis id instead, and leave this one revoked"
    )


def overview(
    inventory: Inventory, settings: CaSettings, head: Head, rollover: Rollover, now: datetime
) -> dict[str, Any]:
    """The authority as a whole."""
    return {
        "name": settings.name,
        "organization": settings.organization,
        "roots": [
            {
                "key_id": root.key_id,
                "signs": root.key_id == inventory.signing,
                "not_after": root.not_after.isoformat(),
            }
            for root in inventory.roots.values()
        ],
        "bundle": inventory.bundle_digest,
        "rollover": rollover.phase.value,
        "live_nodes": len(inventory.live_ids(now)),
        "revoked_nodes": sorted(inventory.denied_names),
        "log": f"{head.count}:{head.hash}",
    }


def rollover(state: Rollover, acknowledged: Iterable[str]) -> dict[str, Any]:
    """Where the roll-over is, and whom it waits for."""
    values: dict[str, Any] = {"phase": state.phase.value, "signing": state.signing.key_id}
    if state.other is not None:
        values["new" if state.phase is Phase.PUBLISHED else "old"] = state.other.key_id
    if state.phase is Phase.PUBLISHED:
        values["acknowledged"] = len(set(acknowledged))
    if state.phase is not Phase.STEADY:
        values["waiting_for"] = list(state.laggards)
    if state.deadline is not None:
        values["deadline"] = state.deadline.isoformat() + (" (passed)" if state.overdue else "")
    if state.ready_at is not None:
        values["next_step_from"] = state.ready_at.isoformat()
    return values


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of the same keys as columns; empty for none."""
    if not rows:
        return ""
    lines = [[key.upper() for key in rows[0]], *([_cell(v) for v in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines)
    return "".join(f"{text.rstrip()}\n" for text in texts)


def listing(values: dict[str, Any]) -> str:
    """One value a line, lists indented below their name."""
    lines = []
    for key, value in values.items():
        if isinstance(value, list):
            lines += [f"{key}: {len(value)}", *(f"  {_cell(item)}" for item in value)]
        else:
            lines.append(f"{key}: {_cell(value)}")
    return "".join(f"{line}\n" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "; ".join(_cell(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    # Names and reasons may come from anybody: no control characters on a terminal.
    return "".join(c if c.isprintable() else "?" for c in str(value))


def _token_state(token: TokenStanding, now: datetime) -> str:
    if token.used_for is not None:
        return "used"
    if token.void:
        return "taken back"
    return "unused" if now < token.expires else "expired"
