"""The distribution's python-ovs in the place of the newest, which all other tests have.

Debian 12's is the oldest that setup.cfg promises; its parser is in C, and it tells of tables that
nobody has asked about.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.contract

_DISTRIBUTIONS = Path("/usr/lib/python3/dist-packages/ovs")
_HERE = Path(__file__).parent
_TESTS = ("test_ovsdb_source.py", "test_row_status.py", "test_appctl.py")


def test_what_talks_to_open_vswitch_works_with_the_distributions_python_ovs(
    tmp_path: Path,
) -> None:
    (tmp_path / "ovs").symlink_to(_DISTRIBUTIONS)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def python(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, *words]
        return subprocess.run(
            argv,
            env=environment,
            cwd=_HERE.parents[1],
            capture_output=True,
            text=True,
            check=False,
        )

    taken = python("-c", "import ovs.json; print(ovs.__file__, ovs.json.PARSER)").stdout.split()
    assert taken == [str(tmp_path / "ovs/__init__.py"), "C"]
    done = python(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(_HERE / t) for t in _TESTS)
    )
    assert done.returncode == 0, done.stdout
