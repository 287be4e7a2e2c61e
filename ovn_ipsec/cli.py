"""The command line: argv to one call. The only place that prints.

ovn-ipsec agent DATABASE ...      the node agent, also installed as ovs-monitor-ipsec
ovn-ipsec guard apply|show|remove the fail-closed table, also without an agent
ovn-ipsec status                  is every tunnel encrypted, and if not, why?
ovn-ipsec verify                  proof from the wire and the kernel
ovn-ipsec support-bundle          what a helper needs to see, without secrets
ovn-ipsec enroll DATABASE ...     gets this node's certificate and keeps it renewed
ovn-ipsec cluster ACTION ...      switches IPsec on or off in a whole cluster, step by step
ovn-ipsec web                     who is encrypted to whom in the whole cluster, as a page
ovn-ipsec render FILE -o DIR      Kubernetes manifests of a cluster network configuration
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import ovs.daemon
import ovs.dirs
import ovs.fatal_signal
import ovs.jsonrpc
import ovs.stream
import ovs.util
import ovs.vlog

import ovn_ipsec
from ovn_ipsec.agent.json_log import JsonFormatter
from ovn_ipsec.agent.node import Agent, Parts, first_guard, wall_clock
from ovn_ipsec.agent.pulse import Pulse
from ovn_ipsec.agent.row_status import RowStatus
from ovn_ipsec.cluster.databases import LocalSwitch, Northbound, Southbound
from ovn_ipsec.cluster.follow import Follower
from ovn_ipsec.cluster.rollout import RollOut
from ovn_ipsec.cluster.settings import FollowSettings, parse_cluster_arguments
from ovn_ipsec.cluster.stages import Goal
from ovn_ipsec.desired.build import Policy
from ovn_ipsec.drivers.libreswan import Libreswan
from ovn_ipsec.drivers.libreswan_files import LibreswanPaths
from ovn_ipsec.drivers.nftables import Nftables
from ovn_ipsec.drivers.nftables_events import GuardEvents
from ovn_ipsec.drivers.nftables_held import HeldTable
from ovn_ipsec.drivers.nftables_rules import HELD_TABLE, TABLE
from ovn_ipsec.drivers.nss import Nss
from ovn_ipsec.drivers.pluto_log import PlutoLog
from ovn_ipsec.errors import DriverError, EnrolmentError, OvnIpsecError, SettingsError
from ovn_ipsec.identity.denylist import build_deny_list
from ovn_ipsec.identity.generations import Generations
from ovn_ipsec.identity.kubernetes import KubernetesWay
from ovn_ipsec.identity.model import Level
from ovn_ipsec.identity.node import build_courier, build_enrolment, run, run_once
from ovn_ipsec.identity.settings import parse_enroll_arguments
from ovn_ipsec.model.conns import GuardMode
from ovn_ipsec.model.steps import SetGuard
from ovn_ipsec.settings import (
    HttpAddress,
    IkeDaemon,
    LogFormat,
    Settings,
    parse_agent_arguments,
    parse_guard_arguments,
)
from ovn_ipsec.sources.addresses import LocalAddresses
from ovn_ipsec.sources.certificates import CertificateFiles
from ovn_ipsec.sources.kernel_events import KernelEvents
from ovn_ipsec.sources.ovsdb import OvsdbSource
from ovn_ipsec.status.command import run_status
from ovn_ipsec.status.probes import Probes, ProbeServer
from ovn_ipsec.status.report import render_guard
from ovn_ipsec.status.serve import DEFAULT_RUNDIR, control_socket_path, serve_control
from ovn_ipsec.status.tls import TlsProbeServer
from ovn_ipsec.status.unixctl import ControlServer
from ovn_ipsec.support.bundle import Surroundings, bundle_parser, write_bundle
from ovn_ipsec.verify.command import run_verify
from ovn_ipsec.web.command import run_once as run_web_once
from ovn_ipsec.web.command import run_web
from ovn_ipsec.web.settings import parse_web_arguments

PROGRAM = "ovs-monitor-ipsec"
"""Name of socket, pidfile and log, whatever the file is called that was run (COMPAT)."""

_log = logging.getLogger(__name__)
_VLOG = ovs.vlog.Vlog(PROGRAM)
"""Made at import: python-ovs takes no further modules once its flags have been handled."""


def main(argv: Sequence[str] | None = None) -> int:
    """``ovn-ipsec``; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    commands = {
        "agent": _agent,
        "guard": _guard,
        "enroll": _enroll,
        "cluster": _cluster,
        "render": _render,
        "status": _status,
        "support-bundle": _support_bundle,
        "verify": _verify,
        "web": _web,
    }
    if words and words[0] in commands:
        try:
            return commands[words[0]](words[1:])
        except OvnIpsecError as error:
            print(f"ovn-ipsec: {error}", file=sys.stderr)
            return 1
    parser = argparse.ArgumentParser(prog="ovn-ipsec", description=ovn_ipsec.__doc__)
    parser.add_argument("--version", action="version", version=ovn_ipsec.__version__)
    parser.add_argument("command", choices=sorted(commands), help="see COMMAND --help")
    parser.parse_args(words[:1])
    return 2


