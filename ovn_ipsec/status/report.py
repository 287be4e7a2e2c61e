"""Renders a snapshot as the texts that users and scripts read. Pure.

The layouts are those of Open vSwitch's ``ovs-monitor-ipsec``, which people and scripts grep:
its lines stay as they are, ours are added. Values from OVSDB are untrusted: they are printed
with control characters escaped, so that no row can forge another tunnel's lines.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from ovn_ipsec.model.conns import (
    Guard,
    GuardMode,
    GuardTuple,
    ObservedGuard,
    TunnelView,
)
from ovn_ipsec.model.kernel import KernelPolicy
from ovn_ipsec.model.snapshot import (
    GuardStatus,
    IkeStatus,
    Snapshot,
    Stale,
    Subject,
    TunnelState,
    TunnelStatus,
)

OLD_AFTER_S = 15.0
"""An answer whose values were read longer ago than this says so."""

NO_TUNNELS = "No tunnels configured with IPsec"

_Item = TypeVar("_Item")


class TunnelTexts:
    """What was last said of each tunnel, so that only a changed one costs work again.

    To compare a tunnel takes a quarter of the time that it takes to render it. Half of a text is
    about its row, which stays while SAs come and go.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[TunnelStatus, str, str]] = {}

    def of(self, tunnel: TunnelStatus) -> str:
        """Its lines."""
        before, row, text = self._known.get(tunnel.name, (None, "", ""))
        if before != tunnel:
            if before is None or before.view is not tunnel.view:
                row = _row_lines(tunnel.view)
            text = _tunnel_block(tunnel, row)
        self._known[tunnel.name] = (tunnel, row, text)
        return text

    def keep(self, tunnels: Iterable[TunnelStatus]) -> None:
        """Forget all others."""
        names = {tunnel.name for tunnel in tunnels}
        for gone in self._known.keys() - names:
            del self._known[gone]


def render_tunnels(
    snapshot: Snapshot, now_s: float, name: str | None = None, texts: TunnelTexts | None = None
) -> str | None:
    """The text of ``tunnels/show [IFACE]``; None when there is no tunnel ``name``."""
    texts = texts or TunnelTexts()
    texts.keep(snapshot.tunnels)
    tunnels = chosen_tunnels(snapshot, name)
    if tunnels is None:
        return None
    node = render_node(snapshot, now_s)
    if not tunnels:
        return f"{NO_TUNNELS}\n" + (node if _alarming(snapshot, now_s) else "")
    return "".join(f"{texts.of(tunnel)}\n" for tunnel in tunnels) + node


def render_node(snapshot: Snapshot, now_s: float) -> str:
    """What concerns the node as a whole, behind the tunnels."""
    lines = [
        "Node:",
        _field("State read", f"{_age(now_s, snapshot.taken_at_s)} ago"),
        _field("IKE daemon", _ike_text(snapshot.ike)),
        *_guard_lines(snapshot.guard),
    ]
    if not snapshot.complete:
        lines.append(
            _field("Problem", "not all sources have reported yet; tunnels may be missing")
        )
    lines += [_field("Problem", _plain(problem)) for problem in snapshot.problems]
    lines += [_field("Stale", _stale_text(stale, now_s)) for stale in snapshot.stale]
    return "".join(f"{line}\n" for line in lines)


def render_ipsec_status(snapshot: Snapshot, now_s: float) -> str:
    """The text of ``ipsec/status``: a Python dict, IFACE -> connection -> pluto's line."""
    connections = {
        tunnel.name: {active.name: active.line for active in tunnel.connections}
        for tunnel in snapshot.tunnels
        if tunnel.connections
    }
    return f"{connections}\n" + _dict_footnote(snapshot, now_s)


def render_xfrm_policies(snapshot: Snapshot, now_s: float) -> str:
    """The text of ``xfrm/policies``: a Python dict, destination -> selector lines."""
    policies: dict[str, list[str]] = {}
    for policy in snapshot.ike.policies if snapshot.ike else ():
        _append_once(policies, policy.dst, render_selector(policy))
    return f"{policies}\n" + _dict_footnote(snapshot, now_s)


