"""The authority's exception tree. Every message names what failed, on what, and the remedy."""

from __future__ import annotations


class CaError(Exception):
    """Anything the authority raises on purpose."""


class UsageError(CaError):
    """The command line or a setting is wrong; the message lists every violation at once."""


class StoreError(CaError):
    """The state directory cannot be used: missing, unreadable, unwritable, or inconsistent."""


class StoreLockedError(StoreError):
    """Another process holds the state directory; the message says which."""


class LogTamperedError(StoreError):
    """The issued log is not what was written: an entry was changed, moved or removed."""


class RolloverError(CaError):
    """A step of the CA's roll-over was asked for that may not be taken now."""
