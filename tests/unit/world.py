"""A strict little world for the planner: it accepts only steps that are possible in it."""

from __future__ import annotations

import math
from dataclasses import replace

from ovn_ipsec.model.conns import (
    ChildSa,
    Credential,
    Desired,
    Guard,
    IkeSa,
    InstalledCredential,
    InstalledTunnel,
    Observed,
    ObservedGuard,
    ObservedIke,
    Protocol,
    PskAuth,
    Secret,
    TunnelConfig,
    TunnelView,
    WantedTunnel,
    connection_name,
)
from ovn_ipsec.model.kernel import Kernel, KernelPolicy, KernelState
from ovn_ipsec.model.steps import (
    AddConnection,
    DeleteSa,
    DropConnection,
    InitiateConnection,
    InstallCredential,
    Listen,
    Outcome,
    RecordConnection,
    RemoveCredential,
    ReplaceConnection,
    SetGuard,
    StartIke,
    Step,
)
from ovn_ipsec.plan import Memory, Plan, plan, plan_changes, remember


def config(peer: int = 2, *, lead: bool = True, psk: str = "swordfish") -> TunnelConfig:
    return TunnelConfig(
        protocol=Protocol.UDP,
        port=6081,
        local="10.0.0.1",
        remote=f"10.0.{peer // 256}.{peer % 256}",
        auth=PskAuth(Secret(psk)),
        keywords=(("ike", "aes_gcm256-sha2_256"),),
        lead=lead,
    )


def wanted(name: str, conf: TunnelConfig | None, problem: str | None = None) -> WantedTunnel:
    view = TunnelView(
        type="geneve",
        local_ip="%defaultroute",
        remote_ip="10.0.0.2",
        address_family="IPv4",
        skb_mark=None,
        local_cert=None,
        local_name=None,
        local_key=None,
        remote_cert=None,
        remote_name=None,
        ca_cert=None,
        psk_set=True,
        options={},
        ofport=1,
        cfm_fault=None,
    )
    return WantedTunnel(name, view, conf, problem)


def desired(**tunnels: TunnelConfig | None) -> Desired:
    return Desired(
        tunnels={
            name: wanted(name, conf, None if conf else "no certificate")
            for name, conf in tunnels.items()
        },
        complete=True,
    )


def revoked(want: Desired, name: str) -> Desired:
    tunnel = replace(want.tunnels[name], config=None, problem="is revoked", withdrawn=True)
    return replace(want, tunnels={**want.tunnels, name: tunnel})


