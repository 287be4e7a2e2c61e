"""Alert rules and dashboard, checked with Debian's promtool and against what the agent tells."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from ovn_ipsec.model.enrolment import Enrolment, EnrolmentState
from ovn_ipsec.model.work import Work
from ovn_ipsec.status.metrics import render_metrics
from tests.unit.test_metrics import down, node, up

pytestmark = pytest.mark.monitoring

PROJECT = Path(__file__).parents[2]
FILES = PROJECT / "manifests/monitoring"
METRIC = re.compile(r"\bovn_ipsec_[a-z_]+\b")


def run(promtool: str, *words: str, stdin: str | None = None) -> None:
    done = subprocess.run(
        [promtool, *words], input=stdin, text=True, capture_output=True, cwd=FILES
    )
    assert done.returncode == 0, done.stdout + done.stderr


def metrics() -> str:
    snapshot = replace(
        node(up("a"), down("b")),
        work=Work(xfrm_errors={"XfrmInNoStates": 1}),
        enrolment=Enrolment(EnrolmentState.OK),
    )
    return render_metrics(snapshot, 9.0).decode()


def dashboard() -> list[str]:
    panels = json.loads((FILES / "dashboard.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_rules_are_valid_and_each_alert_fires_when_it_should(promtool: str) -> None:
    run(promtool, "check", "rules", "alerts.yaml")
    run(promtool, "test", "rules", "alerts_test.yaml")
    alerts = re.findall(r"- alert: (\w+)", (FILES / "alerts.yaml").read_text())
    tested = (FILES / "alerts_test.yaml").read_text()
    assert [alert for alert in alerts if alert not in tested] == []


def test_metrics_are_as_prometheus_wants_them(promtool: str) -> None:
    run(promtool, "check", "metrics", stdin=metrics())


def test_rules_and_dashboard_ask_only_for_metrics_that_the_agent_has() -> None:
    told = set(METRIC.findall(metrics()))
    asked = set(METRIC.findall((FILES / "alerts.yaml").read_text() + "\n".join(dashboard())))
    assert asked - told == set()


def test_dashboards_expressions_are_valid(promtool: str, tmp_path: Path) -> None:
    rules = [
        {"record": f"dashboard:{number}", "expr": expr.replace("$instance", ".*")}
        for number, expr in enumerate(dashboard())
    ]
    file = tmp_path / "rules.yaml"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    run(promtool, "check", "rules", str(file))


def test_dashboards_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads((FILES / "dashboard.json").read_text())["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not taken & cells, panel["title"]
        taken |= cells
