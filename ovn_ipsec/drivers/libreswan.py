"""Observes pluto and the kernel's SAs, and applies connection steps in batches.

Cost (600 connections): a quiet observation is one whack call of 10 ms; the list of loaded
connections (40 ms, 1 MB) is read only when it may have changed behind our back.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ovn_ipsec.drivers import xfrm
from ovn_ipsec.drivers.libreswan_details import parse_details
from ovn_ipsec.drivers.libreswan_files import LibreswanPaths, TunnelFiles, TunnelStore
from ovn_ipsec.drivers.libreswan_load import FEW, Load, Loader, render_files, render_load
from ovn_ipsec.drivers.libreswan_states import StateReader
from ovn_ipsec.drivers.libreswan_status import Dialect, LoadedConnections, parse_connections
from ovn_ipsec.drivers.pluto import Pluto, PlutoDownError, is_unknown
from ovn_ipsec.drivers.pluto_log import log_file
from ovn_ipsec.errors import CommandError, DriverError, ObservationError
from ovn_ipsec.model.conns import (
    ChildSa,
    IkeSa,
    InstalledTunnel,
    ObservedIke,
)
from ovn_ipsec.model.kernel import Kernel
from ovn_ipsec.model.loaded import LoadedView
from ovn_ipsec.model.snapshot import SaDetail
from ovn_ipsec.model.steps import (
    AddConnection,
    DeleteSa,
    DropConnection,
    InitiateConnection,
    Listen,
    Outcome,
    RecordConnection,
    ReplaceConnection,
    StartIke,
    Step,
)

_OWN_LOAD_WAIT_S = 10.0
_OWN_LOAD_POLL_S = 0.02
_PROOF_S = 2.0
_PROOF_EACH_S = 0.02
"""So long, and so much longer for each of them, connections that begin together may lack an SA
before pluto is asked whether it has them: to list 1,000 takes it half a second."""


@dataclass(slots=True)
class _Seen:
    """What the last observation saw, for noticing changes that nobody told us of."""

    generation: str = ""
    connections: LoadedConnections = field(
        default_factory=lambda: LoadedConnections(frozenset(), frozenset())
    )
    doubtful: bool = True
    unproven: dict[str, float] = field(default_factory=dict)
    """Loaded, but not known whether pluto finds an end of them here: an SA is the proof; and when
    pluto is asked about those that still lack one."""
    missed: frozenset[str] = frozenset()
    """Taken for loaded, and then not found: of these no word but pluto's counts."""
    with_sa: frozenset[str] = frozenset()
    tried: frozenset[str] = frozenset()
    """Connections of which pluto showed an attempt."""
    unsure: bool = False
    """SAs may have come and gone since, and connections with them."""
    kernel: Kernel | None = None
    """None: to be read."""