class World:
    """pluto, kernel, NSS and nftables as the planner may act on them; peers answer or not."""

    def __init__(self, *, peers_answer: bool = True) -> None:
        self.peers_answer = peers_answer
        self.running = True
        self.generation = 1
        self.now = 1000.0
        self.serial = 0
        self.configs: dict[str, tuple[TunnelConfig, str]] = {}
        self.foreign: set[str] = {"office-vpn"}
        self.children: dict[int, tuple[str, TunnelConfig, str]] = {}
        self.bytes: dict[int, tuple[int, int]] = {}
        self.negotiating: set[str] = set()
        self.answering: set[str] = set()
        self.in_touch: set[str] = set()
        self.unoriented: set[str] = set()
        self.kernel: set[int] = set()
        self.policies: set[KernelPolicy] = set()
        self.installed: dict[str, InstalledTunnel] = {}
        self.credentials: dict[str, Credential] = {}
        self.guard: Guard | None = None
        self.failing: set[str] = set()
        self.memory = Memory()
        self.wake_at: float | None = None
        self.looked: tuple[Desired, ObservedIke] | None = None
        self.settled: tuple[Desired, Observed, float] | None = None

    def observe(self) -> Observed:
        children = tuple(
            ChildSa(name, serial, 1, serial, serial + 1_000_000, *self.bytes.get(serial, (0, 0)))
            for serial, (name, _conf, _role) in self.children.items()
        )
        states = tuple(
            KernelState(src, dst, spi)
            for serial in self.kernel
            for conf in [self.children[serial][1]]
            for src, dst, spi in (
                (conf.remote, conf.local, serial),
                (conf.local, conf.remote, serial + 1_000_000),
            )
        )
        ike = ObservedIke(
            running=self.running,
            generation=str(self.generation),
            loaded=frozenset(self.configs) | self.foreign,
            unoriented=frozenset(self.unoriented),
            children=children if self.running else (),
            ike_sas=(
                IkeSa("any", 1, True),
                *(IkeSa(name, None, False, True) for name in self.negotiating),
                *(IkeSa(name, None, False, False) for name in self.answering),
                *(IkeSa(name, 2, True) for name in self.in_touch),
            ),
            kernel=Kernel(frozenset(self.policies), states),
        )
        guard = self.guard
        return Observed(
            ike=ike,
            installed=dict(self.installed),
            credentials=tuple(
                InstalledCredential(c.nickname, c.fingerprint, c.key is not None, "u,u,u")
                for c in self.credentials.values()
            ),
            guard=ObservedGuard(
                present=guard is not None,
                intact=guard is not None,
                digest=guard.digest if guard else None,
            ),
        )

    def look(self, want: Desired, advance_s: float) -> tuple[Step, ...]:
        """As the agent looks: no plan while the last one, an empty one, holds for what is seen."""
        if self.settled is not None:
            before, seen, until = self.settled
            if (before, seen) == (want, self.observe()) and self.now + advance_s < until:
                self.now += advance_s
                return ()
        return self.tick(want, advance_s)

    def tick(self, want: Desired, advance_s: float = 0.0) -> tuple[Step, ...]:
        """Plan, apply, remember as the agent does; returns the steps."""
        self.now += advance_s
        seen = self.observe()
        made = self._follow_changes(want, seen)
        self.wake_at = self.now + 0.5
        if made is not None:
            self.memory = made.memory
        if made is None or not made.steps:
            made = plan(want, seen, self.memory, self.now)
            assert isinstance(seen.ike, ObservedIke)
            self.looked = (want, seen.ike)
            self.wake_at = made.wake_at
            until = math.inf if made.stale_at is None else made.stale_at
            self.settled = None if made.steps else (want, seen, until)
        outcomes = [self.apply(step) for step in made.steps]
        self.memory = remember(made.memory, outcomes, self.now)
        return made.steps

    def _follow_changes(self, want: Desired, seen: Observed) -> Plan | None:
        """What rows that changed ask for, by what pluto said at the last tick."""
        looked, self.looked = self.looked, None
        if looked is None or not self.running or looked[1].generation != str(self.generation):
            return None
        before, ike = looked
        return plan_changes(want, before.tunnels, replace(seen, ike=ike), self.memory, self.now)

    def settle(self, want: Desired, seconds: float) -> list[Step]:
        """Tick as the agent does, when the plan wants it or after 10 s; returns every step."""
        end = self.now + seconds
        steps = list(self.tick(want))
        while self.now < end:
            wake_at = min(self.wake_at or end, self.now + 10.0, end)
            steps += self.tick(want, max(wake_at - self.now, 0.1))
        return steps

    def apply(self, step: Step) -> Outcome:
        subject = getattr(step, "tunnel", getattr(step, "nickname", ""))
        if subject in self.failing:
            return Outcome(step, "it does not work")
        if isinstance(step, SetGuard):
            self.guard = step.guard
        elif isinstance(step, InstallCredential):
            self.credentials[step.credential.nickname] = step.credential
        elif isinstance(step, RemoveCredential):
            del self.credentials[step.nickname]
        elif isinstance(step, StartIke):
            assert not self.running
            self.restart_pluto()
        elif isinstance(step, Listen):
            pass
        elif isinstance(step, DeleteSa):
            self._delete_child(step.serial)
        elif isinstance(step, InitiateConnection):
            for name in step.names:
                assert name in self.configs, f"initiates {name}, which is not loaded"
                if not step.renew:
                    assert not self.is_up(name), f"initiates {name}, which is up: a duplicate"
                self.initiate(name)
        else:
            self._apply_content(step)
        return Outcome(step)

    def _apply_content(
        self, step: AddConnection | ReplaceConnection | RecordConnection | DropConnection
    ) -> None:
        if isinstance(step, RecordConnection):
            for role in step.config.selectors():
                assert connection_name(step.tunnel, role, step.version) in self.configs
        elif not isinstance(step, AddConnection):
            for name in step.names if isinstance(step, DropConnection) else step.old_names:
                assert name not in self.foreign, f"touches the foreign connection {name}"
                self.delete(name)
        if isinstance(step, DropConnection):
            self.installed.pop(step.tunnel, None)
            return
        replaced = step.old_names if isinstance(step, ReplaceConnection) else ()
        self.installed[step.tunnel] = InstalledTunnel(
            *(step.tunnel, step.version, step.config.digest, step.config),
            replaced=frozenset(replaced),
        )
        if not isinstance(step, RecordConnection):
            self.load(step.tunnel, step.version, step.config)

    def load(self, tunnel: str, version: int, conf: TunnelConfig) -> None:
        for role in conf.selectors():
            name = connection_name(tunnel, role, version)
            self.delete(name)
            self.configs[name] = (conf, role)
            if conf.lead:
                self.initiate(name)

    def delete(self, name: str) -> None:
        self.configs.pop(name, None)
        for serial in [s for s, child in self.children.items() if child[0] == name]:
            self._delete_child(serial)
        self.negotiating.discard(name)

    def _delete_child(self, serial: int) -> None:
        name, conf, role = self.children.pop(serial)
        self.kernel.discard(serial)
        if not self.is_up(name):
            self.policies -= set(_policies(conf, role))

    def lose_sas(self) -> None:
        """Every peer deletes its child SAs."""
        for serial in tuple(self.children):
            self._delete_child(serial)

    def is_up(self, name: str) -> bool:
        return any(
            child[0] == name and serial in self.kernel for serial, child in self.children.items()
        )

    def initiate(self, name: str) -> None:
        if not self.peers_answer:
            self.negotiating.add(name)
            return
        self.come_up(name)

    def come_up(self, name: str) -> None:
        """A child SA, whoever asked for it."""
        conf, role = self.configs[name]
        self.serial += 1
        self.children[self.serial] = (name, conf, role)
        self.kernel.add(self.serial)
        self.policies |= set(_policies(conf, role))

    def restart_pluto(self) -> None:
        """pluto comes back with what is in our files; leads initiate by themselves."""
        self.running = True
        self.generation += 1
        self.children.clear()
        self.kernel.clear()
        self.policies.clear()
        self.negotiating.clear()
        configs = {name: conf for name, (conf, _role) in self.configs.items()}
        self.configs.clear()
        for record in self.installed.values():
            for name, conf in configs.items():
                if name.startswith(f"{record.name}-") and record.digest == conf.digest:
                    self.load(record.name, record.version, conf)
                    break

    def all_up(self, want: Desired) -> bool:
        observed = self.observe()
        assert isinstance(observed.ike, ObservedIke)
        return all(
            self.is_up(connection_name(name, role, self.installed[name].version))
            for name, tunnel in want.tunnels.items()
            if tunnel.config
            for role in tunnel.config.selectors()
        ) and all(
            policy in self.policies
            for tunnel in want.tunnels.values()
            if tunnel.config
            for role in tunnel.config.selectors()
            for policy in _policies(tunnel.config, role)
        )


def _policies(conf: TunnelConfig, role: str) -> tuple[KernelPolicy, ...]:
    return conf.selectors()[role].policies(conf.local, conf.remote)


def with_psk(conf: TunnelConfig, psk: str) -> TunnelConfig:
    return replace(conf, auth=PskAuth(Secret(psk)))