def monitor_main() -> int:
    """``ovs-monitor-ipsec``: the agent under the original's name."""
    return main(["agent", *sys.argv[1:]])


def _agent(argv: Sequence[str]) -> int:
    _name_process()
    settings, flags = parse_agent_arguments(
        argv, prog=PROGRAM, add_more=(ovs.vlog.add_args, ovs.daemon.add_args)
    )
    ovs.vlog.handle_args(flags)
    ovs.daemon.handle_args(flags)
    keep_rows_out_of_the_log()
    _set_up_log(settings, detach=bool(flags.detach))
    # The parent of --detach returns 0 when the guard stands, queries are answered, and what
    # OVSDB has at this moment has been acted on.
    ovs.daemon.daemonize_start()
    try:
        agent = _build_agent(settings)
    except OvnIpsecError:
        _close_guard(settings)  # an agent that cannot run is no reason to go in clear
        raise
    agent.close_guard()
    if settings.ike_daemon is IkeDaemon.STRONGSWAN:
        raise SettingsError(
            "--ike-daemon=strongswan: only libreswan is driven; install libreswan and pass "
            "--ike-daemon=libreswan (the packaged unit of openvswitch-ipsec passes strongswan: "
            "use ovn-ipsec's own unit). The guard is in place."
        )
    server = _serve(agent)
    followers: list[ProbeServer | RowStatus] = [*_serve_probes(agent, settings)]
    if settings.report_status:
        rows = RowStatus(settings.database, agent.snapshot)
        rows.start()
        followers.append(rows)
    try:
        agent.run(ready=ovs.daemon.daemonize_complete)
    finally:
        server.close()
        for each in followers:
            each.close()
    return 0


def _set_up_log(settings: Settings, *, detach: bool) -> None:
    logger = logging.getLogger(ovn_ipsec.__name__)
    logger.propagate = False
    # Without --log-file python-ovs's "file" has no handler, and logging's last resort would say
    # warnings on standard error a second time.
    logging.getLogger("file").addHandler(logging.NullHandler())
    if settings.log_format is LogFormat.TEXT:
        logger.addHandler(_VlogHandler())
        logger.setLevel(logging.DEBUG)  # python-ovs decides what is written; vlog/set changes it
        return
    if detach:
        raise SettingsError(
            "--log-format=json goes to standard error, which --detach closes; run the agent in "
            "the foreground, as a service manager does"
        )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    # python-ovs's own lines are no JSON; they go to --log-file.
    ovs.vlog.Vlog.set_level("any", "console", "off")


def _serve_probes(agent: Agent, settings: Settings) -> list[ProbeServer]:
    probes = Probes(agent, settings.ready, settings.command_timeout_s)
    servers: list[ProbeServer] = []
    if (at := settings.http) is not None:
        with _listening("--http", at):
            servers.append(ProbeServer(at.address, at.port, probes))
    if (at := settings.status_tls) is not None:
        with _listening("--status-tls", at):
            servers.append(TlsProbeServer(at.address, at.port, probes, agent.node_files))
    return servers


