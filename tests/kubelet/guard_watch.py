"""Every change of the node's nftables, as the kernel tells it: was the guard ever gone?"""

from __future__ import annotations

import subprocess
import time
from types import TracebackType
from typing import Self

from tools.kubernetes.worker import Worker

_TABLE = "inet ovn_ipsec"


class GuardWatch:
    """``with GuardWatch(worker) as watch: ...; watch.gaps()``."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._process: subprocess.Popen[str] | None = None
        self._said = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            # stdbuf: through a pipe the last transactions would stay in a buffer.
            ["chroot", str(self._worker.root), "stdbuf", "-oL", "nft", "monitor"],
            stdout=subprocess.PIPE,
            text=True,
        )
        time.sleep(1)
        assert self.table_stands()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def table_stands(self) -> bool:
        """Now."""
        return f"table {_TABLE}" in self._worker.host("nft", "list", "tables").splitlines()

    def gaps(self) -> list[str]:
        """Transactions after which there was no table, or a closed node was opened."""
        assert self.table_stands()
        self._stop()
        return gaps_in(self._said)

    def _stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._said = self._process.communicate()[0]
            self._process = None


def gaps_in(events: str) -> list[str]:
    """The generations (``nft monitor``'s word for a transaction) that end without the table, or in
    which a rule lets pass what the guard drops."""
    there, opened, found = True, False, []
    for line in events.splitlines():
        if line.startswith(f"delete table {_TABLE}"):
            there = False
        elif line.startswith(f"add table {_TABLE}"):
            there = True
        elif line.startswith("add rule") and "mode=audit" in line:
            opened = True
        elif line.startswith("# new generation"):
            if not there or opened:
                found.append(line)
            opened = False
    return found
