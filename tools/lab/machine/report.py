"""Adds up what the test runs in the machines said, so that no tier can be empty unnoticed."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Tally:
    """Outcomes, by tier (``tests/system``)."""

    passed: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)

    def line(self) -> str:
        """``N passed, N failed, N skipped``."""
        counts = (self.passed.total(), self.failed.total(), self.skipped.total())
        return "{} passed, {} failed, {} skipped".format(*counts)

    def ran(self, tier: str) -> int:
        """How many tests of a tier came to a verdict."""
        return self.passed[tier] + self.failed[tier]


def read_junit(reports: Iterable[Path]) -> Tally:
    """The sum of pytest's junit.xml files; a file that is missing counts as one failure."""
    tally = Tally()
    for report in reports:
        if not report.exists():
            tally.failed["no report"] += 1
            continue
        for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314 - our own pytest wrote it
            tier = "/".join(case.get("classname", "").split(".")[:2])
            outcomes = {child.tag for child in case}
            if outcomes & {"failure", "error"}:
                tally.failed[tier] += 1
            elif "skipped" in outcomes:
                tally.skipped[tier] += 1
            else:
                tally.passed[tier] += 1
    return tally


def empty_tiers(tally: Tally, paths: Iterable[str]) -> list[str]:
    """Of the requested paths, those whose tier ran no test at all."""
    tiers = {"/".join(Path(path).parts[:2]) for path in paths if path.startswith("tests/")}
    return sorted(tier for tier in tiers if not tally.ran(tier))
