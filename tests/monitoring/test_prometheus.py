"""The alert rules in a running Prometheus, which scrapes what the agent's own server says."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ovn_ipsec.model.conns import OwnCertificate
from ovn_ipsec.model.snapshot import IkeStatus, Snapshot
from ovn_ipsec.settings import ReadyWhen
from ovn_ipsec.status.probes import Probes, ProbeServer
from tests.unit.test_metrics import node, up
from tests.unit.test_probes import Watched
from tools.lab.container import wait_until

pytestmark = pytest.mark.monitoring

RULES = Path(__file__).parents[2] / "manifests/monitoring/alerts.yaml"
WITHIN_S = 20.0


def snapshot(*, well: bool) -> Snapshot:
    """A node where all is well, or one without pluto whose certificate has expired."""
    now = datetime.now(UTC)
    year = timedelta(days=365 if well else -1)
    return replace(
        node(up("tun-b")),
        taken_at_s=time.monotonic(),
        taken_at=now,
        ike=IkeStatus(well, "4.10", 0.0),
        certificate=OwnCertificate("n", now + year, ca_not_after=now + timedelta(days=3650)),
    )


@contextmanager
def watching(prometheus: str, agent: ProbeServer, directory: Path) -> Iterator[Callable[[], str]]:
    """A server that scrapes the agent each second; what it says of alerts, as JSON."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {
                "job_name": "ovn-ipsec",
                "static_configs": [{"targets": [f"127.0.0.1:{agent.server_port}"]}],
            }
        ],
    }
    (directory / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    argv = [prometheus, f"--config.file={directory}/prometheus.yml"]
    argv += [f"--storage.tsdb.path={directory}/data", f"--web.listen-address=127.0.0.1:{port}"]

    def alerts() -> str:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}/api/v1/alerts", timeout=5
            ) as got:
                return str(got.read().decode())
        except (urllib.error.URLError, ConnectionError):
            return ""

    with (directory / "log").open("w") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
        try:
            yield alerts
        finally:
            process.terminate()
            process.wait(30)


def states(answer: str) -> dict[str, str] | None:
    """Alert -> pending or firing; None: no answer."""
    if not answer:
        return None
    told = json.loads(answer)["data"]["alerts"]
    return {alert["labels"]["alertname"]: alert["state"] for alert in told}


def test_alerts_fire_from_what_the_agent_serves_and_end_when_it_is_well(
    prometheus: str, tmp_path: Path
) -> None:
    agent = Watched()
    agent.taken = snapshot(well=False)
    server = ProbeServer("127.0.0.1", 0, Probes(agent, ReadyWhen.ANSWERING, 120))
    try:
        with watching(prometheus, server, tmp_path) as alerts:
            # The one has no "for", the others wait for an hour and two minutes.
            expected = {
                "OvnIpsecCertificateExpired": "firing",
                "OvnIpsecCertificateExpiresSoon": "pending",
                "OvnIpsecPlutoDown": "pending",
            }
            wait_until(lambda: states(alerts()) == expected, WITHIN_S, "alerts", interval_s=0.2)
            agent.taken = snapshot(well=True)
            wait_until(lambda: states(alerts()) == {}, WITHIN_S, "no alert", interval_s=0.2)
    finally:
        server.close()
