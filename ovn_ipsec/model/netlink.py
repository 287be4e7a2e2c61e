"""How netlink packs messages, and attributes in them (linux/netlink.h, netlink(7)). Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator

HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr."""
ATTRIBUTE = struct.Struct("=HH")
"""struct nlattr, and struct rtattr."""


def pieces(data: bytes, head: struct.Struct) -> Iterator[tuple[int, bytes]]:
    """Kind and content of each: its length is first in the head, the kind second, and the next
    one begins at a multiple of four. What is damaged ends them."""
    offset = 0
    while offset + head.size <= len(data):
        fields = head.unpack_from(data, offset)
        length = fields[0]
        if length < head.size:
            return
        yield fields[1], data[offset + head.size : offset + length]
        offset += (length + 3) & ~3
