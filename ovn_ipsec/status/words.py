"""One word for a tunnel. Pure."""

from __future__ import annotations

from ovn_ipsec.model.snapshot import TunnelState, TunnelStatus

STATES = ("encrypted", "no-input", "down", "installing", "invalid", "removed")


def state_word(tunnel: TunnelStatus) -> str:
    """Its state, one of ``STATES``."""
    if tunnel.state is TunnelState.CONFIGURED:
        if not tunnel.up:
            return "down"
        return "no-input" if tunnel.cause else "encrypted"
    return "installing" if tunnel.state is TunnelState.INIT else tunnel.state.lower()


def row_word(tunnel: TunnelStatus) -> str:
    """State and cause, as they are in its row: ``encrypted``, ``down: peer-silent``."""
    return f"{state_word(tunnel)}: {tunnel.cause.code}" if tunnel.cause else state_word(tunnel)
