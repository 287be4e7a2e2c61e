"""How the parts of a row's judgement say that the row cannot be had."""

from __future__ import annotations


class Invalid(Exception):
    """This row alone is INVALID; the text says why and what to do. Never leaves ``desired``."""
