"""The cluster view: what two sides amount to, what is drawn, what hostile data can do."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovn_ipsec.model.conns import GuardMode
from ovn_ipsec.web.history import SLOT_S, SLOTS, DropHistory
from ovn_ipsec.web.merge import MOST_NODES, merge, read_status
from ovn_ipsec.web.model import (
    MEANINGS,
    SIGNS,
    Cluster,
    NodeReport,
    PairState,
    Standing,
    summary,
)
from ovn_ipsec.web.page import front, node_page, pair_page
from ovn_ipsec.web.style import CSS
from ovn_ipsec.web.text import render_json, render_text
from tests.simulated import NOW, address, full_mesh, name, report, status

HOSTILE = "<script>alert(1)</script>\"'&\n\x1b[2J"


def silent(before: NodeReport) -> NodeReport:
    return replace(before, error="no answer in time", answered_at=NOW - timedelta(minutes=7))


def state_of(*reports: NodeReport) -> PairState:
    cluster = merge(reports, NOW)
    return cluster.state(0, 1)


def pages(cluster: Cluster) -> list[str]:
    made = [front(cluster, (0,) * SLOTS)]
    for one in range(len(cluster.nodes)):
        made.append(node_page(cluster, one, (0,) * SLOTS))
        made += [pair_page(cluster, one, other) for other in range(one)]
    return made


def test_both_sides_decide_together_and_silence_decides_nothing() -> None:
    up, down, none = report(0, {1: True}), report(0, {1: False}), report(0, {})
    up1, down1, none1 = report(1, {0: True}), report(1, {0: False}), report(1, {})
    assert state_of(up, up1) is PairState.ENCRYPTED
    assert state_of(up, down1) is PairState.DISAGREE
    assert state_of(up, none1) is PairState.DISAGREE
    assert state_of(down, down1) is PairState.DOWN
    assert state_of(down, none1) is PairState.DOWN
    assert state_of(none, none1) is PairState.ABSENT
    assert state_of(up, silent(up1)) is PairState.ONE_SIDED
    assert state_of(down, silent(up1)) is PairState.DOWN
    assert state_of(silent(up), silent(up1)) is PairState.UNKNOWN
    assert state_of(up) is PairState.ONE_SIDED


def test_tunnel_that_is_down_behind_an_open_guard_may_talk_in_clear() -> None:
    audit = report(0, {1: False}, mode=GuardMode.AUDIT)
    assert state_of(audit, report(1, {0: False})) is PairState.OPEN
    assert state_of(audit, report(1, {0: True})) is PairState.OPEN
    closed = report(0, {1: False}, mode=GuardMode.ENFORCE_ALWAYS)
    assert state_of(closed, report(1, {0: False})) is PairState.DOWN
    # Who is encrypted needs no guard.
    assert state_of(report(0, {1: True}, mode=GuardMode.AUDIT)) is PairState.ONE_SIDED


def test_agent_that_has_not_looked_for_long_counts_as_silence() -> None:
    told = status(0, {1: True})
    told["node"]["age_s"] = 90.0
    old = NodeReport(name(0), address(0), read_status(told), NOW)
    cluster = merge([old, report(1, {0: False})], NOW)
    assert cluster.nodes[0].standing is Standing.OLD
    assert cluster.state(0, 1) is PairState.DOWN


def test_peer_without_a_name_is_known_by_its_address() -> None:
    told = status(0, {1: True})
    told["tunnels"][0]["config"]["remote_name"] = None
    psk = NodeReport("", "127.0.0.1", read_status(told), NOW)
    cluster = merge([psk, report(1, {0: True})], NOW)
    assert [node.name for node in cluster.nodes] == ["node-0", "node-1"]
    assert cluster.state(0, 1) is PairState.ENCRYPTED


def test_node_cannot_speak_under_the_name_of_another() -> None:
    told = status(1, {0: True})
    liar = NodeReport(name(2), address(2), read_status(told), NOW)
    cluster = merge([report(0, {1: False}), liar, report(1, {0: False})], NOW)
    assert [node.name for node in cluster.nodes] == ["node-0", "node-1", "node-2"]
    assert cluster.state(0, 1) is PairState.DOWN


def test_node_that_names_endless_peers_adds_a_bounded_number_of_rows() -> None:
    many = report(0, {number: True for number in range(1, MOST_NODES + 50)})
    cluster = merge([many], NOW)
    assert len(cluster.nodes) == MOST_NODES
    assert cluster.left_out == 50
    assert not cluster.all_encrypted


def test_node_that_does_not_answer_is_shown_with_its_last_state_and_age() -> None:
    cluster = merge([report(0, {1: True}), silent(report(1, {0: True}))], NOW)
    page = front(cluster, ())
    assert "does not answer; what is shown is 7m old: no answer in time" in page
    assert "1 of 1 tunnels" in page.partition('id="nodes"')[2]
    assert "does not answer (last known state is 7m old)" in render_text(cluster)
    never = merge([NodeReport(name(0), address(0), error="refused")], NOW)
    assert "does not answer, and never has: refused" in front(never, ())
    assert not cluster.all_encrypted and not never.all_encrypted


def test_pair_shows_both_sides_with_cause_and_remedy() -> None:
    cluster = merge([report(0, {1: False}), report(1, {0: True})], NOW)
    page = pair_page(cluster, 1, 0)
    assert MEANINGS[PairState.DISAGREE] in page
    assert "node-0</a> says" in page and "node-1</a> says" in page
    assert "the peer does not answer IKE" in page and "check that it is up" in page
    assert "41 days left" in node_page(cluster, 0, ())


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def elements(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Elements()
    parser.feed(page)
    return parser.found


@given(st.text(max_size=30) | st.just(HOSTILE))
def test_whatever_a_node_says_adds_no_element_and_no_attribute(text: str) -> None:
    def shape(word: str) -> list[list[tuple[str, list[str]]]]:
        told = status(0, {1: False})
        tunnel = told["tunnels"][0]
        tunnel["name"] = tunnel["cause"]["text"] = tunnel["cause"]["remedy"] = f"x{word}"
        tunnel["config"]["remote_name"] = f"node-1{word}"
        told["node"]["causes"] = [{"text": f"x{word}", "remedy": "y"}]
        told["node"]["guard"]["mode"] = told["node"]["ike"]["version"] = f"x{word}"
        own = NodeReport(f"node-0{word}", address(0), read_status(told), NOW, f"x{word}")
        cluster = merge([own], NOW)
        assert len(cluster.nodes) == 2
        return [
            [(tag, sorted(attributes)) for tag, attributes in elements(page)]
            for page in pages(cluster)
        ]

    assert shape(text) == shape("")


def test_no_page_has_script_style_or_link_elsewhere() -> None:
    cluster = merge([report(0, {1: False, 2: True}), silent(report(1, {0: True}))], NOW)
    for page in pages(cluster):
        for tag, attributes in elements(page):
            assert tag != "script"
            assert not {key for key in attributes if key == "style" or key.startswith("on")}
            for key in ("href", "src"):
                assert (attributes.get(key) or "/").startswith(("/", "#"))


def test_every_header_has_a_scope_and_every_state_a_sign_of_its_own() -> None:
    cluster = merge([report(0, {1: False}), report(1, {0: True})], NOW)
    for page in pages(cluster):
        headers = [attributes for tag, attributes in elements(page) if tag == "th"]
        assert all(attributes.get("scope") in ("row", "col") for attributes in headers)
    assert len(set(SIGNS.values())) == len(PairState) == len(set(MEANINGS.values()))
    assert all(f".{state} {{" in CSS for state in PairState)


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast_of_every_text_is_at_least_four_and_a_half() -> None:
    checked = 0
    for selector, rule in re.findall(r"([^{}]+)\{([^}]*)\}", CSS):
        text = re.search(r"(?<![-\w])color: (\S+);", rule)
        if text is None or text[1] == "inherit":
            continue
        ground = re.search(r"background: (\S+);", rule)
        assert ground is not None, selector
        light, dark = sorted(map(luminance, (text[1], ground[1])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, selector
        checked += 1
    assert checked >= 10


def test_hundred_nodes_make_a_small_page() -> None:
    down = {frozenset((number, number + 7)) for number in range(0, 90, 3)}
    cluster = merge(full_mesh(100, down), NOW)
    page = front(cluster, (0,) * SLOTS)
    counts = cluster.counts()
    assert counts[PairState.DOWN] == len(down)
    assert sum(counts.values()) == 100 * 99 // 2
    assert len(page) < 150_000
    assert summary(cluster).startswith(f"{4950 - len(down)} of 4950 pairs")


def test_text_has_the_matrix_and_what_is_wrong_json_everything() -> None:
    cluster = merge([report(0, {1: False, 2: True}), report(1, {0: False})], NOW)
    text = render_text(cluster)
    assert " 1 node-0  –  ✗  ½\n" in text
    assert "node-0: tun-1 down: the peer does not answer IKE -> check that it is up" in text
    told = json.loads(render_json(cluster))
    assert [node["standing"] for node in told["nodes"]] == ["answers", "answers", "unasked"]
    assert told["pairs"][0]["state"] == "down" and told["all_encrypted"] is False


def test_all_is_well_only_when_every_node_and_every_pair_is() -> None:
    assert merge(full_mesh(3), NOW).all_encrypted
    assert not merge([], NOW).all_encrypted
    told = status(0, {1: True})
    told["node"]["causes"] = [{"code": "guard-absent", "text": "no guard", "remedy": "wait"}]
    troubled = NodeReport(name(0), address(0), read_status(told), NOW)
    assert not merge([troubled, report(1, {0: True})], NOW).all_encrypted


def test_drops_are_counted_from_one_look_to_the_next_and_over_a_new_table() -> None:
    history = DropHistory()
    begin = 1_000_000 * SLOT_S
    history.note("a", begin, 500)
    history.note("a", begin + SLOT_S, 503)
    history.note("a", begin + 2 * SLOT_S, 2)
    history.note("b", begin + 2 * SLOT_S, 9)
    history.note("b", begin + 2 * SLOT_S, 10)
    assert history.bars(begin + 2 * SLOT_S)[-3:] == (0, 3, 3)
    assert history.bars(begin + 2 * SLOT_S, "b")[-3:] == (0, 0, 1)
    later = begin + 2 * SLOTS * SLOT_S
    assert history.bars(later) == (0,) * SLOTS


@pytest.mark.parametrize("value", [[], {"tunnels": 3}, {"node": {"age_s": "x", "guard": []}}])
def test_status_of_another_version_is_no_error(value: object) -> None:
    view = read_status(value if isinstance(value, dict) else {})
    assert merge([NodeReport("a", "", view, NOW)], NOW).nodes[0].name == "a"
