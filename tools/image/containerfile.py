"""What the last stage of ``Containerfile`` says of the image's configuration: pure."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The part of an OCI image configuration that we set."""

    environment: dict[str, str]
    labels: dict[str, str]
    user: str
    command: tuple[str, ...]


def read_config(containerfile: str) -> ImageConfig:
    """Reads ENV, LABEL, USER and CMD (as JSON). Raises KeyError when one is missing."""
    kept = (line for line in containerfile.splitlines() if not line.startswith("#"))
    text = "\n".join(kept).replace("\\\n", " ")
    last_stage = text[text.rindex("\nFROM ") :]
    found: dict[str, str] = {}
    for line in last_stage.splitlines():
        word, _, rest = line.strip().partition(" ")
        found[word] = rest
    return ImageConfig(
        environment=_pairs(found["ENV"]),
        labels=_pairs(found["LABEL"]),
        user=found["USER"],
        command=tuple(json.loads(found["CMD"])),
    )


def packages(text: str) -> tuple[str, ...]:
    """The Debian packages of ``packages.txt``."""
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def _pairs(text: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(text))
