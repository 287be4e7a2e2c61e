"""``ovn-ipsec agent DATABASE``: the node agent, also installed as ovs-monitor-ipsec."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import ovs.daemon
import ovs.dirs
import ovs.fatal_signal
import ovs.util
import ovs.vlog

from ovn_ipsec.agent.clock import wall_clock
from ovn_ipsec.agent.first_guard import first_guard
from ovn_ipsec.agent.node import Agent, Parts
from ovn_ipsec.agent.pulse import Pulse
from ovn_ipsec.agent.row_status import RowStatus
from ovn_ipsec.commands.log import keep_rows_out_of_the_log, set_up_agent_log
from ovn_ipsec.desired.build import Policy
from ovn_ipsec.drivers.libreswan import Libreswan
from ovn_ipsec.drivers.libreswan_files import LibreswanPaths
from ovn_ipsec.drivers.nftables import Nftables
from ovn_ipsec.drivers.nftables_events import GuardEvents
from ovn_ipsec.drivers.nftables_held import HeldTable
from ovn_ipsec.drivers.nftables_rules import HELD_TABLE, TABLE
from ovn_ipsec.drivers.nss import Nss
from ovn_ipsec.drivers.pluto_log import PlutoLog
from ovn_ipsec.errors import DriverError, OvnIpsecError, SettingsError
from ovn_ipsec.model.conns import GuardMode
from ovn_ipsec.model.steps import SetGuard
from ovn_ipsec.settings import IkeDaemon, Settings, parse_agent_arguments
from ovn_ipsec.sources.addresses import LocalAddresses
from ovn_ipsec.sources.certificates import CertificateFiles
from ovn_ipsec.sources.kernel_events import KernelEvents
from ovn_ipsec.sources.ovsdb import OvsdbSource
from ovn_ipsec.status.listener import Listener
from ovn_ipsec.status.probes import Probes, ProbeServer
from ovn_ipsec.status.serve import PROGRAM, control_socket_path, serve_control
from ovn_ipsec.status.tls import TlsProbeServer
from ovn_ipsec.status.unixctl import ControlServer

_log = logging.getLogger(__name__)

# malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGE_BYTES = 128 * 1024


def run(argv: Sequence[str]) -> int:
    """Until a signal ends it; with ``--detach`` 0 once the daemon acts."""
    _name_process()
    _keep_heap_small()
    settings, flags = parse_agent_arguments(
        argv, prog=PROGRAM, add_more=(ovs.vlog.add_args, ovs.daemon.add_args)
    )
    ovs.vlog.handle_args(flags)
    ovs.daemon.handle_args(flags)
    keep_rows_out_of_the_log()
    set_up_agent_log(settings, detach=bool(flags.detach))
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
    server = serve_queries(agent)
    listeners = serve_probes(agent, settings)
    followers: list[Listener | RowStatus] = [*listeners]
    if settings.report_status:
        rows = RowStatus(settings.database, agent.snapshot)
        rows.start()
        followers.append(rows)
    try:
        agent.run(
            ready=ovs.daemon.daemonize_complete,
            notices=lambda: tuple(each.problem for each in listeners if each.problem),
        )
    finally:
        server.close()
        for each in followers:
            each.close()
    return 0


def serve_probes(agent: Agent, settings: Settings) -> list[Listener]:
    """The HTTP endpoints that the settings ask for, listening as soon as they can."""
    probes = Probes(agent, settings.ready, settings.command_timeout_s)
    listeners: list[Listener] = []
    if (http := settings.http) is not None:
        name = f"--http {http.address}:{http.port}"
        listeners.append(Listener(name, lambda: ProbeServer(http.address, http.port, probes)))
    if (tls := settings.status_tls) is not None:
        name = f"--status-tls {tls.address}:{tls.port}"
        listeners.append(
            Listener(name, lambda: TlsProbeServer(tls.address, tls.port, probes, agent.node_files))
        )
    return listeners


def serve_queries(agent: Agent) -> ControlServer:
    """The control socket, answering.

    Raises:
        OvnIpsecError: it cannot be made.
    """
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
    driver = Nftables(Path(settings.guard_file))
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
            guard=Nftables(Path(settings.guard_file), events=guard_events, held=_held_table()),
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


def _keep_heap_small() -> None:
    """Have glibc give large blocks back at once (mallopt(3)).

    It would learn from the first large reply of pluto to keep such blocks in the heap, where
    whatever is allocated behind one holds it: 3 MB more with 300 tunnels. A heap for each thread
    would be as wasteful.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # not in musl
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_ARENA_MAX, 1)


def _name_process() -> None:
    """python-ovs names files after argv[0], and from PyPI it looks below /usr/local."""
    ovs.util.PROGRAM_NAME = PROGRAM
    ovs.dirs.RUNDIR = os.environ.get("OVS_RUNDIR", "/var/run/openvswitch")
    ovs.dirs.LOGDIR = os.environ.get("OVS_LOGDIR", "/var/log/openvswitch")
