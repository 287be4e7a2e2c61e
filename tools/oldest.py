"""``python3 -m tools.oldest SETUP_CFG``: what runs on nodes requires, the oldest of each."""

from __future__ import annotations

import configparser
import sys
from pathlib import Path

_EXTRAS = ("ca", "kubernetes", "metrics", "render", "status")
# A contract test has it: from pip on, versions before 3.2 cannot be built any more.
_ELSEWHERE = ("ovs",)


def oldest(setup_cfg: str) -> list[str]:
    """``NAME==VERSION`` for each ``NAME >= VERSION``. Raises ValueError for anything else."""
    parser = configparser.ConfigParser()
    parser.read_string(setup_cfg)
    extras = parser["options.extras_require"]
    lines = [parser["options"]["install_requires"], *(extras[name] for name in _EXTRAS)]
    pinned: set[str] = set()
    for line in "\n".join(lines).split("\n"):
        if line.strip():
            name, least, version = line.partition(">=")
            if not least:
                raise ValueError(f"{line.strip()!r}: say the oldest version that works, with >=")
            if name.strip() not in _ELSEWHERE:
                pinned.add(f"{name.strip()}=={version.strip()}")
    return sorted(pinned)


if __name__ == "__main__":
    sys.stdout.write(" ".join(oldest(Path(sys.argv[1]).read_text("utf-8"))) + "\n")
