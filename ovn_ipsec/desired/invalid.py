"""How the parts of a row's judgement say that the row cannot be had."""

from __future__ import annotations


class Invalid(Exception):
    """This row alone is INVALID; the text says why and what to do. Never leaves ``desired``."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