def render_xfrm_states(snapshot: Snapshot, now_s: float) -> str:
    """The text of ``xfrm/state``: a Python dict, either end's address -> selector lines."""
    states: dict[str, list[str]] = {}
    for state in snapshot.ike.states if snapshot.ike else ():
        if state.selector is not None:
            line = f"sel {render_selector(state.selector)}"
            for address in dict.fromkeys((state.selector.dst, state.selector.src)):
                _append_once(states, address, line)
    return f"{states}\n" + _dict_footnote(snapshot, now_s)


def render_selector(policy: KernelPolicy) -> str:
    """A selector as ``ip xfrm`` (iproute2) writes it."""
    words = ["src", policy.src, "dst", policy.dst]
    if policy.protocol:
        words += ["proto", policy.protocol]
    if policy.sport is not None:
        words += ["sport", str(policy.sport)]
    if policy.dport is not None:
        words += ["dport", str(policy.dport)]
    return " ".join(words)


def render_guard(guard: Guard | None, observed: ObservedGuard) -> str:
    """The text of ``ovn-ipsec guard show``; ``guard`` None when the table is not ours."""
    status = GuardStatus(
        observed.present, observed.intact, observed.mode, observed.counters, read_at_s=0.0
    )
    lines = _guard_lines(status)
    if guard is not None:
        lines += [
            _field("Closed port", _port_text(p.protocol, p.port))
            for p in _by_text(guard.closed_ports)
        ]
        lines += [_field("Closed peer", _tuple_text(t)) for t in _by_text(guard.closed_peers)]
        lines += [_field("Exempt", _tuple_text(t)) for t in _by_text(guard.exempt)]
        if guard.skb_mark is not None:
            lines.append(_field("SKB mark", "{:#x}/{:#x}".format(*guard.skb_mark)))
    return "".join(f"{line}\n" for line in lines)


def _by_text(items: Iterable[_Item]) -> list[_Item]:
    return sorted(items, key=repr)


def _port_text(protocol: str, port: int | None) -> str:
    return protocol if port is None else f"{protocol}/{port}"


def _tuple_text(item: GuardTuple) -> str:
    return f"{item.local or 'any'} <-> {item.remote} {_port_text(item.protocol, item.port)}"


def ike_unknown(snapshot: Snapshot) -> str | None:
    """Why nothing can be said about connections and SAs; None when something can."""
    if snapshot.ike is not None:
        return None
    stale = snapshot.unread(Subject.IKE)
    return stale.reason if stale else "the agent has not read it yet"


def chosen_tunnels(snapshot: Snapshot, name: str | None) -> tuple[TunnelStatus, ...] | None:
    """All, or those called ``name``; None when nothing is called so."""
    if name is None:
        return snapshot.tunnels
    return tuple(tunnel for tunnel in snapshot.tunnels if tunnel.name == name) or None


def _alarming(snapshot: Snapshot, now_s: float) -> bool:
    """Whether a node without tunnels has more to say than that."""
    guard, ike = snapshot.guard, snapshot.ike
    return bool(
        snapshot.problems
        or snapshot.stale
        or not snapshot.complete
        or now_s - snapshot.taken_at_s > OLD_AFTER_S
        or (ike is not None and not ike.running)
        or (guard is not None and not (guard.present and guard.intact))
    )


def _row_lines(view: TunnelView | None) -> str:
    fields = () if view is None else _view_fields(view)
    return "".join(f"{_field(name, _plain(value))}\n" for name, value in fields)


