"""`excise recipes`."""

from __future__ import annotations

from rich.table import Table

from excise.cli import show
from excise.recipes import table


def run(*, json: bool, quiet: bool) -> int:
    """Print the recipes."""
    to = show.console(quiet=quiet, json=json)
    rows = table()
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("recipe", "year", "where", "how", "defaults"):
        shown.add_column(column)
    for row in rows:
        defaults = ", ".join(f"{key}={value}" for key, value in row["defaults"].items())
        shown.add_row(row["name"], str(row["year"] or ""), row["mask"], row["method"], defaults)
    to.print(shown)
    if json:
        show.emit(rows)
    return 0
