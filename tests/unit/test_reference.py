"""Pages that are made from code say what the code says."""

from __future__ import annotations

from tools.reference import DOCS, render_options


def test_page_of_options_is_what_the_table_gives() -> None:
    page = (DOCS / "options.md").read_text()
    assert page == render_options(), "run python -m tools.reference"
