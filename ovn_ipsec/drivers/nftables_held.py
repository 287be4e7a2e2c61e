"""The guard in a table that is this process's own (``flags owner``, Linux 5.12).

``flush ruleset`` by another process leaves such a table alone. Where nft and the kernel know
``flags persist`` (nft 1.1, Linux 6.9), the guard's one table is owned: while this process lives
nobody else changes it, and it stays when the process is gone. Elsewhere the kernel removes an
owned table with its owner, so the guard stands a second time in one of that kind, beside the
persistent one. Either way only a flush and a dead agent together open it.

The kernel takes the netlink socket that made a table for its owner, so it is driven through
libnftables(3), in whose context that socket lives. A packet that the persistent table drops never
comes to the second: what is counted there is what the guard met while the first was missing.
"""

from __future__ import annotations

import ctypes
import json
import os

from ovn_ipsec.drivers import nftables_text
from ovn_ipsec.drivers.nftables_rules import (
    FAMILY,
    HELD_TABLE,
    OWNED,
    TABLE,
    Json,
    element_changes,
    table_objects,
)
from ovn_ipsec.errors import DriverError
from ovn_ipsec.model.conns import Guard, GuardCounters

_JSON = 1 << 4  # NFT_CTX_OUTPUT_JSON: input may be JSON, too
_NUMERIC = (1 << 7) | (1 << 8) | (1 << 9)  # protocols, priorities, symbols
_NAME = {"family": FAMILY, "name": HELD_TABLE}


class HeldTable:
    """What of the guard is this process's own. Not thread-safe.

    Raises DriverError when libnftables is missing; the methods, when it refuses.
    """

    def __init__(self) -> None:
        try:
            lib = ctypes.CDLL("libnftables.so.1")
        except OSError as error:
            raise DriverError(f"libnftables.so.1: {error}: install libnftables1") from error
        lib.nft_ctx_new.argtypes = [ctypes.c_uint32]
        lib.nft_ctx_new.restype = ctypes.c_void_p
        lib.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        lib.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        for name in ("error", "output"):
            getattr(lib, f"nft_ctx_buffer_{name}").argtypes = [ctypes.c_void_p]
            get = getattr(lib, f"nft_ctx_get_{name}_buffer")
            get.argtypes, get.restype = [ctypes.c_void_p], ctypes.c_char_p
        self._lib = lib
        self._context = lib.nft_ctx_new(0)
        if not self._context:
            raise DriverError("libnftables cannot start: check memory and CAP_NET_ADMIN")
        lib.nft_ctx_buffer_error(self._context)
        lib.nft_ctx_buffer_output(self._context)
        lib.nft_ctx_output_set_flags(self._context, _JSON | _NUMERIC)
        self._guard: Guard | None = None
        """What the table says that this process owns; None: it owns none."""
        self.alone = self._can_persist()
        """Whether the guard's one table is owned, and there is no second."""

    def take(self, guard: Guard, counters: GuardCounters) -> None:
        """Where it is alone: put ``guard`` into the one table and own it, whatever was there."""
        self._run(nftables_text.render_guard(guard, counters, owned=True))
        self._guard = guard

    def holds(self, guard: Guard) -> bool:
        """Whether a table of this process says ``guard``."""
        return guard == self._guard

    def hold(self, guard: Guard) -> None:
        """Make the second table say what ``guard`` says, in one transaction; counters go on."""
        if guard == self._guard:
            return
        commands: list[Json] = []
        if self._guard is None:
            # nft 1.0.6 has no table flags in JSON.
            self._run(f"add table {FAMILY} {HELD_TABLE} {{\nflags owner\n}}\n")
        else:
            # Deleting the table would end the ownership that no JSON can ask for.
            commands.append({"flush": {"table": _NAME}})
            old = [pair for pair in table_objects(self._guard, HELD_TABLE)]
            for kind in ("chain", "set"):
                commands += [{"delete": {kind: body}} for found, body in old if found == kind]
        for kind, body in table_objects(guard, HELD_TABLE):
            if kind != "table" and (kind != "counter" or self._guard is None):
                commands.append({"add": {kind: body}})
        self._run(json.dumps({"nftables": commands}))
        self._guard = guard

    def change(self, old: Guard, new: Guard) -> bool:
        """Make all tables of the guard, which say ``old``, say ``new``, in one transaction;
        False: nothing was done, it takes whole tables."""
        if self._guard != old:
            return False
        commands: list[Json] = []
        for table in (TABLE,) if self.alone else (TABLE, HELD_TABLE):
            changes = element_changes(old, new, table)
            if changes is None:
                return False
            commands += changes
        self._run(json.dumps({"nftables": commands}))
        self._guard = new
        return True

    def release(self) -> None:
        """Remove the table that this process owns."""
        if self._guard is not None:
            self._run(f"delete table {FAMILY} {TABLE if self.alone else HELD_TABLE}\n")
            self._guard = None

    def counters(self) -> GuardCounters:
        """Packets that the second table met since ``hold``."""
        if self._guard is None or self.alone:
            return GuardCounters(0, 0)
        text = self._run(f"list counters table {FAMILY} {HELD_TABLE}")
        try:
            return nftables_text.parse_listing(text).counters
        except ValueError as error:
            raise DriverError(f"table {FAMILY} {HELD_TABLE}: {error}") from error

    def without_program(self, commands: str) -> str:
        """What ``nft -j`` does and prints, about whichever table, without starting a program."""
        return self._run(commands)

    def _can_persist(self) -> bool:
        # An nft that does not know the flags in JSON leaves them out.
        trial = {"family": FAMILY, "name": f"ovn_ipsec_trial_{os.getpid()}"}
        make = [{"destroy": {"table": trial}}, {"add": {"table": trial | OWNED}}]
        try:
            self._run(json.dumps({"nftables": make}))
            listed = self._run(f"list table {FAMILY} {trial['name']}")
            self._run(f"delete table {FAMILY} {trial['name']}")
        except DriverError:
            return False
        return '"persist"' in listed

    def _run(self, commands: str) -> str:
        status = self._lib.nft_run_cmd_from_buffer(self._context, commands.encode())
        output: bytes = self._lib.nft_ctx_get_output_buffer(self._context) or b""
        error: bytes = self._lib.nft_ctx_get_error_buffer(self._context) or b""
        if status != 0:
            # The same for each command of a transaction.
            said = "; ".join(dict.fromkeys(error.decode(errors="replace").split("\n")))[:400]
            raise DriverError(f"libnftables: {said.strip('; ') or 'no message'}")
        return output.decode(errors="replace")
