"""``python3 -m tools.image [LAYOUT]``: builds the image, by default into ``build/image``."""

from __future__ import annotations

import sys
from pathlib import Path

import tools.image.build as build
from tools.image.containerfile import read_config
from tools.lab.machine.build import BuildError

if __name__ == "__main__":
    layout = Path(sys.argv[1]) if len(sys.argv) > 1 else build.PROJECT / "build" / "image"
    labels = read_config((build.PROJECT / "Containerfile").read_text("utf-8")).labels
    try:
        build.build_image(layout, labels["org.opencontainers.image.version"])
    except BuildError as error:
        sys.exit(str(error))
