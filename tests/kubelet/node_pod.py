"""The DaemonSet's pod on the node, by kubectl, and its processes, as the host sees them."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tools.kubernetes.worker import Worker
from tools.lab.container import wait_until

NAMESPACE = "ovn-ipsec"
READY_S = 240.0
"""Enrolment, start, and a peer that has been silent for long enough, on a machine that is busy."""
Json = dict[str, Any]


def wait_for(what: str, condition: Callable[[], bool], timeout_s: float = READY_S) -> None:
    """Twice a second, as each question is a kubectl. TimeoutError names ``what``."""
    wait_until(condition, timeout_s, what, interval_s=0.5)


@dataclass(frozen=True, slots=True)
class NodePod:
    """Whichever pod the DaemonSet has now."""

    worker: Worker

    def kubectl(self, *arguments: str) -> str:
        return self.worker.kubectl("--namespace", NAMESPACE, *arguments)

    def pods(self) -> list[Json]:
        label = "app.kubernetes.io/name=ovn-ipsec"
        found = json.loads(self.kubectl("get", "pods", "-l", label, "-o", "json"))["items"]
        return [item for item in found if "deletionTimestamp" not in item["metadata"]]

    def pod(self) -> Json:
        (found,) = self.pods()
        return found

    def ready(self) -> bool:
        conditions = [
            condition
            for item in self.pods()
            for condition in item["status"].get("conditions", [])
            if condition["type"] == "Ready"
        ]
        return [item["status"] for item in conditions] == ["True"]

    def wait_until_ready(self) -> None:
        try:
            wait_for("the pod is ready", self.ready)
        except TimeoutError as error:
            name = self.pod()["metadata"]["name"]
            said = self.kubectl("describe", "pod", name)[-4000:]
            logs = self.kubectl("logs", name, "--all-containers", "--prefix", "--tail=30")
            raise AssertionError(f"{error}\n{said}\n{logs}") from None

    def container(self, name: str) -> Json:
        status = self.pod()["status"]
        every = status.get("initContainerStatuses", []) + status["containerStatuses"]
        (found,) = (item for item in every if item["name"] == name)
        assert isinstance(found, dict)
        return found

    def restarts(self) -> dict[str, int]:
        statuses = self.pod()["status"]["containerStatuses"]
        return {item["name"]: item["restartCount"] for item in statuses}

    def signal(self, container: str, number: signal.Signals) -> None:
        """To the container's first process, from outside."""
        process = self.worker.process_of(self.container(container)["containerID"])
        os.kill(process, number)

    def execute(self, container: str, *command: str) -> str:
        name = self.pod()["metadata"]["name"]
        return self.kubectl("exec", name, "-c", container, "--", *command)

    def log(self, container: str) -> str:
        return self.kubectl("logs", self.pod()["metadata"]["name"], "-c", container)

    def connections(self) -> dict[str, str]:
        """Every connection that pluto has loaded: name to serial number, which a reload raises."""
        status = self.execute("pluto", "/usr/libexec/ipsec/whack", "--status")
        return dict(re.findall(r'^000 "(ovn-0-[^"]+)":.* conn serial: (\$\d+);', status, re.M))

    def ready_answer(self) -> str:
        """The agent's own word on why it is ready."""
        url = "http://127.0.0.1:9311/readyz"
        ask = f"import urllib.request as u; print(u.urlopen({url!r}, timeout=5).read().decode())"
        return self.execute("agent", "python3", "-c", ask)
