"""Decides who gets which certificate. Pure: request, proof, standing and clock in; answer out.

A requester is bound to exactly one chassis id by what it proved; there is no other way to a
name. Every rule that is broken is in the answer, not only the first. What the authority knows
about id, key, token and certificate is the ``Standing``, which ``ca.inventory`` looks up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address

from ca.csr import CsrFacts, PublicKey
from ca.entries import How, Issued
from ca.lifetime import renewal_moment
from ca.requests import ByCertificate, ByNode, ByOperator, ByToken, CaBusy, Requester

_CHASSIS_ID = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?", re.ASCII)
_HOST_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*", re.ASCII)
_MAX_REASONS = 8
_MAX_QUOTED = 80
_MAX_RECORDED = 200
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Rules:
    """What an operator may set."""

    requests_per_window: int = 10
    """Recorded requests of one node; more must wait."""
    unproven_per_window: int = 10
    """Refusals on record of requesters who proved nothing, all together; more go unrecorded."""
    unproven_per_day: int = 200
    """Beside that. 600 bytes each: 40 MB a year at most."""
    window: timedelta = timedelta(minutes=1)
    live_per_id: int = 64
    """Certificates of one id that have not ended. A node has two or three; each reinstallation and
    roll-over leaves one behind, and 64 allow one a month for the five years that they last. All of
    them are on the CRL once the node is revoked, which every other node has to be able to read."""


@dataclass(frozen=True, slots=True)
class TokenStanding:
    """A join token whose id and secret the requester knows."""

    handle: str
    chassis_id: str
    expires: datetime
    replace: bool
    used_for: str | None = None
    """Digest of the request that used it up."""
    void: bool = False
    """Taken back: its node was revoked, or the state was restored from a backup."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the authority knows that bears on one request."""

    token: TokenStanding | None = None
    presented: Issued | None = None
    """Our record of the certificate that the requester authenticated with."""
    presented_revoked: bool = False
    presented_replaced: bool = False
    live: tuple[Issued, ...] = ()
    """The id's certificates that are neither expired nor revoked, oldest first."""
    same_request: Issued | None = None
    """The newest of them that answered this very request, signed by the present root."""
    key_owners: frozenset[str] = frozenset()
    """Every id, in lower case, that this public key was ever certified for."""
    key_revoked: bool = False
    spelling: str | None = None
    """How the id's first certificate spelled it."""
    pinned: str | None = None
    """The Kubernetes Node that the id's live certificates were given to."""
    other_ids: tuple[str, ...] = ()
    """Other ids that the requesting Node has live certificates of."""
    cut_off: bool = False
    """The id was revoked, and nobody has admitted it again."""
    refused_before: tuple[str, ...] = ()
    """Reasons given to this request with this proof."""
    recent: tuple[datetime, ...] = ()
    """When requests of this node were recorded, oldest first."""
    recent_unproven: tuple[datetime, ...] = ()


