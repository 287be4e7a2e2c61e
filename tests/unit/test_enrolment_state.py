"""The state of the enrolment, as monitoring sees it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovn_ipsec.identity.model import Level
from ovn_ipsec.model.enrolment import Enrolment, EnrolmentState
from ovn_ipsec.sources.enrolment import parse_enrolment, read_enrolment
from ovn_ipsec.status.metrics import render_metrics
from tests.control_fake import make_snapshot

AT = datetime(2026, 5, 4, tzinfo=UTC)


def test_every_word_of_the_enrolment_is_known() -> None:
    assert {str(level) for level in Level} == set(EnrolmentState) - {"unknown"}


def test_file_is_found_beside_the_generation_that_is_in_use(tmp_path: Path) -> None:
    certificate = str(tmp_path / "generation-7" / "certificate.pem")
    assert read_enrolment(certificate) is None
    told = {"state": "alarm", "renew_at": AT.isoformat()}
    (tmp_path / "state.json").write_text(json.dumps(told))
    expected = Enrolment(EnrolmentState.ALARM, AT)
    assert read_enrolment(certificate) == read_enrolment(None, tmp_path) == expected
    # Somebody else's certificate: what lies beside it says nothing.
    assert read_enrolment(str(tmp_path / "keys" / "cert.pem")) is None
    (tmp_path / "state.json").write_text("{")
    assert read_enrolment(certificate) == Enrolment(EnrolmentState.UNKNOWN)


@given(st.binary(max_size=40) | st.sampled_from([b"[]", b"1", b'{"state":[]}', b"[" * 9000]))
def test_file_that_says_something_else_is_no_error(data: bytes) -> None:
    assert parse_enrolment(data).state is EnrolmentState.UNKNOWN


@pytest.mark.parametrize("state", [None, *EnrolmentState])
def test_metric_is_there_exactly_for_nodes_that_are_enrolled(state: EnrolmentState | None) -> None:
    enrolment = None if state is None else Enrolment(state, AT)
    text = render_metrics(replace(make_snapshot(0), enrolment=enrolment), 0.0).decode()
    ones = [line for line in text.splitlines() if line.startswith("ovn_ipsec_enrolment_state{")]
    assert [line for line in ones if line.endswith(" 1.0")] == (
        [f'ovn_ipsec_enrolment_state{{state="{state}"}} 1.0'] if state else []
    )
    assert ("ovn_ipsec_enrolment_renewal_timestamp_seconds 1.7" in text) is bool(state)
