"""Our container image as a disk of the machine: what the node's containers run from."""

from __future__ import annotations

import fcntl
import tempfile
from pathlib import Path

from tools.image.build import PROJECT, build_image, image_key
from tools.image.container import unpack
from tools.lab.machine.cache import say
from tools.lab.machine.rootfs import pack_ext4

_TAG = "lab"


def build_node_image() -> Path:
    """An ext4 image with what ``umoci unpack`` makes of this work tree's container image.

    There is one in ``build/``, which is replaced when what it is made of has changed. Raises
    BuildError.
    """
    directory = PROJECT / "build" / "lab-image"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        key = directory / "key"
        wanted = image_key()
        if not key.exists() or key.read_text("ascii") != wanted:
            key.unlink(missing_ok=True)
            _build(directory)
            key.write_text(wanted, "ascii")
    return directory / "image.img"


def _build(directory: Path) -> None:
    say("building the container image (a minute or two)")
    with tempfile.TemporaryDirectory(dir=directory) as name:
        work = Path(name)
        build_image(work / "layout", _TAG)
        unpack(work / "layout", _TAG, work / "bundle")
        pack_ext4(work / "bundle", work / "image.img")
        # A machine that runs keeps the one that it has open.
        (work / "image.img").rename(directory / "image.img")
