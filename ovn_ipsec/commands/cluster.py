"""``ovn-ipsec cluster ACTION``: switches IPsec on or off in a whole cluster, step by step."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from functools import partial

import ovs.stream

from ovn_ipsec.agent.clock import wall_clock
from ovn_ipsec.cluster.databases import LocalSwitch, Northbound, Southbound
from ovn_ipsec.cluster.follow import Follower
from ovn_ipsec.cluster.rollout import RollOut
from ovn_ipsec.cluster.settings import FollowSettings, parse_cluster_arguments
from ovn_ipsec.cluster.stages import Goal
from ovn_ipsec.commands.log import keep_rows_out_of_the_log, log_to_standard_error
from ovn_ipsec.commands.signals import stop_when_told


def run(argv: Sequence[str]) -> int:
    """0 done or in order, 2 not (yet)."""
    settings = parse_cluster_arguments(argv)
    keep_rows_out_of_the_log()
    if settings.keys is not None:
        ovs.stream.Stream.ssl_set_private_key_file(str(settings.keys.private_key))
        ovs.stream.Stream.ssl_set_certificate_file(str(settings.keys.certificate))
        ovs.stream.Stream.ssl_set_ca_cert_file(str(settings.keys.ca_cert))
    if isinstance(settings, FollowSettings):
        return _follow(settings)
    roll_out = RollOut(
        Northbound(settings.nb),
        Southbound(settings.sb),
        _unix_time,
        partial(print, flush=True),
        settings.ignored,
    )
    if settings.action == "status":
        return 0 if roll_out.status() else 2
    deadline = time.monotonic() + settings.timeout_s
    if roll_out.reach(Goal(settings.action), lambda: time.monotonic() >= deadline, time.sleep):
        return 0
    print("Time is up; run the command again, or go on without a node by --ignore NODE")
    return 2


def _follow(settings: FollowSettings) -> int:
    log_to_standard_error()
    stop = stop_when_told()
    switch = LocalSwitch(settings.database)
    follower = Follower(switch, settings.sb, settings.agent, _unix_time)
    follower.follow(stop.wait, random.SystemRandom().random)
    return 0


def _unix_time() -> float:
    return wall_clock().timestamp()
