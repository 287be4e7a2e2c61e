"""Wake-ups from the kernel: addresses and routes (rtnetlink(7)), SAs and policies (XFRM).

Only the type of a message is looked at. What has changed is read afresh by whoever needs it, so
a lost message costs nothing: when the kernel says that it had to drop some (ENOBUFS),
everything is reported as changed.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from enum import Enum

from ovn_ipsec.errors import SourceError
from ovn_ipsec.model.netlink import HEADER, pieces


class KernelEvent(Enum):
    """What may be different now."""

    ADDRESS = "address"
    ROUTE = "route"
    SA = "security association made or changed"
    POLICY = "security policy made or changed"
    SA_GONE = "security association gone"
    POLICY_GONE = "security policy gone"
    ACQUIRE = "packet waits for a security association"


# linux/rtnetlink.h, linux/xfrm.h. Groups are numbers here, n for bit n - 1.
_NETLINK_ROUTE = 0
_NETLINK_XFRM = 6
_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER_BYTES = 8 << 20
"""Some 2 KB a message: hundreds of tunnels may come up while the loop is at its work."""
_READ_BYTES = 1 << 16

_ROUTE_GROUPS = (5, 7, 9, 11)
"""IPv4 address, IPv4 route, IPv6 address, IPv6 route."""
_ROUTE_EVENTS = {
    20: KernelEvent.ADDRESS,  # RTM_NEWADDR
    21: KernelEvent.ADDRESS,  # RTM_DELADDR
    24: KernelEvent.ROUTE,  # RTM_NEWROUTE
    25: KernelEvent.ROUTE,  # RTM_DELROUTE
}

_XFRM_GROUPS = (1, 2, 3, 4)
"""Acquire, expire, SA, policy."""
_XFRM_EVENTS = {
    16: KernelEvent.SA,  # XFRM_MSG_NEWSA
    17: KernelEvent.SA_GONE,  # XFRM_MSG_DELSA
    19: KernelEvent.POLICY,  # XFRM_MSG_NEWPOLICY
    20: KernelEvent.POLICY_GONE,  # XFRM_MSG_DELPOLICY
    23: KernelEvent.ACQUIRE,  # XFRM_MSG_ACQUIRE
    24: KernelEvent.SA_GONE,  # XFRM_MSG_EXPIRE
    25: KernelEvent.POLICY,  # XFRM_MSG_UPDPOLICY
    26: KernelEvent.SA,  # XFRM_MSG_UPDSA
    27: KernelEvent.POLICY_GONE,  # XFRM_MSG_POLEXPIRE
    28: KernelEvent.SA_GONE,  # XFRM_MSG_FLUSHSA
    29: KernelEvent.POLICY_GONE,  # XFRM_MSG_FLUSHPOLICY
}


class _Channel:
    """One netlink socket that has joined its groups."""

    def __init__(
        self, family: int, groups: tuple[int, ...], events: dict[int, KernelEvent]
    ) -> None:
        self.events = events
        try:
            self.socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, family
            )
        except OSError as error:
            raise SourceError(f"netlink family {family}: cannot be opened: {error}") from error
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
            with contextlib.suppress(PermissionError):  # then net.core.rmem_max is the most
                self.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
            self.socket.bind((0, 0))
            for group in groups:
                self.socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
        except OSError as error:
            self.socket.close()
            raise SourceError(
                f"netlink family {family}: cannot subscribe: {error}; are we root with "
                "CAP_NET_ADMIN?"
            ) from error

    def drain(self) -> set[KernelEvent]:
        """Read until nothing is left."""
        seen: set[KernelEvent] = set()
        while True:
            try:
                data, (sender, _) = self.socket.recvfrom(_READ_BYTES)
            except BlockingIOError:
                return seen
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise SourceError(f"netlink: reading events failed: {error}") from error
                seen.update(self.events.values())
                continue
            if sender == 0:  # another process may send to us; only the kernel has number 0
                seen.update(self._kinds(data))

    def _kinds(self, data: bytes) -> set[KernelEvent]:
        heard = (kind for kind, _ in pieces(data, HEADER))
        return {self.events[kind] for kind in heard if kind in self.events}


class KernelEvents:
    """Says which kinds of kernel state may have changed since the last ``drain``."""

    def __init__(self) -> None:
        """Subscribe, in the network namespace of the caller; SourceError when that fails."""
        self._channels = [_Channel(_NETLINK_ROUTE, _ROUTE_GROUPS, _ROUTE_EVENTS)]
        try:
            self._channels.append(_Channel(_NETLINK_XFRM, _XFRM_GROUPS, _XFRM_EVENTS))
        except SourceError:
            self.close()
            raise

    def filenos(self) -> tuple[int, ...]:
        """File descriptors that become readable when there is something to ``drain``."""
        return tuple(channel.socket.fileno() for channel in self._channels)

    def drain(self) -> set[KernelEvent]:
        """Everything since the last call, each kind once; never blocks."""
        return set().union(*(channel.drain() for channel in self._channels))

    def close(self) -> None:
        """End the subscription."""
        for channel in self._channels:
            channel.socket.close()
