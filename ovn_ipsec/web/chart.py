"""Bars over time as SVG within the page. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ovn_ipsec.web.history import SLOT_S

_BAR, _HEIGHT = 6, 80


def draw(bars: Sequence[int], what: str) -> str:
    """An image of the bars, with the same in words for whoever cannot see it."""
    most, total = max(bars, default=0), sum(bars)
    minutes = len(bars) * SLOT_S // 60
    words = f"{what}, in the last {minutes} minutes: {total} in all"
    if most:
        ago = [number for number, count in enumerate(reversed(bars)) if count]
        words += f", at most {most} a minute; last {ago[0] * SLOT_S // 60} minutes ago"
    width = _BAR * len(bars)
    shapes = []
    for number, count in enumerate(bars):
        # The least bar can be seen: one packet in clear beside a thousand is one too many.
        tall = max(2, round(count * _HEIGHT / most)) if count else 0
        if tall:
            shapes.append(
                f'<rect x="{number * _BAR}" y="{_HEIGHT - tall}" width="{_BAR - 1}" '
                f'height="{tall}"/>'
            )
    return (
        f"<figure><figcaption>{escape(words)}</figcaption>"
        f'<svg role="img" aria-label="{escape(words)}" width="{width}" height="{_HEIGHT + 2}" '
        f'viewBox="0 0 {width} {_HEIGHT + 2}">{"".join(shapes)}'
        f'<path d="M0 {_HEIGHT + 1}H{width}" fill="none"/></svg></figure>'
    )
