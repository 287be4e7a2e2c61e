"""The tunnel benchmark still measures what it says, with a handful of peers."""

from __future__ import annotations

import pytest

from tools.bench.tunnels.contenders import Contender, Floor, Original, Ours
from tools.bench.tunnels.limits import measure_limits
from tools.bench.tunnels.measure import Row, measure_answers, measure_hub
from tools.lab.lab import Lab
from tools.lab.monitor import ORIGINAL

pytestmark = pytest.mark.system

PEERS = 3
OF_PLUTO = {"loaded_s", "up_s", "one_more_s", "one_more_half_dead_s", "one_changed_s"}
OF_PLUTO |= {"one_less_s", "pluto_cpu_s", "rekeys_in_fullest_minute"}
OF_A_MONITOR = {"bulk_cpu_s", "idle_core_share", "idle_half_dead_core_share"}
OF_A_MONITOR |= {"restart_s", "restart_commands", "rss_mb"}


@pytest.mark.parametrize(
    ("contender", "measured"),
    [
        pytest.param(Ours(), OF_PLUTO | OF_A_MONITOR, id="ours"),
        pytest.param(Floor(), OF_PLUTO, id="floor"),
        pytest.param(
            Original("original", ORIGINAL),
            OF_PLUTO | OF_A_MONITOR,
            id="original",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_every_phase_is_measured(lab: Lab, contender: Contender, measured: set[str]) -> None:
    row = Row("hub", contender.name, PEERS)
    measure_hub(lab, contender, row, limit_s=120, idle_s=5, calm_after_s=5)
    assert measured <= row.values.keys()
    assert row.values["rekeys_known"] == 2 * PEERS
    if type(contender) is Ours:
        assert row.values["restart_commands"] == 0


def test_what_others_need_for_one_more_tunnel_is_measured(lab: Lab) -> None:
    values = measure_limits(lab, PEERS, limit_s=120)
    assert values["row_s"] > 0
    assert values["keys_s"] > values["nothing_s"] > 0


def test_answers_are_timed_while_tunnels_come_up(lab: Lab) -> None:
    row = Row("answers", "ours", PEERS)
    measure_answers(lab, Ours(), row, limit_s=120)
    assert {"query_median_s", "query_p99_s", "up_s"} <= row.values.keys()
    assert row.values["queries"] > 0
