"""Hears of changes to nftables as they happen (NFNLGRP_NFTABLES, linux/netfilter/nfnetlink.h)."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Iterator

from ovn_ipsec.drivers.nftables_rules import HELD_TABLE, TABLE
from ovn_ipsec.errors import DriverError
from ovn_ipsec.model.netlink import ATTRIBUTE, HEADER, pieces

_NETLINK_NETFILTER = 12
_GROUP_NFTABLES = 7
_SUBSYS_NFTABLES = 10
_NEWGEN = 15  # "a transaction ended": its first attribute is a number, not a table's name
_NAME = 1  # NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE, ... alike
_ATTRIBUTE_TYPE = 0x3FFF
_BUFFER_BYTES = 1 << 16
_GENMSG_BYTES = 4


class GuardEvents:
    """A subscription to changes of the guard's tables. Not thread-safe.

    Raises DriverError when the kernel refuses it (no CAP_NET_ADMIN, no nf_tables).
    """

    def __init__(self, tables: Collection[str] = (TABLE, HELD_TABLE)) -> None:
        self._tables = {name.encode() for name in tables}
        self._changed = True
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK,
                socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
                _NETLINK_NETFILTER,
            )
            self._socket.bind((0, 1 << (_GROUP_NFTABLES - 1)))
        except OSError as error:
            raise DriverError(
                f"nftables events: {error.strerror}: check CAP_NET_ADMIN and the nf_tables module"
            ) from error

    def fileno(self) -> int:
        """For select and poll: readable when something in nftables changed."""
        return self._socket.fileno()

    def close(self) -> None:
        """End the subscription."""
        self._socket.close()

    def drain(self) -> bool:
        """Read all that is there; True when it was about one of our tables, or may have been.

        Our own transactions are heard of, too: whoever looks then finds the table as wanted
        and does nothing more.
        """
        heard = False
        while True:
            try:
                data = self._socket.recv(_BUFFER_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise DriverError(
                        f"nftables events: {os.strerror(error.errno or 0)}"
                    ) from error
                heard = True  # messages were lost
                continue
            heard = heard or any(name in self._tables for name in table_names(data))
        self._changed = self._changed or heard
        return heard

    def take(self) -> bool:
        """Whether anything was heard since the last call (before the first: yes)."""
        self.drain()
        changed, self._changed = self._changed, False
        return changed


def table_names(data: bytes) -> Iterator[bytes]:
    """The table that each nf_tables message of a datagram is about (netlink(7))."""
    for kind, body in pieces(data, HEADER):
        if kind >> 8 == _SUBSYS_NFTABLES and kind & 0xFF != _NEWGEN:
            for attribute, value in pieces(body[_GENMSG_BYTES:], ATTRIBUTE):
                if attribute & _ATTRIBUTE_TYPE == _NAME:
                    yield value.rstrip(b"\0")