@dataclass(frozen=True, slots=True)
class Grant:
    """Sign: for this name and key."""

    chassis_id: str
    how: How
    public_key: PublicKey
    token: str = ""
    replaces: tuple[str, ...] = ()
    node: str = ""
    """The Kubernetes Node that has the id from now on."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """The same request again: the same certificate."""

    issued: Issued


@dataclass(frozen=True, slots=True)
class Refusal:
    """No, for ever. ``fresh`` is False when it is not to be recorded, or has been."""

    chassis_id: str
    how: How
    proven: bool
    reasons: tuple[str, ...]
    fresh: bool = True
    recorded: tuple[str, ...] = ()
    """Of a requester who proved nothing: the reasons that go on record."""


def decide(
    csr: CsrFacts, requester: Requester, standing: Standing, rules: Rules, now: datetime
) -> Grant | Repeat | Refusal:
    """The whole policy. Raises CaBusy when a node asks too often."""
    how, claimed, doubts = _prove(csr, requester, standing, now)
    chassis_id = standing.spelling or claimed
    refused = standing.refused_before
    if doubts:
        # Anybody can be refused: that must not fill the log.
        fresh = not refused and _has_room(standing.recent_unproven, rules, now)
        reasons = _few(doubts + _content_faults(csr, claimed))
        recorded = _few([_cut(doubt, _MAX_RECORDED) for doubt in doubts])
        return Refusal(claimed, how, False, reasons, fresh, recorded)
    same = standing.same_request
    if same is not None and same.not_before <= now and not _is_due(same, now):
        return Repeat(same)
    if how is not How.OPERATOR:
        # What a Node's refusal was for is found in the cluster, and may be mended there.
        if refused and how is not How.NODE:
            return Refusal(chassis_id, how, True, refused, fresh=False)
        _wait(standing.recent, rules, now)
    faults = _content_faults(csr, claimed)
    faults += _history_faults(chassis_id, how, requester, standing, now)
    if faults or csr.public_key is None:
        reasons = _few(faults)
        return Refusal(chassis_id, how, True, reasons, fresh=reasons != refused)
    if len(standing.live) >= rules.live_per_id:
        # Not recorded: that would be final, and an operator can mend it.
        return Refusal(chassis_id, how, True, (_too_many(chassis_id, standing),), fresh=False)
    renews = how in (How.CERTIFICATE, How.NODE)
    replaces = () if renews else tuple(item.serial for item in standing.live)
    token = standing.token.handle if how is How.TOKEN and standing.token else ""
    node = requester.node if isinstance(requester, ByNode) else ""
    return Grant(chassis_id, how, csr.public_key, token, replaces, node)


def chassis_id_fault(name: str) -> str | None:
    """Why a text is no chassis id: 1 to 64 letters, digits, ``._-``; nothing with a wildcard."""
    if _CHASSIS_ID.fullmatch(name):
        return None
    return (
        f"{_quoted(name)} is not a chassis id: 1 to 64 letters, digits, dots, dashes and "
        "underscores, not starting with dot or dash, not ending with a dot"
    )


def server_name_fault(name: str) -> str | None:
    """Why a text is neither a DNS name nor an IP address."""
    if _HOST_NAME.fullmatch(name) or _is_address(name):
        return None
    return f"{_quoted(name)} is neither a DNS name nor an IP address"


def proven_by(requester: Requester) -> How:
    """The word for the requester's proof."""
    if isinstance(requester, ByToken):
        return How.TOKEN
    if isinstance(requester, ByNode):
        return How.NODE
    return How.CERTIFICATE if isinstance(requester, ByCertificate) else How.OPERATOR


def _prove(
    csr: CsrFacts, requester: Requester, standing: Standing, now: datetime
) -> tuple[How, str, list[str]]:
    """How, for which id, and what is wrong with the proof."""
    how = proven_by(requester)
    if isinstance(requester, ByOperator):
        return how, requester.chassis_id, []
    if isinstance(requester, ByNode):
        return how, requester.chassis_id, list(requester.doubts)
    if isinstance(requester, ByToken):
        token = standing.token
        if token is None:
            return how, requester.chassis_id, ["no join token of this chassis id has this secret"]
        return how, token.chassis_id, _token_doubts(csr, token, standing, now)
    presented = standing.presented
    if presented is None:
        return how, "", ["the certificate presented is not one that this authority gave a node"]
    doubts = []
    if standing.presented_revoked:
        doubts.append("the certificate presented is revoked")
    if standing.presented_replaced:
        doubts.append("the certificate presented was replaced on an operator's word")
    if now >= presented.not_after:
        doubts.append(f"the certificate presented has expired at {presented.not_after}")
    return how, presented.chassis_id, doubts


def _token_doubts(
    csr: CsrFacts, token: TokenStanding, standing: Standing, now: datetime
) -> list[str]:
    if token.used_for == csr.digest and standing.same_request is not None and not token.void:
        return []  # the answer was lost on its way: the same again does no harm
    doubts = []
    if token.void:
        doubts.append("the join token was taken back; ask the operator for another")
    if token.used_for is not None:
        doubts.append("the join token was used before; ask the operator for another")
    if now >= token.expires:
        doubts.append(f"the join token has expired at {token.expires}")
    return doubts


def _content_faults(csr: CsrFacts, chassis_id: str) -> list[str]:
    faults = list(csr.faults)
    if (fault := chassis_id_fault(chassis_id)) and chassis_id:
        faults.append(fault)
    for name in dict.fromkeys(csr.names):
        if fault := chassis_id_fault(name):
            faults.append(f"the request names {fault}")
        elif chassis_id and name.lower() != chassis_id.lower():
            faults.append(f"the request names {name!r}, the requester is {_quoted(chassis_id)}")
    return faults