@contextmanager
def _listening(flag: str, at: HttpAddress) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OvnIpsecError(
            f"{flag} {at.address}:{at.port}: cannot listen: {error.strerror or error}; is "
            "another agent running, or the port in use?"
        ) from error


def _serve(agent: Agent) -> ControlServer:
    path = control_socket_path(PROGRAM)
    try:
        server = serve_control(path, agent, program=PROGRAM)
    except OSError as error:
        raise OvnIpsecError(
            f"{path}: the control socket cannot be made: {error.strerror or error}; check that "
            "the directory is there (Open vSwitch makes it) and can be written"
        ) from error
    # SIGTERM ends the process where it stands.
    ovs.fatal_signal.add_file_to_unlink(str(path))
    return server


def _close_guard(settings: Settings) -> None:
    driver = Nftables()
    guard = first_guard(driver, GuardMode(settings.guard_on_unknown), settings.guard_ports)
    for outcome in driver.apply([SetGuard(guard)]):
        if outcome.error is not None:
            _log.error("%s", outcome.error)


def _build_agent(settings: Settings) -> Agent:
    paths = LibreswanPaths.from_flags(
        settings.root_prefix,
        ipsec_conf=settings.ipsec_conf,
        root_ipsec_conf=settings.root_ipsec_conf,
        ipsec_secrets=settings.ipsec_secrets,
        ipsec_d=settings.ipsec_d,
        ipsec_ctl=settings.ipsec_ctl,
    )
    guard_events = GuardEvents([TABLE, HELD_TABLE])
    pulse = Pulse()
    ike = Libreswan(paths, command_timeout_s=settings.command_timeout_s, progress=pulse.beat)
    return Agent(
        Parts(
            ovsdb=OvsdbSource(settings.database),
            certificates=CertificateFiles(),
            addresses=LocalAddresses(),
            kernel_events=KernelEvents(),
            ike=ike,
            log=PlutoLog(ike.log_file),
            nss=Nss(
                wall_clock,
                paths.nss_dir,
                (str(paths.libexec_dir / "whack"), "--ctlsocket", str(paths.ctl)),
            ),
            guard=Nftables(events=guard_events, held=_held_table()),
            guard_events=guard_events,
        ),
        Policy(
            guard_mode=settings.guard_mode,
            guard_follow=settings.guard_follow,
            guard_ports=settings.guard_ports,
            allow_plain=settings.allow_plain,
            use_default_crypto=settings.use_default_crypto,
            allow_hw_offload=settings.allow_hw_offload,
        ),
        may_start_ike=settings.restart_ike_daemon,
        guard_on_unknown=GuardMode(settings.guard_on_unknown),
        pulse=pulse,
    )


def _held_table() -> HeldTable | None:
    try:
        return HeldTable()
    except DriverError as error:
        _log.warning("The guard stands once, not twice: %s", error)
        return None


def _guard(argv: Sequence[str]) -> int:
    """``ovn-ipsec guard apply|show|remove``: what an agent does to the table, without one."""
    action, on_unknown, ports = parse_guard_arguments(argv)
    driver = Nftables()
    if action == "remove":
        driver.remove()
        return 0
    if action == "apply":
        guard = first_guard(driver, GuardMode(on_unknown), ports)
        (outcome,) = driver.apply([SetGuard(guard)])
        if outcome.error is not None:
            raise DriverError(outcome.error)
    counters = driver.counters()
    observed = driver.observe()
    print(render_guard(driver.live_guard(), replace(observed, counters=counters)), end="")
    return 0 if observed.present and observed.intact else 1


def _status(argv: Sequence[str]) -> int:
    """``ovn-ipsec status``: 0 all encrypted, 3 not all, 4 no agent answers."""
    rundir = Path(os.environ.get("OVS_RUNDIR") or DEFAULT_RUNDIR)
    return run_status(argv, rundir, PROGRAM, sys.stdout)


def _verify(argv: Sequence[str]) -> int:
    """``ovn-ipsec verify``: 0 every check passed, 3 one failed, 4 no agent answers."""
    rundir = Path(os.environ.get("OVS_RUNDIR") or DEFAULT_RUNDIR)
    return run_verify(argv, rundir, PROGRAM, sys.stdout)


