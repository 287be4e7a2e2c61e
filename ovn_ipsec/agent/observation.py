"""Observing without lying: what cannot be read is unknown and says why, never empty."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ovn_ipsec.errors import DriverError
from ovn_ipsec.model.conns import Unobserved

T = TypeVar("T")


def read(observe: Callable[[], T]) -> T | Unobserved:
    """What ``observe`` returns; a DriverError becomes an error that is shown."""
    try:
        return observe()
    except DriverError as error:
        return Unobserved(str(error))