class Libreswan:
    """The driver of one pluto. Not thread-safe."""

    def __init__(
        self,
        paths: LibreswanPaths,
        *,
        command_timeout_s: float = 30.0,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        """``progress`` is called before each call of pluto: a thousand tunnels take many."""
        self._paths = paths
        self._store = TunnelStore(paths)
        self._pluto = Pluto(paths, command_timeout_s, progress)
        self._loader = Loader(self._pluto, self._store)
        self._seen = _Seen()
        self._states: StateReader | None = None
        """Of the pluto that was seen."""
        self._details: Mapping[str, SaDetail] = {}

    @property
    def details(self) -> Mapping[str, SaDetail]:
        """What the last full observation told of SAs besides."""
        return self._details

    @property
    def warnings(self) -> tuple[str, ...]:
        """Files that an operator has to look at; empty when all is well."""
        return self._store.warnings

    def pluto_pidfd(self) -> int | None:
        """A descriptor that becomes readable when pluto dies; the caller closes it."""
        return self._pluto.pidfd()

    @property
    def loaded(self) -> frozenset[str] | None:
        """pluto's connections by what was last read and done; None: they have to be observed."""
        return None if self._seen.doubtful else self._seen.connections.names

    def generation(self) -> str:
        """Another text for every other pluto process; empty when there is none."""
        try:
            return self._pluto.generation()
        except PlutoDownError:
            return ""

    def log_file(self) -> Path | None:
        """Where the pluto that runs logs to; None: syslog, or unknown."""
        return log_file(self._pluto.pid(), self._paths.root_conf)

    def observe(
        self,
        *,
        full: bool = False,
        sas_unseen: bool = False,
        kernel_changed: Callable[[], bool] = lambda: False,
    ) -> ObservedIke:
        """pluto's connections and SAs, and the kernel's IPsec tables.

        ``full`` reads the list of loaded connections even if nothing hints at a change;
        ``sas_unseen``, that SAs may have come and gone since the last observation, makes sure of
        those that lack one. The tables are read anew when ``kernel_changed()``, which is asked
        after pluto was: so what pluto reports and the tables lack is missing, not merely newer
        than the tables.

        Raises ObservationError: pluto is there and its state cannot be read.
        """
        try:
            try:
                self._seen.unsure |= sas_unseen
                ike = self._observe_running(full)
            except PlutoDownError:
                self._seen.doubtful = True
                self._seen.generation = ""
                ike = ObservedIke(running=False)
            kernel = None if kernel_changed() else self._seen.kernel
            if kernel is None:
                # Should a reading fail, the next observation must not take this for current.
                self._seen.kernel = None
                kernel = self._seen.kernel = xfrm.observe()
        except CommandError as error:
            raise ObservationError(f"the state of the IKE daemon is unknown: {error}") from error
        return replace(ike, kernel=kernel)

    def observe_installed(self) -> Mapping[str, InstalledTunnel]:
        """What our files (for adoption: the original's) record. Raises ObservationError."""
        return self._store.installed()

    def apply(self, steps: Sequence[Step]) -> list[Outcome]:
        """Do the steps; one outcome each, in their order. Never raises for a step that fails.

        Loads go together: one write of files, one addconn, whatever their number. Steps of
        other drivers are a programming error (TypeError).
        """
        errors: dict[int, str | None] = {}
        kinds: tuple[tuple[type[Step], Callable[[Step], None]], ...] = (
            (StartIke, self._start),
            (Listen, self._listen),
        )
        for kind, act in kinds:
            self._each(steps, kind, act, errors)
        # Before the loads: equal selectors share one kernel policy, and dropping a tunnel after
        # its successor (a renamed port) was loaded would cut the successor.
        self._each(steps, DropConnection, self._drop, errors)
        self._load(steps, errors)
        self._record(steps, errors)
        self._initiate(steps, errors)
        self._each(steps, DeleteSa, self._delete_sa, errors)
        self._store.settle()
        self._settle_keys()
        if any(error is not None for error in errors.values()):
            self._seen.doubtful = True
        for index, step in enumerate(steps):
            if index not in errors:
                raise TypeError(f"libreswan cannot apply {type(step).__name__}")
        return [Outcome(step, errors[index]) for index, step in enumerate(steps)]

    def cleanup(self) -> None:
        """Remove our connections, SAs and files; may be killed and repeated at any point.

        Raises DriverError: something could not be removed; what is left is still recorded.
        """
        installed = self._store.installed()
        try:
            loaded = self._observe_running(full=True).loaded
        except PlutoDownError:
            loaded = frozenset()
        view = LoadedView(loaded, installed)
        for tunnel, record in installed.items():
            for name in sorted(view.of(tunnel, record)):
                self._delete(name)
            self._store.remove(tunnel)
        self._store.remove_all()
        if loaded:
            self._pluto.reread_secrets()

    def _observe_running(self, full: bool) -> ObservedIke:
        seen = self._seen
        generation = self._pluto.generation()
        version, dialect = self._pluto.version(generation)
        if seen.generation != generation:
            self._await_loaded()
            # An agent before us may have died between writing keys and telling pluto.
            self._loader.reread_keys()
        said = self._pluto.whack("--showstates", "--trafficstatus")
        if seen.generation != generation or self._states is None:
            self._states = StateReader(dialect)
        children, ikes = self._states.read(said)
        with_sa = _names(children) | _names(ike for ike in ikes if ike.established)
        tried = _names(ike for ike in ikes if not ike.established)
        shown = with_sa | tried
        # A connection that somebody deletes loses its SAs with it.
        lost = bool(seen.with_sa - shown)
        seen.unproven = {name: at for name, at in seen.unproven.items() if name not in shown}
        overdue = time.monotonic() >= min(seen.unproven.values(), default=math.inf)
        if full or lost or overdue or seen.doubtful or seen.generation != generation:
            status = self._read_connections(dialect)
            if full:
                self._details = parse_details(status, dialect)
        elif seen.unsure:
            self._make_sure(seen.connections.names - shown - seen.unproven.keys(), dialect)
        else:
            # Or an attempt; but 5.2 rests after one of its own that nobody answered.
            self._make_sure(seen.connections.names & seen.tried - shown, dialect)
        seen.unsure = False
        seen.generation = generation
        seen.with_sa, seen.tried = with_sa, tried
        return ObservedIke(
            running=True,
            generation=generation,
            version=version,
            loaded=seen.connections.names,
            unoriented=seen.connections.unoriented,
            children=children,
            ike_sas=ikes,
        )

    def _read_connections(self, dialect: Dialect) -> str:
        """Which are loaded, from pluto's whole status, which is returned."""
        status = self._pluto.whack("--status")
        seen = self._seen
        seen.connections = parse_connections(status, dialect)
        seen.missed = (seen.missed | seen.unproven.keys()) - seen.connections.names
        seen.unproven = {}
        seen.doubtful = False
        return status

    def _await_loaded(self) -> None:
        """A pluto that has just started loads our files itself; what it lacks until then is
        not missing."""
        self._pluto.whack("--briefstatus")
        deadline = time.monotonic() + _OWN_LOAD_WAIT_S
        while self._pluto.is_loading() and time.monotonic() < deadline:
            time.sleep(_OWN_LOAD_POLL_S)

    def _load(self, steps: Sequence[Step], errors: dict[int, str | None]) -> None:
        loads: dict[int, Load] = {}
        for index, step in enumerate(steps):
            if isinstance(step, AddConnection | ReplaceConnection):
                try:
                    loads[index] = render_load(step)
                except DriverError as error:
                    errors[index] = str(error)
        if loads:
            try:
                self._loader.load(
                    list(loads.values()),
                    self._seen.generation,
                    self._delete,
                    confirm=self._confirm,
                    assume=self._assume,
                )
            except DriverError as error:
                for load in loads.values():
                    load.error = load.error or str(error)
        errors.update({index: load.error for index, load in loads.items()})

    def _confirm(self, names: Collection[str], begun: Collection[str]) -> frozenset[str]:
        """Which of ``names`` pluto has, asked now; those of ``begun`` by initiating them."""
        seen = self._seen
        answers = {name: self._pluto.initiate(name) for name in names if name in begun}
        if len(names) > FEW or seen.doubtful:
            _, dialect = self._pluto.version(self._pluto.generation())
            self._read_connections(dialect)
            return seen.connections.names
        for name in names:
            if name not in answers:
                answers[name] = self._pluto.ask(name)
        return self._note_loaded(
            (name for name in names if not is_unknown(answers[name])), time.monotonic()
        )

    def _make_sure(self, names: Collection[str], dialect: Dialect) -> None:
        """Look whether pluto has ``names`` still, and what else is gone if it has not.

        Of many that is found out when they are initiated: to ask for each, or for the list of
        all, keeps pluto from its work.
        """
        few = names if len(names) <= FEW else ()
        if any(is_unknown(self._pluto.ask(name)) for name in few):
            self._read_connections(dialect)

    def _assume(self, names: Collection[str]) -> frozenset[str]:
        """Which of ``names``, a crowd that pluto begins by itself, it has: all, until their time
        is up, but for those of which that was wrong before."""
        seen = self._seen
        if seen.doubtful or not seen.missed.isdisjoint(names):
            return self._confirm(names, ())
        return self._note_loaded(names, time.monotonic() + _PROOF_S + _PROOF_EACH_S * len(names))

    def _note_loaded(self, names: Iterable[str], proof_by_s: float) -> frozenset[str]:
        seen, loaded = self._seen, frozenset(names)
        known = seen.connections
        seen.connections = LoadedConnections(known.names | loaded, known.unoriented - loaded)
        seen.unproven |= dict.fromkeys(loaded, proof_by_s)
        # Loading one anew took its SAs away.
        seen.with_sa -= loaded
        seen.tried -= loaded
        return loaded

    def _record(self, steps: Sequence[Step], errors: dict[int, str | None]) -> None:
        files: dict[int, TunnelFiles] = {}
        for index, step in enumerate(steps):
            if isinstance(step, RecordConnection):
                try:
                    files[index] = render_files(step.tunnel, step.version, step.config)
                except DriverError as error:
                    errors[index] = str(error)
        if files:
            try:
                failed = self._store.write(files.values())
            except DriverError as error:
                failed = {item.tunnel: str(error) for item in files.values()}
            errors.update({i: failed.get(item.tunnel) for i, item in files.items()})

    def _drop(self, step: Step) -> None:
        if not isinstance(step, DropConnection):
            raise TypeError(type(step).__name__)
        for name in step.names:
            self._delete(name)
        # Our record goes last: without it a connection left in pluto would look foreign.
        self._store.remove(step.tunnel)

    def _settle_keys(self) -> None:
        """Once for all drops; a pluto that is gone has forgotten them, a busy one is asked again
        with the next steps."""
        self._store.settle_keys()
        with contextlib.suppress(DriverError):
            self._loader.reread_keys()

    def _initiate(self, steps: Sequence[Step], errors: dict[int, str | None]) -> None:
        if not any(isinstance(step, InitiateConnection) for step in steps):
            return
        up: frozenset[str] = frozenset()

        def initiate(step: Step) -> None:
            if not isinstance(step, InitiateConnection):
                raise TypeError(type(step).__name__)
            for name in step.names:
                # On a connection that is up this makes a second child SA under the same IKE SA.
                if name in up and not step.renew:
                    continue
                if is_unknown(self._pluto.initiate(name)):
                    raise DriverError(f"tunnel {step.tunnel}: {name} is not loaded in pluto")

        try:
            up = _names(self._observe_running(full=False).children)
        except DriverError as error:
            self._fail(steps, InitiateConnection, str(error), errors)
        else:
            self._each(steps, InitiateConnection, initiate, errors)

    def _delete_sa(self, step: Step) -> None:
        if not isinstance(step, DeleteSa):
            raise TypeError(type(step).__name__)
        # Asked again: pluto 4.10 ends when the IKE SA of the child SA has gone meanwhile.
        now = self._observe_running(full=False)
        living = {ike.serial for ike in now.ike_sas if ike.established}
        if any(c.serial == step.serial and c.ike_serial in living for c in now.children):
            self._pluto.delete_state(step.serial)

    def _start(self, step: Step) -> None:
        self._store.settle()
        self._pluto.start()

    def _listen(self, step: Step) -> None:
        self._pluto.whack("--listen")
        self._seen.doubtful = True

    def _delete(self, name: str) -> None:
        self._pluto.whack("--name", name, "--delete")
        known = self._seen.connections
        self._seen.connections = LoadedConnections(known.names - {name}, known.unoriented - {name})
        self._seen.with_sa -= {name}
        self._seen.tried -= {name}
        self._seen.unproven.pop(name, None)
        self._seen.missed -= {name}

    def _each(
        self,
        steps: Sequence[Step],
        kind: type[Step],
        act: Callable[[Step], None],
        errors: dict[int, str | None],
    ) -> None:
        for index, step in enumerate(steps):
            if isinstance(step, kind):
                try:
                    act(step)
                    errors[index] = None
                except DriverError as error:
                    errors[index] = str(error)

    def _fail(
        self,
        steps: Sequence[Step],
        kind: type[Step],
        message: str,
        errors: dict[int, str | None],
    ) -> None:
        errors.update({i: message for i, step in enumerate(steps) if isinstance(step, kind)})


def _names(sas: Iterable[ChildSa | IkeSa]) -> frozenset[str]:
    return frozenset(sa.connection for sa in sas)