def _web(argv: Sequence[str]) -> int:
    """``ovn-ipsec web``: with ``--once`` 0 all encrypted, 3 not all, 4 no node answers."""
    settings = parse_web_arguments(argv)
    if settings.once:
        return run_web_once(settings, wall_clock, sys.stdout)
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run_web(settings, wall_clock, stop)
    return 0


def _support_bundle(argv: Sequence[str]) -> int:
    """``ovn-ipsec support-bundle``: one archive, without secrets."""
    flags = bundle_parser().parse_args(argv)
    default = f"ovn-ipsec-support-{wall_clock():%Y%m%dT%H%M%SZ}.tar.gz"
    target = Path(flags.output or default)
    rundir = Path(os.environ.get("OVS_RUNDIR") or DEFAULT_RUNDIR)
    for line in write_bundle(target, Surroundings(rundir=rundir, program=PROGRAM)):
        print(f"not in the bundle: {line}", file=sys.stderr)
    print(target)
    return 0


def _enroll(argv: Sequence[str]) -> int:
    """``ovn-ipsec enroll``: 0 well, 1 without identity, 3 with one whose renewal is overdue."""
    settings = parse_enroll_arguments(argv)
    keep_rows_out_of_the_log()
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if settings.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    stop, news = threading.Event(), threading.Event()

    def end(*_: object) -> None:
        stop.set()
        news.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)

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
            run(enrolment, wall_clock, wait)
            return 0
        decision = run_once(enrolment, wall_clock, wait, settings.timeout_s)
    finally:
        generations.close()
    if not decision.in_place:
        raise EnrolmentError(decision.reason)
    return 3 if decision.level is Level.ALARM else 0


def _cluster(argv: Sequence[str]) -> int:
    """``ovn-ipsec cluster``: 0 done or in order, 2 not (yet)."""
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


def _unix_time() -> float:
    return wall_clock().timestamp()


def _follow(settings: FollowSettings) -> int:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    switch = LocalSwitch(settings.database)
    follower = Follower(switch, settings.sb, settings.agent, _unix_time)
    follower.follow(stop.wait, random.SystemRandom().random)
    return 0


def _render(argv: Sequence[str]) -> int:
    """``ovn-ipsec render``: what is wrong with the manifest, or how to go on, in lines."""
    try:
        # Needs the YAML library, which the agent does without.
        from ovn_ipsec.render.command import parse_render_arguments, render
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"render: {error.name} is not installed; pip install 'ovn-ipsec[render]'"
        ) from error
    for line in render(parse_render_arguments(argv)):
        print(line)
    return 0


def _name_process() -> None:
    """python-ovs names files after argv[0], and from PyPI it looks below /usr/local."""
    ovs.util.PROGRAM_NAME = PROGRAM
    ovs.dirs.RUNDIR = os.environ.get("OVS_RUNDIR", "/var/run/openvswitch")
    ovs.dirs.LOGDIR = os.environ.get("OVS_LOGDIR", "/var/log/openvswitch")


def keep_rows_out_of_the_log() -> None:
    """At debug level python-ovs logs whole messages: rows, and in them ``options:psk``."""
    ovs.jsonrpc.vlog.dbg = lambda message, **more: None
    ovs.jsonrpc.vlog.dbg_is_enabled = lambda: False


class _VlogHandler(logging.Handler):
    """Sends Python's log records to python-ovs, whose flags and vlog/* commands rule the log."""

    def emit(self, record: logging.LogRecord) -> None:
        # Names of rows are data: no newline in one may forge a line of the log.
        message = "".join(
            char if char.isprintable() else char.encode("unicode_escape").decode()
            for char in self.format(record)
        )
        if record.levelno >= logging.ERROR:
            _VLOG.err(message)
        elif record.levelno >= logging.WARNING:
            _VLOG.warn(message)
        elif record.levelno >= logging.INFO:
            _VLOG.info(message)
        else:
            _VLOG.dbg(message)


if __name__ == "__main__":
    sys.exit(main())
