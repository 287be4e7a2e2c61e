"""The dashboard against Grafana's own description of one, by the TypeScript compiler."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.monitoring

PROJECT = Path(__file__).parents[2]
DASHBOARD = PROJECT / "manifests/monitoring/dashboard.json"
TYPES = PROJECT / "tools/monitoring/schema/schema.ts"
COMPILE_S = 120
Wrong = Callable[[dict[str, Any]], object]

MISTAKES: dict[str, Wrong] = {
    "unknown-key": lambda top: top.update(panel=[]),
    "unknown-variable-kind": lambda top: top["templating"]["list"][0].update(type="source"),
    "number-as-text": lambda top: top.update(schemaVersion="39"),
    "panel-without-kind": lambda top: top["panels"][0].pop("type"),
    "unknown-kind": lambda top: top["panels"][0].update(type="graph"),
    "key-of-a-panel": lambda top: top["panels"][0].update(gridpos={}),
    "key-of-a-unit": lambda top: top["panels"][0]["fieldConfig"]["defaults"].update(units="s"),
    "option-of-another-kind": lambda top: top["panels"][0]["options"].update(displayMode="lcd"),
    "unknown-threshold": lambda top: top["panels"][0]["fieldConfig"]["defaults"][
        "thresholds"
    ].update(mode="relative"),
    "query-without-expression": lambda top: top["panels"][0]["targets"][0].pop("expr"),
    "key-of-a-query": lambda top: top["panels"][0]["targets"][0].update(query="up"),
}


def compile_all(schema: Path, directory: Path, dashboards: dict[str, str]) -> dict[str, list[str]]:
    """What is wrong with each dashboard, by name; all are compiled at once."""
    (directory / "node_modules").symlink_to(schema / "node_modules")
    (directory / "schema.ts").write_text(TYPES.read_text())
    for name, text in dashboards.items():
        head = 'import type { Dashboard } from "./schema";\nexport const shown: Dashboard ='
        (directory / f"{name}.ts").write_text(f"{head} {text};\n")
    flags = ["--noEmit", "--strict", "--skipLibCheck", "--module", "esnext", "--pretty", "false"]
    flags += ["--moduleResolution", "bundler", "--target", "es2022"]
    done = subprocess.run(
        [
            "node",
            "node_modules/typescript/bin/tsc",
            *flags,
            *(f"{name}.ts" for name in dashboards),
        ],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=COMPILE_S,
    )
    found: dict[str, list[str]] = {name: [] for name in dashboards}
    for line in done.stdout.splitlines():
        if match := re.match(r"([\w-]+)\.ts\(\d+,\d+\): ", line):
            found[match[1]].append(line)
    # An error of the compiler itself, or in the types, is no finding about a dashboard.
    assert bool(done.returncode) == any(found.values()), done.stdout + done.stderr
    return found


def test_dashboard_is_one_as_grafana_describes_it_and_mistakes_are_found(
    schema: Path, tmp_path: Path
) -> None:
    text = DASHBOARD.read_text()
    dashboards = {"dashboard": text}
    for name, spoil in MISTAKES.items():
        spoilt = json.loads(text)
        spoil(spoilt)
        dashboards[name] = json.dumps(spoilt)
    found = compile_all(schema, tmp_path, dashboards)
    assert found["dashboard"] == []
    assert [name for name in MISTAKES if not found[name]] == []