def _tunnel_block(tunnel: TunnelStatus, row: str) -> str:
    head = f"Interface name: {_plain(tunnel.name)} v{tunnel.version} ({_state_text(tunnel)})\n"
    lines = [_field("Warning", _plain(warning)) for warning in tunnel.warnings]
    if tunnel.error is not None:
        lines.append(_field("Last error", _plain(tunnel.error)))
    if tunnel.missing:
        lines.append(_field("Not up", _plain(", ".join(tunnel.missing))))
    if tunnel.cause is not None and tunnel.state is not TunnelState.INVALID:
        lines.append(_field("Cause", _plain(tunnel.cause.text)))
        lines.append(_field("Remedy", _plain(tunnel.cause.remedy)))
    lines.append("Kernel policies installed:")
    remote = tunnel.view.remote_ip if tunnel.view else ""
    lines += _once(
        f"  {render_selector(policy)}"
        for policy in tunnel.policies
        if policy.direction == "out" or _bare(policy.dst) == remote
    )
    lines.append("Kernel security associations installed:")
    lines += [
        f"  sel {render_selector(state.selector)}" for state in tunnel.states if state.selector
    ]
    lines.append("IPsec connections that are active:")
    lines += [f"  {_plain(active.line)}" for active in tunnel.connections]
    return head + row + "".join(f"{line}\n" for line in lines)


def _state_text(tunnel: TunnelStatus) -> str:
    if tunnel.state is TunnelState.INVALID:
        return f"{tunnel.state}: {_plain(tunnel.reason or 'no reason known')}"
    return str(tunnel.state)


def _view_fields(view: TunnelView) -> tuple[tuple[str, str], ...]:
    return (
        ("Tunnel Type", view.type),
        ("Local IP", view.local_ip),
        ("Remote IP", view.remote_ip),
        ("Address Family", view.address_family),
        ("SKB mark", str(view.skb_mark)),
        ("Local cert", str(view.local_cert)),
        ("Local name", str(view.local_name)),
        ("Local key", str(view.local_key)),
        ("Remote cert", str(view.remote_cert)),
        ("Remote name", str(view.remote_name)),
        ("CA cert", str(view.ca_cert)),
        ("PSK", "set" if view.psk_set else "None"),
        ("Custom Options", str(dict(view.options))),
        ("Ofport", "Not assigned" if view.ofport in (None, -1) else str(view.ofport)),
        ("CFM state", {None: "Disabled", False: "Up", True: "Down"}[view.cfm_fault]),
    )


def _field(name: str, value: str) -> str:
    return f"  {name + ':':<15} {value}"


def _plain(text: str) -> str:
    """One line, whatever is in it."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _once(lines: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(lines))


def _bare(address: str) -> str:
    return address.partition("/")[0]


def _append_once(lists: dict[str, list[str]], address: str, line: str) -> None:
    lines = lists.setdefault(_bare(address), [])
    if line not in lines:
        lines.append(line)


def _age(now_s: float, then_s: float) -> str:
    return f"{max(0.0, now_s - then_s):.1f} s"


def _ike_text(ike: IkeStatus | None) -> str:
    if ike is None:
        return "unknown"
    if not ike.running:
        return "not running"
    return f"running ({_plain(ike.version)})" if ike.version else "running"


def _guard_lines(guard: GuardStatus | None) -> list[str]:
    if guard is None:
        return [_field("Guard", "unknown")]
    mode = str(guard.mode) if guard.mode else "unknown mode"
    if not guard.present:
        state = "absent"
    elif guard.intact:
        state = mode
    else:
        state = f"{mode}, changed by somebody else"
    lines = [_field("Guard", state)]
    if guard.counters is not None:
        met = f"out {guard.counters.out_packets}, in {guard.counters.in_packets}"
        if guard.mode is GuardMode.AUDIT:
            lines.append(_field("Guard counted", f"{met} (packets without IPsec, let pass)"))
        else:
            lines.append(_field("Guard drops", f"{met} (packets without IPsec)"))
    return lines


def _stale_text(stale: Stale, now_s: float) -> str:
    read = "never read" if stale.read_at_s is None else f"read {_age(now_s, stale.read_at_s)} ago"
    return f"{stale.subject}: {read}: {_plain(stale.reason)}"


def _dict_footnote(snapshot: Snapshot, now_s: float) -> str:
    """A Python comment, which ``ast.literal_eval`` of the answer skips; empty when fresh."""
    if stale := snapshot.unread(Subject.IKE):
        return f"# {_stale_text(stale, now_s)}\n"
    if now_s - snapshot.taken_at_s > OLD_AFTER_S:
        return f"# read {_age(now_s, snapshot.taken_at_s)} ago\n"
    return ""
