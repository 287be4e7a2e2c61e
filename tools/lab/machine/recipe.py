"""What a lab root file system is made of, and the key under which it is cached."""

from __future__ import annotations

import configparser
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

SUITES = ("bookworm", "trixie")
"""bookworm: libreswan 4.10, OVS 3.1, OVN 23.03; trixie: libreswan 5.2, OVS 3.5, OVN 25.03."""

_PACKAGES = (
    "busybox-static",
    "curl",
    "iproute2",
    "iputils-ping",
    "kmod",
    "libnss3-tools",
    "libreswan",
    "mount",
    "nftables",
    "openssl",
    "openvswitch-common",
    "openvswitch-switch",
    "ovn-central",
    "ovn-host",
    "procps",
    "python3",
    "python3-openvswitch",
    "python3-venv",
    "runc",
    "tcpdump",
    "tini",
    "zstd",
)

# What the tests need besides the project's own requirements.
_TEST_TOOLS = ("pytest", "hypothesis", "cryptography")
# The lab runs the authority, too, what people run on nodes, and reads our manifests.
_EXTRAS = ("ca", "metrics", "render", "status")


@dataclass(frozen=True, slots=True)
class RootRecipe:
    """The Debian part: suite, packages, and the scripts that finish the tree."""

    suite: str
    packages: tuple[str, ...]
    scripts: tuple[str, ...]
    """The text of each script that takes part in the build."""

    def digest(self) -> str:
        return _digest(asdict(self))


@dataclass(frozen=True, slots=True)
class PythonRecipe:
    """The Python packages of the project and its tests, for one root."""

    root_digest: str
    requirements: tuple[str, ...]

    def digest(self) -> str:
        return _digest(asdict(self))


def root_recipe(suite: str, scripts: Iterable[Path]) -> RootRecipe:
    """The recipe of one Debian suite; ValueError if the lab does not know the suite."""
    if suite not in SUITES:
        raise ValueError(f"unknown lab root {suite!r}: choose one of {', '.join(SUITES)}")
    return RootRecipe(suite, _PACKAGES, tuple(script.read_text() for script in scripts))


def python_recipe(root_digest: str, setup_cfg: str) -> PythonRecipe:
    """The requirements named by the text of setup.cfg, plus what the tests need."""
    parser = configparser.ConfigParser()
    parser.read_string(setup_cfg)
    named = _lines(parser.get("options", "install_requires", fallback=""))
    section = "options.extras_require"
    for extra, lines in parser.items(section) if parser.has_section(section) else ():
        wanted = _lines(lines)
        named += [line for line in wanted if extra in _EXTRAS or _project(line) in _TEST_TOOLS]
    known = {_project(line) for line in named}
    named += [tool for tool in _TEST_TOOLS if tool not in known]
    return PythonRecipe(root_digest, tuple(sorted(set(named))))


def _lines(value: str) -> list[str]:
    stripped = (line.strip() for line in value.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def _project(requirement: str) -> str:
    """``pytest`` of ``pytest >= 8``."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    return found.group(0).lower().replace("_", "-") if found else ""


def _digest(content: object) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
