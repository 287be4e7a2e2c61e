"""The exception tree. Every message names what failed, on which object, and what to check."""

from __future__ import annotations


class OvnIpsecError(Exception):
    """Anything this program raises on purpose."""


class SettingsError(OvnIpsecError):
    """The command line or configuration is wrong; the message lists every violation at once."""


class SourceError(OvnIpsecError):
    """A source (OVSDB, certificate files) cannot be read now."""


class DriverError(OvnIpsecError):
    """A program or kernel interface that a driver acts on failed."""


class CommandError(DriverError):
    """A child process failed, could not be started, or took too long."""


class CommandTimeoutError(CommandError):
    """A child process took too long and was ended."""


class ObservationError(DriverError):
    """The state of a driver's target could not be read; it is unknown, never empty."""


class EnrolmentError(OvnIpsecError):
    """A step of getting, checking or installing the node's identity failed; it is tried again."""


class ClusterError(OvnIpsecError):
    """A step of a roll-out over the whole cluster failed, or cannot be judged."""


class BusyError(EnrolmentError):
    """The authority asks to come again later."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UntrustedError(EnrolmentError):
    """TLS with the authority failed: one end does not accept what the other one shows."""


class RefusedError(EnrolmentError):
    """The authority denied the request; asking again with the same request cannot help."""


class RenderError(OvnIpsecError):
    """The cluster network manifest cannot be used; one line for each problem, with its place."""
