"""The commands of the control socket. Answers come from the last snapshot, without waiting."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import ovs.unixctl
import ovs.version

import ovn_ipsec
from ovn_ipsec.model.snapshot import Snapshot
from ovn_ipsec.status import report
from ovn_ipsec.status.json_report import json_tunnels
from ovn_ipsec.status.unixctl import Call, Command, ControlServer

REFRESH_TIMEOUT_S = 60.0
_DEFAULT_RUNDIR = "/var/run/openvswitch"


class AgentControl(Protocol):
    """What the control socket may ask of the agent. Every method may be called by any thread."""

    def snapshot(self) -> Snapshot:
        """The last one, at once."""

    def want_fresh(self) -> None:
        """Somebody reads the state: take a newer snapshot soon. Returns at once."""

    def request_refresh(self, timeout_s: float) -> bool:
        """Wait for a tick that began after this call; False when it took too long."""

    def request_exit(self, cleanup: bool) -> None:
        """Leave the main loop soon; remove our connections first if ``cleanup``. At once."""


PROGRAM = "ovs-monitor-ipsec"
"""Name of socket, pidfile and log, whatever the file is called that was run (COMPAT)."""


def rundir() -> Path:
    """Open vSwitch's run directory, as ``ovs-appctl`` finds it.

    Not ``ovs.dirs.RUNDIR``: python-ovs from PyPI has /usr/local compiled in.
    """
    return Path(os.environ.get("OVS_RUNDIR") or _DEFAULT_RUNDIR)


def control_socket_path(program: str) -> Path:
    """Where ``ovs-appctl -t PROGRAM`` looks for the socket of this process."""
    return rundir() / f"{program}.{os.getpid()}.ctl"


def serve_control(
    path: Path,
    control: AgentControl,
    *,
    program: str,
    refresh_timeout_s: float = REFRESH_TIMEOUT_S,
) -> ControlServer:
    """Listen on ``path`` and answer in a thread of its own, until ``close()``.

    Call it after daemonizing and after python-ovs's ``vlog.handle_args``, which registers the
    ``vlog/*`` commands. Raises OSError when the socket cannot be made.
    """
    commands: dict[str, Command] = {}
    server = ControlServer(path, commands)
    answers = _Answers(control, server, refresh_timeout_s)
    commands |= {
        "tunnels/show": Command("[IFACE]", 0, 1, answers.tunnels),
        "ipsec/status": Command("", 0, 0, answers.of_ike(report.render_ipsec_status)),
        "xfrm/policies": Command("", 0, 0, answers.of_ike(report.render_xfrm_policies)),
        "xfrm/state": Command("", 0, 0, answers.of_ike(report.render_xfrm_states)),
        "refresh": Command("", 0, 0, answers.refresh),
        "exit": Command("[--no-cleanup]", 0, 1, answers.leave),
        "version": Command("", 0, 0, _version(program)),
        "set-options": Command("[--format text|json]", 1, 2, _set_options),
        **_vlog_commands(),
    }
    listing = _list_commands(commands)
    commands |= {"list-commands": Command("", 0, 0, listing), "help": Command("", 0, 0, listing)}
    server.start()
    return server


class _Answers:
    def __init__(
        self, control: AgentControl, server: ControlServer, refresh_timeout_s: float
    ) -> None:
        self._control = control
        self._server = server
        self._refresh_timeout_s = refresh_timeout_s
        self._texts = report.TunnelTexts()
        self._refreshing: list[Call] = []
        self._refresher_runs = False

    def _look(self) -> tuple[Snapshot, float]:
        self._control.want_fresh()
        return self._control.snapshot(), time.monotonic()

    def tunnels(self, call: Call, argv: list[str]) -> None:
        snapshot, now_s = self._look()
        name = argv[0] if argv else None
        if call.wants_json:
            value = json_tunnels(snapshot, now_s, name)
            if value is not None:
                call.reply_json(value)
                return
        text = report.render_tunnels(snapshot, now_s, name, self._texts)
        if text is None:
            call.reply_error(
                f"{name}: no such tunnel with an IPsec option; tunnels/show lists all"
            )
        else:
            call.reply(text)

    def of_ike(
        self, render: Callable[[Snapshot, float], str]
    ) -> Callable[[Call, list[str]], None]:
        """A command that must fail, not say "nothing", while nothing is known."""

        def answer(call: Call, argv: list[str]) -> None:
            snapshot, now_s = self._look()
            unknown = report.ike_unknown(snapshot)
            if unknown is None:
                call.reply(render(snapshot, now_s))
            else:
                call.reply_error(f"the state of the IKE daemon is unknown: {unknown}")

        return answer

    def refresh(self, call: Call, argv: list[str]) -> None:
        """Reply when a tick is done; a helper thread waits, one for all who ask meanwhile."""
        self._refreshing.append(call)
        self._wait_for_tick()

    def _wait_for_tick(self) -> None:
        if self._refresher_runs or not self._refreshing:
            return
        self._refresher_runs = True
        calls, self._refreshing = self._refreshing, []

        def wait() -> None:
            done = False
            try:
                done = self._control.request_refresh(self._refresh_timeout_s)
            finally:
                self._server.call_soon(lambda: self._refreshed(calls, done))

        threading.Thread(target=wait, name="refresh", daemon=True).start()

    def _refreshed(self, calls: list[Call], done: bool) -> None:
        self._refresher_runs = False
        for call in calls:
            if done:
                call.reply(None)
            else:
                call.reply_error(
                    f"refresh: not done within {self._refresh_timeout_s:g} s, it goes on; "
                    "tunnels/show tells what it waits for"
                )
        self._wait_for_tick()

    def leave(self, call: Call, argv: list[str]) -> None:
        if argv and argv != ["--no-cleanup"]:
            call.reply_error(f"unrecognized parameter: {argv[0]}")
            return
        call.reply(None)
        self._control.request_exit(cleanup=not argv)


def _version(program: str) -> Callable[[Call, list[str]], None]:
    # ovs-ctl takes the last word of the first line, and sends `exit` to 2.5.90 or later only.
    text = f"{program} (Open vSwitch) {ovs.version.VERSION}\novn-ipsec {ovn_ipsec.__version__}\n"

    def answer(call: Call, argv: list[str]) -> None:
        call.reply(text)

    return answer


def _set_options(call: Call, argv: list[str]) -> None:
    words = argv[0].split("=", 1) if len(argv) == 1 else argv
    if len(words) != 2 or words[0] != "--format" or words[1].lower() not in ("text", "json"):
        call.reply_error("set-options: give --format text or --format json")
        return
    call.set_json(words[1].lower() == "json")
    call.reply(None)


def _list_commands(commands: dict[str, Command]) -> Callable[[Call, list[str]], None]:
    def answer(call: Call, argv: list[str]) -> None:
        lines = ["The available commands are:"]
        for name in sorted(commands):
            lines.append(f"  {name:<23} {commands[name].usage}".rstrip())
        call.reply("\n".join(lines))

    return answer


def _vlog_commands() -> dict[str, Command]:
    """python-ovs's own commands for its log levels and log file."""

    def adapt(registered: Any) -> Command:
        def run(call: Call, argv: list[str]) -> None:
            registered.callback(call, argv, registered.aux)

        return Command(
            registered.usage,
            registered.min_args,
            min(registered.max_args, sys.maxsize),
            run,
        )

    return {
        name: adapt(registered)
        for name, registered in ovs.unixctl.commands.items()
        if name.startswith("vlog/")
    }
