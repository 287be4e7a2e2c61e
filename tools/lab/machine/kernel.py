"""Takes the kernel out of its self-extracting file, so that nobody emulates the extraction."""

from __future__ import annotations

import lzma
import struct
import subprocess
from pathlib import Path

_SETUP_SECTORS = 0x1F1
_PAYLOAD_OFFSET = 0x248
_XZ = b"\xfd7zXZ\x00"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ELF = b"\x7fELF"


class KernelFormatError(Exception):
    """The kernel is not packed in a way that we can undo."""


def unpack_kernel(bzimage: bytes, tree: Path) -> bytes:
    """The ELF kernel inside an x86 bzImage (the kernel's boot.rst), which QEMU boots by PVH.

    `tree` is a root file system with zstd, for kernels that are packed so.
    """
    payload = compressed_payload(bzimage)
    if payload.startswith(_XZ):
        kernel = lzma.decompress(payload)
    elif payload.startswith(_ZSTD):
        argv = ["chroot", str(tree), "zstd", "-dc", "--quiet"]
        kernel = subprocess.run(argv, input=payload, capture_output=True, check=True).stdout
    else:
        raise KernelFormatError(f"unknown kernel compression {payload[:6].hex()}")
    if not kernel.startswith(_ELF):
        raise KernelFormatError("the unpacked kernel is not an ELF file")
    return kernel


def compressed_payload(bzimage: bytes) -> bytes:
    """The compressed part of a bzImage, without the size that follows it."""
    sectors = bzimage[_SETUP_SECTORS] or 4
    offset, length = struct.unpack_from("<II", bzimage, _PAYLOAD_OFFSET)
    start = (sectors + 1) * 512 + offset
    return bzimage[start : start + length - 4]
