"""A word per tunnel for its row, and how the rows are made to say it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovn_ipsec.agent.row_status import KEY, operations, wanted_words
from ovn_ipsec.model.snapshot import TunnelState
from ovn_ipsec.status.words import row_word
from tests.control_fake import make_snapshot
from tests.simulated import SILENT, tunnel

WORDS = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["encrypted", "down", "x"]))


def apply(rows: dict[str, str], todo: dict[str, dict[str, object]]) -> dict[str, str]:
    """As RFC 7047 has it: an insertion leaves a key alone that is there."""
    after = dict(rows)
    for name, operation in todo.items():
        assert operation["where"] == [["name", "==", name]]
        mutations = operation["mutations"]
        assert isinstance(mutations, list)
        for column, mutator, value in mutations:
            assert column == "external_ids"
            if mutator == "delete":
                assert value == ["set", [KEY]]
                after.pop(name, None)
            else:
                assert mutator == "insert"
                (((key, word),),) = value[1:]
                assert key == KEY
                after.setdefault(name, word)
    return after


@given(WORDS, WORDS)
def test_rows_say_what_is_wanted_afterwards_and_only_changes_are_written(
    written: dict[str, str], wanted: dict[str, str]
) -> None:
    todo = operations(written, wanted)
    assert apply(written, todo) == wanted
    assert set(todo) == {name for name, _ in written.items() ^ wanted.items()}


def test_word_is_the_state_with_its_cause() -> None:
    assert row_word(tunnel(0, 1)) == "encrypted"
    assert row_word(tunnel(0, 1, up=False)) == "down: peer-silent"
    assert row_word(replace(tunnel(0, 1), cause=SILENT)) == "no-input: peer-silent"
    assert row_word(replace(tunnel(0, 1), state=TunnelState.INVALID)) == "invalid"


@pytest.mark.parametrize("complete", [False, True])
def test_nothing_is_said_or_taken_back_before_every_source_has_reported(complete: bool) -> None:
    gone = replace(tunnel(0, 2), state=TunnelState.REMOVED)
    snapshot = replace(make_snapshot(0), tunnels=(tunnel(0, 1), gone), complete=complete)
    assert wanted_words(snapshot) == ({"tun-1": "encrypted"} if complete else None)
