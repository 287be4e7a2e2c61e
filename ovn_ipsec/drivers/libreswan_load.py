"""Gives pluto many connections at once: one check, one write of files, one addconn."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ovn_ipsec.drivers import libreswan_text as text
from ovn_ipsec.drivers.libreswan_files import TunnelFiles, TunnelStore
from ovn_ipsec.drivers.libreswan_status import parse_load_errors
from ovn_ipsec.drivers.pluto import Pluto, complaint, parses
from ovn_ipsec.model.conns import TunnelConfig, connection_name
from ovn_ipsec.model.steps import AddConnection, ReplaceConnection

_KINDS_MOST = 1000
FEW = 8
"""So many connections are loaded, begun and asked for one by one: a call each costs pluto less
than to read all of its secrets, or to list all of its connections."""


@dataclass(slots=True)
class Load:
    """A tunnel whose connections are to be loaded, and what came of it."""

    step: AddConnection | ReplaceConnection
    files: TunnelFiles
    names: tuple[str, ...]
    error: str | None = None

    @property
    def kind(self) -> Hashable:
        """All that an operator's options have a part in."""
        return type(self.step.config.auth), self.step.config.keywords

    def reject(self, said: str) -> None:
        """libreswan's parser has this against it, or against another of its kind."""
        self.error = f"tunnel {self.step.tunnel}: libreswan rejects its options: {said}"


class Loader:
    """Loads into one pluto, and remembers which kinds of tunnel its parser accepts."""

    def __init__(self, pluto: Pluto, store: TunnelStore) -> None:
        self._pluto, self._store = pluto, store
        self._accepted: set[Hashable] = set()
        self._accepted_by = ""

    def load(
        self,
        loads: Sequence[Load],
        generation: str,
        drop: Callable[[str], None],
        *,
        confirm: Callable[[Collection[str], Collection[str]], frozenset[str]],
        assume: Callable[[Collection[str]], frozenset[str]],
    ) -> None:
        """Load them all; each one's ``error`` says what came of it.

        ``generation`` is of the pluto that runs, ``drop`` takes a connection from it, ``confirm``
        begins those of its second argument and asks which of its first pluto has, and ``assume``
        tells what to think of a crowd that addconn had nothing against.
        Raises DriverError: the loads without an error of their own have failed with it.
        """
        self._check(loads, generation)
        self._write(loads)
        good = [load for load in loads if load.error is None]
        if not good:
            return
        for load in good:
            if isinstance(load.step, ReplaceConnection):
                for name in load.step.old_names:
                    if name not in load.names:
                        drop(name)
        batch = text.join_batch(load.files.conf for load in good)
        names = [name for load in good for name in load.names]
        singly = len(names) <= FEW or self._signs()
        # With --autoall what says auto=start is initiated at once and asynchronously; what is
        # not in the batch is left alone.
        said = self._pluto.addconn(batch, *(names if singly else ["--autoall"]))
        reasons = parse_load_errors(said.stdout + said.stderr)
        if singly:
            leads = [load for load in good if load.step.config.lead]
            loaded = confirm(names, {name for load in leads for name in load.names})
        elif reasons or said.returncode != 0:
            loaded = confirm(names, ())
        else:
            loaded = assume(names)
        self._judge(good, loaded, reasons, drop)

    def _signs(self) -> bool:
        """Whether pluto may be about to sign, for a tunnel that authenticates by certificate.

        addconn's ``--autoall`` makes pluto read its secrets anew, and a private key that it
        forgets while a thread signs with it ends pluto (libreswan 4.10; issue 1894 there).
        """
        return any(record.peer_name is not None for record in self._store.installed().values())

    def _check(self, loads: Sequence[Load], generation: str) -> None:
        """libreswan's own parser, before a file is written.

        One file that it rejects would keep pluto from loading any at its next start. What differs
        between tunnels of one kind was validated when it was rendered, so that one tunnel speaks
        for its kind as long as this pluto lives.
        """
        if self._accepted_by != generation or len(self._accepted) > _KINDS_MOST:
            self._accepted, self._accepted_by = set(), generation
        fresh = {load.kind: load for load in loads if load.kind not in self._accepted}
        if not fresh:
            return
        batch = text.join_batch(load.files.conf for load in fresh.values())
        if parses(self._pluto.addconn(batch, "--checkconfig")):
            self._accepted |= fresh.keys()
            return
        complaints = {kind: self._complaint(load) for kind, load in fresh.items()}
        self._accepted |= {kind for kind, said in complaints.items() if said is None}
        for load in loads:
            if (said := complaints.get(load.kind)) is not None:
                load.reject(said)

    def _complaint(self, load: Load) -> str | None:
        """What libreswan's parser has against this tunnel alone."""
        done = self._pluto.addconn(load.files.conf, "--checkconfig")
        return None if parses(done) else complaint(done.stderr + done.stdout)

    def reread_keys(self) -> None:
        """Have pluto read the keys, if they have changed since it did. Raises DriverError."""
        if self._store.keys_unread:
            self._pluto.reread_secrets()
            self._store.keys_read()

    def _write(self, loads: Iterable[Load]) -> None:
        wanted = [load for load in loads if load.error is None]
        failed = self._store.write(load.files for load in wanted)
        for load in wanted:
            load.error = failed.get(load.step.tunnel)
        self.reread_keys()

    def _judge(
        self,
        loads: Iterable[Load],
        loaded: frozenset[str],
        reasons: Mapping[str, str],
        drop: Callable[[str], None],
    ) -> None:
        for load in loads:
            missing = [name for name in load.names if name not in loaded]
            if missing:
                reason = reasons.get(missing[0]) or "pluto's log says why"
                load.error = (
                    f"tunnel {load.step.tunnel}: libreswan did not load {missing[0]}: {reason}"
                )
                self._accepted.discard(load.kind)
                if (said := self._complaint(load)) is not None:
                    load.reject(said)
                    for name in loaded.intersection(load.names):
                        drop(name)  # without a record nobody would know whose it is
                    self._store.remove(load.step.tunnel)


def render_load(step: AddConnection | ReplaceConnection) -> Load:
    """What a step wants to be loaded. Raises DriverError: it cannot be written safely."""
    roles = step.config.selectors()
    names = tuple(connection_name(step.tunnel, role, step.version) for role in roles)
    old = step.old_names if isinstance(step, ReplaceConnection) else ()
    replaces = [name for name in old if name not in names]
    return Load(
        step=step,
        files=render_files(step.tunnel, step.version, step.config, replaces),
        names=names,
    )


def render_files(
    tunnel: str, version: int, config: TunnelConfig, replaces: Iterable[str] = ()
) -> TunnelFiles:
    """What is written of the tunnel. Raises DriverError as above."""
    return TunnelFiles(
        tunnel=tunnel,
        conf=text.render_tunnel(tunnel, version, config, replaces),
        secret=text.render_secret(tunnel, config),
    )
