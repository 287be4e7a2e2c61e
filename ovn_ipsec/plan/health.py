"""What pluto and the kernel say about one tunnel, brought together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ovn_ipsec.model.conns import (
    InstalledTunnel,
    ObservedIke,
    TunnelConfig,
    connection_name,
)
from ovn_ipsec.model.loaded import LoadedView


@dataclass(frozen=True, slots=True)
class TunnelHealth:
    """How one tunnel's connections are."""

    missing: tuple[str, ...]
    """Connections without an established child SA."""
    broken: tuple[str, ...]
    """Connections whose child SA pluto reports but whose states or policies the kernel lacks."""
    negotiating: bool
    """pluto is initiating one of them right now."""
    in_touch: bool
    """There is an IKE SA of one of them, or pluto has answered the peer's request for one."""
    surplus: tuple[int, ...]
    """Serials of older child SAs, working ones, beside a newer one of the same connection."""
    bytes_in: int
    bytes_out: int
    left: bool = False
    """pluto knows of no SA with the peer, and the kernel has some both ways: a pluto that is gone
    left them, and the peer cannot know."""

    @property
    def up(self) -> bool:
        """Traffic is encrypted both ways, as far as this node can know."""
        return not self.missing and not self.broken


class IkeView(LoadedView):
    """One observation of pluto and the kernel, indexed so that a tunnel costs its own size."""

    def __init__(self, ike: ObservedIke, installed: Mapping[str, InstalledTunnel]) -> None:
        super().__init__(ike.loaded, installed)
        self._ike = ike
        half_open = [sa for sa in ike.ike_sas if not sa.established]
        self._initiating = {sa.connection for sa in half_open if sa.initiator is not False}
        self._with_ike = {
            sa.connection for sa in ike.ike_sas if sa.established or sa.initiator is False
        }
        self._ike_serials = {sa.serial for sa in ike.ike_sas if sa.established}

    def unoriented(self, names: Iterable[str]) -> bool:
        """Whether pluto finds neither end of one of these among this node's addresses."""
        return not self._ike.unoriented.isdisjoint(names)

    def assess(self, tunnel: str, version: int, config: TunnelConfig) -> TunnelHealth:
        """Judge the tunnel's connections of this version."""
        missing: list[str] = []
        broken: list[str] = []
        surplus: list[int] = []
        negotiating = in_touch = False
        bytes_in = bytes_out = 0
        for role, selector in config.selectors().items():
            name = connection_name(tunnel, role, version)
            children = self._ike.children_of(name)
            negotiating |= name in self._initiating
            in_touch |= name in self._with_ike
            if not children:
                missing.append(name)
                continue
            if not self._ike.in_kernel(children[-1], config.local, config.remote, selector):
                broken.append(name)
            surplus += [
                child.serial
                for child in children[:-1]
                if child.ike_serial in self._ike_serials
                and self._ike.in_kernel(child, config.local, config.remote, selector)
            ]
            bytes_in += sum(child.bytes_in for child in children)
            bytes_out += sum(child.bytes_out for child in children)
        return TunnelHealth(
            missing=tuple(missing),
            broken=tuple(broken),
            negotiating=negotiating,
            in_touch=in_touch,
            surplus=tuple(surplus),
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            left=not in_touch and self._left(config, len(missing)),
        )

    def _left(self, config: TunnelConfig, missing: int) -> bool:
        if missing < len(config.selectors()):
            return False
        return self._ike.kernel.has_states_between(config.local, config.remote)
