"""Where the commands' log lines go: python-ovs's log, JSON lines, or standard error."""

from __future__ import annotations

import logging
import sys

import ovs.jsonrpc
import ovs.vlog

import ovn_ipsec
from ovn_ipsec.agent.json_log import JsonFormatter
from ovn_ipsec.errors import SettingsError
from ovn_ipsec.settings import LogFormat, Settings
from ovn_ipsec.status.serve import PROGRAM

_VLOG = ovs.vlog.Vlog(PROGRAM)
"""Made at import: python-ovs takes no further modules once its flags have been handled."""


def log_to_standard_error(*, verbose: bool = False) -> None:
    """For the commands that run under a service manager without being the agent."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )


def set_up_agent_log(settings: Settings, *, detach: bool) -> None:
    """To python-ovs, as ``ovs-monitor-ipsec`` logs, or as JSON lines to standard error.

    Raises:
        SettingsError: JSON lines together with ``--detach``.
    """
    logger = logging.getLogger(ovn_ipsec.__name__)
    logger.propagate = False
    _turn_off_what_is_written_nowhere()
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


def _turn_off_what_is_written_nowhere() -> None:
    """python-ovs puts a line together for every destination, also without --log-file or syslog.

    That takes most of its time, and with hundreds of new tunnels there are as many lines.
    """
    for destination in ("file", "syslog"):
        logger = logging.getLogger(destination)
        if logger.disabled or not logger.handlers:
            ovs.vlog.Vlog.set_level("any", destination, "off")


def keep_rows_out_of_the_log() -> None:
    """At debug level python-ovs logs whole messages: rows, and in them ``options:psk``."""
    ovs.jsonrpc.vlog.dbg = lambda message, **more: None
    ovs.jsonrpc.vlog.dbg_is_enabled = lambda: False


class _VlogHandler(logging.Handler):
    """Sends Python's log records to python-ovs, whose flags and vlog/* commands rule the log."""

    def emit(self, record: logging.LogRecord) -> None:
        # Names of rows are data: no newline in one may forge a line of the log.
        message = self.format(record)
        if not message.isprintable():
            message = "".join(
                char if char.isprintable() else char.encode("unicode_escape").decode()
                for char in message
            )
        if record.levelno >= logging.ERROR:
            _VLOG.err(message)
        elif record.levelno >= logging.WARNING:
            _VLOG.warn(message)
        elif record.levelno >= logging.INFO:
            _VLOG.info(message)
        else:
            _VLOG.dbg(message)
