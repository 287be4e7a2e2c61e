"""Writes each tunnel's state into its row, ``Interface:external_ids:ipsec_status``.

A thread of its own, for a database may be slow to answer and the loop must not wait for it. Only
words that have changed are written: every write wakes every client of the database.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from ovn_ipsec.errors import SourceError
from ovn_ipsec.model.snapshot import Snapshot, TunnelState
from ovn_ipsec.sources.ovsdb_request import DATABASE, OneRequest
from ovn_ipsec.status.words import row_word

_log = logging.getLogger(__name__)

KEY = "ipsec_status"
PERIOD_S = 2.0
RETRY_S = 10.0
MOST_AT_ONCE = 200
"""Rows of one transaction: a thousand tunnels that come up must not hold the server up."""
_ANSWER_S = 10

Operation = dict[str, Any]


def wanted_words(snapshot: Snapshot) -> Mapping[str, str] | None:
    """By interface; None while not every source has reported, for then nobody knows."""
    if not snapshot.complete:
        return None
    kept = (one for one in snapshot.tunnels if one.state is not TunnelState.REMOVED)
    return {tunnel.name: row_word(tunnel) for tunnel in kept}


def operations(written: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, Operation]:
    """What makes the rows say ``wanted``, by interface (RFC 7047, section 5.2.4).

    Nothing happens to a row that is gone.
    """
    changed = [name for name in wanted if written.get(name) != wanted[name]]
    gone = [name for name in written if name not in wanted]
    made = {}
    for name in (*changed, *gone):
        mutations: list[Any] = [["external_ids", "delete", ["set", [KEY]]]]
        if name in wanted:
            # The insertion alone would leave a key that is there as it is.
            mutations.append(["external_ids", "insert", ["map", [[KEY, wanted[name]]]]])
        where = [["name", "==", name]]
        made[name] = {"op": "mutate", "table": "Interface", "where": where, "mutations": mutations}
    return made


class RowStatus:
    """Keeps the rows up to date until ``close``."""

    def __init__(self, remote: str, snapshot: Callable[[], Snapshot]) -> None:
        self._remote = remote
        self._snapshot = snapshot
        self._written: dict[str, str] | None = None
        """None: not known, what an earlier agent wrote may be there."""
        self._failed = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="row-status", daemon=True)

    def start(self) -> None:
        """Begin, in a thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop, and take the words away: nobody keeps them true any more."""
        self._stop.set()
        self._thread.join(_ANSWER_S)
        if self._written:
            self._try({})

    def _run(self) -> None:
        while not self._stop.wait(RETRY_S if self._failed else PERIOD_S):
            wanted = wanted_words(self._snapshot())
            if wanted is not None:
                self._try(wanted)

    def _try(self, wanted: Mapping[str, str]) -> None:
        try:
            self._write(wanted)
            self._failed = False
        except SourceError as error:
            if not self._failed:
                _log.warning("The rows' %s is out of date: %s", KEY, error)
            self._failed = True

    def _write(self, wanted: Mapping[str, str]) -> None:
        if self._written is None:
            self._written = self._read()
        todo = operations(self._written, wanted)
        names = iter(todo)
        while batch := list(islice(names, MOST_AT_ONCE)):
            self._transact([todo[name] for name in batch])
            for name in batch:
                if name in wanted:
                    self._written[name] = wanted[name]
                else:
                    del self._written[name]

    def _read(self) -> dict[str, str]:
        select = {"op": "select", "table": "Interface", "where": []}
        (result,) = self._transact([{**select, "columns": ["name", "external_ids"]}])
        told = {row["name"]: dict(row["external_ids"][1]).get(KEY) for row in result["rows"]}
        return {name: word for name, word in told.items() if word is not None}

    def _transact(self, todo: list[Operation]) -> Any:
        request = OneRequest(self._remote, "transact", [DATABASE, *todo])
        results = request.wait_for_answer(_ANSWER_S)
        wrong = [result for result in results if result and "error" in result]
        if wrong:
            raise SourceError(f"OVSDB {self._remote}: not written: {wrong[0]['error']}")
        return results
