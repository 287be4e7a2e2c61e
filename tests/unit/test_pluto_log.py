"""Following pluto's log: files that grow, turn and vanish; the journal."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ovn_ipsec.agent.diagnosis import Diagnosis
from ovn_ipsec.drivers import pluto_log
from ovn_ipsec.drivers.pluto_log import MOST_BYTES, PlutoLog, log_file
from ovn_ipsec.model.evidence import Symptom
from tests.unit.test_metrics import down, node

REJECTED = '"t-out-1" #1: IKE SA authentication request rejected by peer: AUTHENTICATION_FAILED\n'
DIFFERS = (
    '"u-1" #2: authentication failed: computed hash does not match hash received from peer x\n'
)


def symptoms(log: PlutoLog, generation: str = "1", now_s: float = 0.0) -> dict[str, Symptom]:
    evidence = log.read(generation, now_s, wanted=True)
    return {key: failure.symptom for key, failure in evidence.failures.items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pluto.log"


@pytest.fixture
def log(file: Path) -> PlutoLog:
    return PlutoLog(lambda: file)


def test_what_was_there_before_and_what_is_added_is_read(file: Path, log: PlutoLog) -> None:
    file.write_text(REJECTED)
    assert symptoms(log) == {"t": Symptom.REJECTED}
    with file.open("a") as more:
        more.write(DIFFERS[:20])
        more.flush()
        assert symptoms(log) == {"t": Symptom.REJECTED}
        more.write(DIFFERS[20:])
    assert symptoms(log) == {"t": Symptom.REJECTED, "u": Symptom.PSK_DIFFERS}


def test_rotated_and_cut_files_are_read_from_their_start(file: Path, log: PlutoLog) -> None:
    file.write_text("noise\n" * 100)
    assert symptoms(log) == {}
    file.rename(file.with_suffix(".1"))
    file.write_text(REJECTED)
    assert symptoms(log) == {"t": Symptom.REJECTED}
    file.write_text(DIFFERS[:10])
    symptoms(log)
    file.write_text(DIFFERS)
    os.truncate(file, 0)
    assert "u" not in symptoms(log)
    file.write_text(DIFFERS)
    assert "u" in symptoms(log)


def test_flood_costs_no_more_than_its_newest_part(file: Path, log: PlutoLog) -> None:
    file.write_text(REJECTED + "x" * 2 * MOST_BYTES + "\n" + DIFFERS)
    assert symptoms(log) == {"u": Symptom.PSK_DIFFERS}


def test_absent_file_is_said_with_its_name_and_found_later(file: Path, log: PlutoLog) -> None:
    problem = log.read("1", 0.0, wanted=True).problem
    assert problem is not None and str(file) in problem
    file.write_text(REJECTED)
    evidence = log.read("1", 0.0, wanted=True)
    assert evidence.problem is None
    assert "t" in evidence.failures


def test_another_pluto_may_log_elsewhere(tmp_path: Path) -> None:
    files = {"now": tmp_path / "one"}
    log = PlutoLog(lambda: files["now"])
    files["now"].write_text(REJECTED)
    assert symptoms(log) == {"t": Symptom.REJECTED}
    files["now"] = tmp_path / "two"
    files["now"].write_text(DIFFERS)
    assert "u" not in symptoms(log)
    assert "u" in symptoms(log, "2")


JOURNALCTL = """#!/bin/sh
# Accepts the words that journalctl(1) of systemd 252 knows, in the agent's order, and no others.
[ "$1 $2 $3 $4 $5 $6" = "--quiet --no-pager --output=cat --show-cursor --lines 2000" ] || exit 1
shift 6
case "$1" in
--since=-10min) [ "$#" = 2 ] && [ "$2" = _COMM=pluto ] || exit 1; cat {first} ;;
--after-cursor) [ "$#" = 3 ] && [ "$2" = c1 ] && [ "$3" = _COMM=pluto ] || exit 1; cat {more} ;;
*) exit 1 ;;
esac
"""


def test_journal_is_asked_only_when_wanted_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pluto_log, "_JOURNALS", (tmp_path,))
    first, more, script = tmp_path / "first", tmp_path / "more", tmp_path / "journalctl"
    first.write_text(REJECTED + "-- cursor: c1\n")
    more.write_text(DIFFERS + "-- cursor: c2\n")
    script.write_text(JOURNALCTL.format(first=first, more=more))
    script.chmod(0o755)
    log = PlutoLog(lambda: None, journalctl=[str(script)])
    time.sleep(0.2)
    assert log.read("1", 0.0, wanted=False).problem == "pluto's log has not been read yet"
    _await(log, {"t"}, 1.0)
    assert log.read("1", 5.0, wanted=True).problem is None
    _await(log, {"t", "u"}, 30.0)


def test_journal_that_cannot_be_read_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pluto_log, "_JOURNALS", (tmp_path,))
    log = PlutoLog(lambda: None, journalctl=[str(tmp_path / "absent")])
    deadline = time.monotonic() + 5
    while "cannot be run" not in (log.read("1", 0.0, wanted=True).problem or ""):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _await(log: PlutoLog, keys: set[str], now_s: float) -> None:
    deadline = time.monotonic() + 5
    while set(symptoms(log, now_s=now_s)) != keys:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_log_file_is_found_in_the_configuration_and_what_it_includes(tmp_path: Path) -> None:
    conf, included = tmp_path / "ipsec.conf", tmp_path / "more.conf"
    conf.write_text(
        f"config setup\n\t# logfile=/no\n\tprotostack=xfrm\ninclude {tmp_path}/m*.conf\n"
    )
    assert log_file(None, conf) is None
    conf.write_text(conf.read_text() + 'config setup\n\tlogfile="/var/log/pluto.log"\n')
    assert log_file(None, conf) == Path("/var/log/pluto.log")
    included.write_text("config setup\n    logfile = /run/other.log\n")
    assert log_file(None, conf) == Path("/run/other.log")
    assert log_file(None, tmp_path / "absent") is None


def test_same_refusal_once_more_is_news_to_readiness(file: Path, log: PlutoLog) -> None:
    diagnosis = Diagnosis(log)
    snapshot = node(down("t"))
    for now_s in (100.0, 107.0):
        with file.open("a") as more:
            more.write(REJECTED)
        snapshot = diagnosis.explain(snapshot, "1", now_s)
        assert snapshot.tunnels[0].refused_at_s == now_s
    assert diagnosis.explain(snapshot, "1", 110.0) is snapshot