def _history_faults(
    chassis_id: str, how: How, requester: Requester, standing: Standing, now: datetime
) -> list[str]:
    faults = []
    others = sorted(standing.key_owners - {chassis_id.lower()})
    if others:
        whose = f" ({', '.join(others)})" if how is How.OPERATOR else ""
        faults.append(f"this public key belongs to another chassis{whose}; make a new key")
    if standing.key_revoked:
        faults.append("this public key is that of a revoked certificate; make a new key")
    if isinstance(requester, ByNode):
        faults += _node_faults(chassis_id, requester, standing)
    elif standing.live and not _may_replace(requester, standing, now):
        newest = standing.live[-1]
        faults.append(
            f"{chassis_id} has a certificate (serial {newest.serial}, until {newest.not_after}); "
            "renew with it, or let an operator revoke it or allow its replacement (--replace)"
        )
    return faults


def _node_faults(chassis_id: str, requester: ByNode, standing: Standing) -> list[str]:
    """A Node keeps the id it was first given for as long as it has a live certificate."""
    faults = []
    if standing.cut_off:
        faults.append(f"{chassis_id} was revoked; an operator lets it back with: admit")
    if standing.other_ids:
        faults.append(
            f"Node {requester.node} has a certificate as {', '.join(standing.other_ids)}, its "
            f"chassis id was changed to {chassis_id}; let an operator revoke the former"
        )
    if standing.live and standing.pinned is None:
        faults.append(
            f"{chassis_id} has a certificate (serial {standing.live[-1].serial}) that no Node was "
            "given; let an operator revoke it"
        )
    elif standing.live and standing.pinned != requester.node:
        faults.append(
            f"{chassis_id} is Node {standing.pinned}, which has a live certificate; let an "
            "operator revoke it if this Node takes its place"
        )
    elif requester.claimants and not standing.live:
        others = ", ".join(requester.claimants)
        faults.append(f"{chassis_id} is claimed by other Nodes, too: {others}; one must change")
    return faults


def _may_replace(requester: Requester, standing: Standing, now: datetime) -> bool:
    if standing.same_request is not None and now < standing.same_request.not_before:
        return True  # the answer to this very request, and of no use: our clock was ahead
    if isinstance(requester, ByOperator):
        return requester.replace
    if isinstance(requester, ByCertificate):
        return True
    return standing.token is not None and standing.token.replace


def _too_many(chassis_id: str, standing: Standing) -> str:
    return (
        f"{chassis_id} has {len(standing.live)} certificates that have not expired, as many as an "
        "id may have; let an operator revoke those that are not in use (ovn-ipsec-ca list --all, "
        "then revoke --serial), or all of them (revoke, then a new token or admit)"
    )


def _is_due(issued: Issued, now: datetime) -> bool:
    """A node that keeps its key and asks in the same words means the next certificate."""
    return now >= renewal_moment(issued.not_before, issued.not_after)


def _has_room(unproven: tuple[datetime, ...], rules: Rules, now: datetime) -> bool:
    lately = len(_inside(unproven, rules.window, now))
    today = len(_inside(unproven, _DAY, now))
    return lately < rules.unproven_per_window and today < rules.unproven_per_day


def _inside(recent: tuple[datetime, ...], span: timedelta, now: datetime) -> list[datetime]:
    return [moment for moment in recent if now - span < moment <= now]


def _wait(recent: tuple[datetime, ...], rules: Rules, now: datetime) -> None:
    inside, limit = _inside(recent, rules.window, now), rules.requests_per_window
    if len(inside) < limit:
        return
    wait_s = (inside[-limit] + rules.window - now).total_seconds()
    window_s = rules.window.total_seconds()
    raise CaBusy(f"more than {limit} requests in {window_s:.0f} s; come again later", wait_s)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _few(reasons: list[str]) -> tuple[str, ...]:
    if len(reasons) <= _MAX_REASONS:
        return tuple(reasons)
    return (*reasons[:_MAX_REASONS], f"and {len(reasons) - _MAX_REASONS} reasons more")


def _quoted(name: str) -> str:
    text = repr(name)
    return text if len(text) <= _MAX_QUOTED else text[:_MAX_QUOTED] + "...'"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + "..."
