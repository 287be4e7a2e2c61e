"""The fail-closed guard in the kernel: one table of our own, replaced in one transaction.

The last guard that was put in place is kept on disk as the very text that nft loads
(``nft -j -f FILE``), so that it can be in force before Open vSwitch starts. How a restarted agent
knows the table for its own: it carries the guard that it was made from (``nftables_text``).
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path

from ovn_ipsec.drivers import command, nftables_text
from ovn_ipsec.drivers.nftables_events import GuardEvents
from ovn_ipsec.drivers.nftables_held import HeldTable
from ovn_ipsec.drivers.nftables_rules import ENFORCING, FAMILY, TABLE
from ovn_ipsec.drivers.private_files import install
from ovn_ipsec.errors import CommandError, DriverError, ObservationError
from ovn_ipsec.model.conns import Guard, GuardCounters, GuardMode, ObservedGuard
from ovn_ipsec.model.steps import Outcome, SetGuard
from ovn_ipsec.settings import DEFAULT_GUARD_FILE

_TIMEOUT_S = 60.0
_NAME = {"family": FAMILY, "name": TABLE}
_REMOVE = json.dumps({"nftables": [{"add": {"table": _NAME}}, {"delete": {"table": _NAME}}]})
_NOT_OURS = (
    "the table belongs to an agent that runs, and nobody else can change it; stop the agent first"
)

_log = logging.getLogger(__name__)


class Nftables:
    """The table ``inet ovn_ipsec`` of this network namespace.

    With ``events`` an observation lists the table only when something was heard of it; without,
    each time. With ``held`` the table is this process's own or, where that cannot be, an enforcing
    guard stands a second time for as long as this process lives; that failing is logged and
    changes nothing else. With both, tuples that come and go are changed in place.
    """

    def __init__(
        self,
        last_known: Path = Path(DEFAULT_GUARD_FILE),
        events: GuardEvents | None = None,
        held: HeldTable | None = None,
    ) -> None:
        self._last_known = last_known
        self._events = events
        self._held = held
        self._holding_failed = False
        self._in_gaps = GuardCounters(0, 0)
        self._seen: ObservedGuard | None = None
        self._live: Guard | None = None
        self._applied: Guard | None = None
        self._unsaved: Guard | None = None
        self._counters = GuardCounters(0, 0)

    def observe(self) -> ObservedGuard:
        """The table as it is now. Raises ObservationError: nft cannot tell.

        ``intact``: it is complete and unchanged, and (once this process has put one in place)
        says what we said. ``counters`` are as fresh as the last listing or ``counters()``.
        """
        if self._unsaved is not None:
            self._save(self._unsaved)
        heard = self._events is None or self._events.take()
        if heard or self._seen is None:
            self._seen = None  # should the listing fail, the next observation lists again
            self._seen = self._look()
        elif self._holding_failed and self._live is not None:
            # The kernel tells nobody of another agent's end, which leaves the holding to us.
            self._hold(self._live)
        seen = self._seen
        return ObservedGuard(seen.present, seen.intact, seen.mode, seen.digest, self._total())

    def live_guard(self) -> Guard | None:
        """The guard that is in force; None: there is none, or the table is not as we render it.

        Raises ObservationError.
        """
        self._look()
        return self._live

    def counters(self) -> GuardCounters:
        """Packets met so far, read now; never less than read before. Raises ObservationError.

        Those that only the held table met, while the other was missing, are in them.
        """
        text = self._list("counters", "table", FAMILY, TABLE)
        if text is not None:
            self._count(_parse(text).counters)
        self._count_gaps()
        return self._total()

    def apply(self, steps: Iterable[SetGuard]) -> list[Outcome]:
        """Put each guard in place, whole or not at all; ``off`` takes the table away."""
        return [Outcome(step, self._attempt(step.guard)) for step in steps]

    def remove(self) -> None:
        """Open the guard: no table, nothing on disk. Raises DriverError."""
        self._seen = None
        if self._held is not None:
            self._held.release()
        self._load(_REMOVE)
        self._applied = self._unsaved = None
        try:
            self._last_known.unlink(missing_ok=True)
        except OSError as error:
            raise DriverError(f"{self._last_known}: {error.strerror}") from error

    def load_last_known(self) -> Guard | None:
        """The guard that was in place last, also before a reboot; None: none is known."""
        try:
            return nftables_text.parse_rendering(self._last_known.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _log.warning("%s: cannot be used as the last known guard: %s", self._last_known, error)
            return None

    def was_in_force(self) -> bool:
        """Whether this node has had a guard, readable or not. Raises ObservationError."""
        return self._last_known.exists() or self._table_exists()

    def _attempt(self, guard: Guard) -> str | None:
        try:
            if guard.mode is GuardMode.OFF:
                self.remove()
            elif not self._changed(guard):
                self._set(guard)
                if not self._look().intact:
                    # Taken for done, it would be found changed and be set again without end.
                    raise DriverError(
                        "nft took the table and lists it otherwise than written; does another "
                        "program change it, or is nft newer than this program?"
                    )
        except (DriverError, ValueError) as error:
            return f"guard: {error}"
        return None

    def _changed(self, guard: Guard) -> bool:
        """Change the tables where they differ; False: they have to be made anew.

        What nft makes of it is seen with the next observation: the kernel tells of this change as
        of any other.
        """
        live = self._live
        if live is None or self._applied not in (None, live):
            return False
        if self._events is None or self._held is None:
            return False
        self._seen = self._live = None
        try:
            if not self._held.change(live, guard):
                return False
        except DriverError as error:
            _log.info("guard: made anew, for it could not be changed in place: %s", error)
            return False
        self._applied = self._live = guard
        self._save(guard)
        return True

    def _set(self, guard: Guard) -> None:
        self._seen = None
        try:
            self.counters()
        except ObservationError as error:
            # A table so strange that its counters cannot be read must be replaced all the same.
            _log.warning("guard counters are carried over as last read: %s", error)
        if self._held is not None and self._held.alone:
            self._take(guard)
        else:
            self._load(nftables_text.render_guard(guard, self._counters))
        self._applied = guard
        self._hold(guard)
        self._save(guard)

    def _take(self, guard: Guard) -> None:
        if self._held is not None:
            try:
                self._held.take(guard, self._counters)
            except DriverError as error:
                raise self._explained(error) from error

    def _hold(self, guard: Guard) -> None:
        if self._held is None:
            return
        try:
            if self._held.alone:
                if not self._held.holds(guard):
                    self._take(guard)
            elif guard.mode in ENFORCING:
                self._held.hold(guard)
            else:
                self._held.release()
        except DriverError as error:
            if not self._holding_failed:
                _log.warning(
                    "guard: this agent does not hold it, so a flush of nftables may open it: %s",
                    error,
                )
            self._holding_failed = True
            return
        self._holding_failed = False

    def _load(self, text: str) -> None:
        """``nft -j -f``, which also tells what is wrong where libnftables itself failed."""
        if self._held is not None:
            with contextlib.suppress(DriverError):
                self._held.without_program(text)
                return
        try:
            self._run_nft(text)
        except CommandError as error:
            if "Operation not supported" not in str(error) or not self._table_exists():
                raise self._explained(error) from error
            self._run_nft(nftables_text.of_what_was_left(text))

    def _run_nft(self, text: str) -> None:
        command.run(["nft", "-j", "-f", "-"], timeout_s=_TIMEOUT_S, stdin=text)

    def _explained(self, error: DriverError) -> DriverError:
        """What it means when it is about a table that another process owns."""
        if "Operation not permitted" not in str(error):
            return error
        done = command.run(
            ["nft", "list", "table", FAMILY, TABLE], timeout_s=_TIMEOUT_S, ok_codes=None
        )
        owned = re.search(r"^\tflags .*\bowner\b", done.stdout, re.MULTILINE)
        return DriverError(_NOT_OURS) if owned else error

    def _count_gaps(self) -> None:
        if self._held is None or self._holding_failed:
            return
        try:
            self._in_gaps = self._held.counters()
        except DriverError as error:
            raise ObservationError(str(error)) from error

    def _total(self) -> GuardCounters:
        return GuardCounters(
            self._counters.out_packets + self._in_gaps.out_packets,
            self._counters.in_packets + self._in_gaps.in_packets,
        )

    def _look(self) -> ObservedGuard:
        self._live = None
        text = self._list("table", FAMILY, TABLE)
        if text is None:
            return ObservedGuard(present=False, intact=False)
        listing = _parse(text)
        self._count(listing.counters)
        self._count_gaps()
        self._live = live = nftables_text.read_guard(listing)
        if live is None:
            return ObservedGuard(present=True, intact=False)
        ours = self._applied is None or self._applied == live
        if ours:
            # A restarted agent that finds the table as wanted applies nothing; a table that an
            # agent before us still held is free once that agent is gone.
            self._hold(live)
        return ObservedGuard(present=True, intact=ours, mode=live.mode, digest=live.digest)

    def _list(self, *what: str) -> str | None:
        """What ``nft list`` prints; None when there is no such table."""
        if self._held is not None:
            with contextlib.suppress(DriverError):  # no such table, perhaps: nft tells
                return self._held.without_program(f"list {' '.join(what)}")
        try:
            done = command.run(["nft", "-j", "-n", "list", *what], timeout_s=_TIMEOUT_S)
        except CommandError as error:
            # nft says "no such file" of a missing table and of much else: ask in another way.
            if not self._table_exists():
                return None
            raise ObservationError(str(error)) from error
        return done.stdout

    def _table_exists(self) -> bool:
        # Not as JSON: nft 1.0.6 garbles that when there is a table with an owner.
        try:
            done = command.run(["nft", "list", "tables", FAMILY], timeout_s=_TIMEOUT_S)
        except CommandError as error:
            raise ObservationError(f"nft cannot list tables: {error}") from error
        return f"table {FAMILY} {TABLE}" in map(str.strip, done.stdout.splitlines())

    def _count(self, read: GuardCounters) -> None:
        self._counters = GuardCounters(
            max(read.out_packets, self._counters.out_packets),
            max(read.in_packets, self._counters.in_packets),
        )

    def _save(self, guard: Guard) -> None:
        """Keep ``guard`` for the next boot; a failure is logged and tried again."""
        text = nftables_text.render_guard(guard, GuardCounters(0, 0))
        try:
            install(self._last_known, text)
        except OSError as error:
            if self._unsaved is None:
                _log.warning(
                    "%s: the guard is in force, but is not kept for the next boot: %s",
                    self._last_known,
                    error.strerror,
                )
            self._unsaved = guard
            return
        self._unsaved = None


def _parse(text: str) -> nftables_text.Listing:
    try:
        return nftables_text.parse_listing(text)
    except ValueError as error:
        raise ObservationError(f"table {FAMILY} {TABLE}: {error}") from error
