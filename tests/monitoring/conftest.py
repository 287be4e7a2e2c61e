"""The programs that alert rules and dashboard are for, or are judged by."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "tools/monitoring"


def installed(script: str) -> Path:
    """The directory that a script prints, which puts things there first if they are missing."""
    argv = [SCRIPTS / script]
    return Path(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())


@pytest.fixture(scope="session")
def promtool() -> str:
    return str(installed("install-prometheus.sh") / "promtool")


@pytest.fixture(scope="session")
def prometheus() -> str:
    return str(installed("install-prometheus.sh") / "prometheus")


@pytest.fixture(scope="session")
def schema() -> Path:
    """A directory whose node_modules has Grafana's types and a compiler."""
    return installed("install-schema.sh")
