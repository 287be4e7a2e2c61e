"""``ovn-ipsec enroll``: gets this node's certificate and keeps it renewed."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ovn_ipsec.agent.clock import wall_clock
from ovn_ipsec.commands.log import keep_rows_out_of_the_log, log_to_standard_error
from ovn_ipsec.commands.signals import stop_when_told
from ovn_ipsec.errors import EnrolmentError
from ovn_ipsec.identity.denylist import build_deny_list
from ovn_ipsec.identity.generations import Generations
from ovn_ipsec.identity.kubernetes import KubernetesWay
from ovn_ipsec.identity.node import build_courier, build_enrolment, run_once
from ovn_ipsec.identity.node import run as run_for_ever
from ovn_ipsec.identity.settings import parse_enroll_arguments


def run(argv: Sequence[str]) -> int:
    """0 well, also if the renewal of an identity is overdue, which is logged; 1 without one."""
    settings = parse_enroll_arguments(argv)
    keep_rows_out_of_the_log()
    log_to_standard_error(verbose=settings.verbose)
    news = threading.Event()
    stop = stop_when_told(also=news.set)

    def wait(seconds: float) -> bool:
        """Until there is something to do; True when the process shall end."""
        news.wait(seconds)
        news.clear()
        return stop.is_set()

    courier = build_courier(settings)
    if isinstance(courier, KubernetesWay):
        courier.on_news = news.set
    generations = Generations(settings.directory)
    try:
        enrolment = build_enrolment(settings, generations, wall_clock, courier)
        if not settings.once:
            deny_list = build_deny_list(settings, enrolment.credentials, courier)
            # A daemon: it may be waiting for an answer when the process is told to end.
            follower = threading.Thread(
                target=deny_list.follow, args=(stop.wait,), name="deny-list", daemon=True
            )
            follower.start()
            run_for_ever(enrolment, wall_clock, wait)
            return 0
        decision = run_once(enrolment, wall_clock, wait, settings.timeout_s)
    finally:
        generations.close()
    if not decision.in_place:
        raise EnrolmentError(decision.reason)
    return 0
