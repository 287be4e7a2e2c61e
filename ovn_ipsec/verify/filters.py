"""Classic BPF (linux/bpf_common.h): the kernel hands a socket only what is looked at."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Collection, Sequence

from ovn_ipsec.verify.packets import ESP, FRAGMENT, GRE, NAT_T, UDP
from ovn_ipsec.verify.ways import MAGIC

Step = tuple[int, int, int, int]
"""Instruction, how many to skip if true and if false, operand."""

_SO_ATTACH_FILTER = 26
_BYTE, _HALF, _WORD = 0x30, 0x28, 0x20
_HALF_BEHIND, _WORD_BEHIND = 0x48, 0x40
"""Behind the IPv4 header, once its length is loaded."""
_IPV4_LENGTH, _MASK, _EQUAL, _SKIP = 0xB1, 0x54, 0x15, 0x05
TAKE: Step = (0x06, 0, 0, 0xFFFF)
LEAVE: Step = (0x06, 0, 0, 0)
_MOST_STEPS = 4096
_IPV6_HEADER = 40


def attach(tap: socket.socket, steps: Sequence[Step]) -> None:
    """In the place of the filter that it has. Raises OSError."""
    program = b"".join(struct.pack("=HBBI", *step) for step in steps)
    kept = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: count of instructions, and where they are.
    fprog = struct.pack("@HP", len(steps), ctypes.addressof(kept))
    tap.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)


def probes(at: int, *, ip_header: bool) -> list[Step]:
    """The word at an offset begins the magic; of IPv4 raw sockets get the IP header, too."""
    word = int.from_bytes(MAGIC[:4], "big")
    load: list[Step] = [(_WORD, 0, 0, at)]
    if ip_header:
        load = [(_IPV4_LENGTH, 0, 0, 0), (_WORD_BEHIND, 0, 0, at)]
    return [*load, *_take_if(word), LEAVE]


def tunnels(ports: Collection[int]) -> list[Step]:
    """IP packets that ``classify`` may know: no fewer, and few others."""
    ipv4: list[Step] = [
        (_BYTE, 0, 0, 9),
        *_take_if(ESP, GRE),
        (_EQUAL, 1, 0, UDP),
        LEAVE,
        (_IPV4_LENGTH, 0, 0, 0),
        (_HALF_BEHIND, 0, 0, 2),
        *_take_if(*ports, NAT_T),
        (_HALF_BEHIND, 0, 0, 0),
        *_take_if(NAT_T),
        LEAVE,
    ]
    ipv6: list[Step] = [
        (_BYTE, 0, 0, 6),
        *_take_if(ESP, GRE, FRAGMENT),
        (_EQUAL, 1, 0, UDP),
        LEAVE,
        (_HALF, 0, 0, _IPV6_HEADER + 2),
        *_take_if(*ports, NAT_T),
        (_HALF, 0, 0, _IPV6_HEADER),
        *_take_if(NAT_T),
        LEAVE,
    ]
    version: list[Step] = [(_BYTE, 0, 0, 0), (_MASK, 0, 0, 0xF0)]
    steps = [*version, (_EQUAL, 0, 1, 0x60), (_SKIP, 0, 0, len(ipv4)), *ipv4, *ipv6]
    return steps if len(steps) <= _MOST_STEPS else [TAKE]


def _take_if(*values: int) -> list[Step]:
    """Each with an end of its own: a jump reaches no further than 255 instructions."""
    return [step for value in values for step in ((_EQUAL, 0, 1, value), TAKE)]
