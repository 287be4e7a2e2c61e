"""When certificates begin, end and are renewed. Pure.

The renewal rule is the node's, too; it reads everything from the certificate::

    life   = notAfter - notBefore
    share  = 0.9 when life is a year or more, else 2/3
    jitter = (first 8 bytes of SHA-256 of the certificate's DER, big endian) / 2**64
    renew at notBefore + life * (share - 0.05 * jitter)
"""

from __future__ import annotations

from datetime import datetime, timedelta

BACKDATED = timedelta(minutes=5)
"""For clocks that are behind. At most a tenth of the life: seconds of life stay seconds."""
YEAR = timedelta(days=365)
_SHARE_OF_YEARS = 0.9
_SHARE_OF_LESS = 2 / 3
_JITTER_SHARE = 0.05


def validity(
    now: datetime, life: timedelta, within: tuple[datetime, datetime] | None = None
) -> tuple[datetime, datetime]:
    """``notBefore`` and ``notAfter``, never outside ``within``, the issuer's own.

    X.509 counts whole seconds.
    """
    start = (now - min(BACKDATED, life / 10)).replace(microsecond=0)
    end = (now + life).replace(microsecond=0)
    if within is None:
        return start, end
    return max(start, within[0]), min(end, within[1])


def renewal_moment(not_before: datetime, not_after: datetime, jitter: float = 1.0) -> datetime:
    """When a node asks for the next certificate; with jitter 1 the earliest such moment."""
    life = not_after - not_before
    share = _SHARE_OF_YEARS if life >= YEAR else _SHARE_OF_LESS
    return not_before + life * (share - _JITTER_SHARE * jitter)
