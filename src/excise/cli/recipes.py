"""`excise recipes`."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from excise.cli import offers, show


def run(*, quiet: bool) -> tuple[list[dict[str, Any]], int]:
    """Print the recipes, ours and those of other packages."""
    to = show.console(quiet=quiet)
    rows = offers.rows()
    for row in rows:
        origin = "" if row["from"] == "excise" else f" [from {row['from']}]"
        show.say(to, f"{row['name']}: {row['paper']} {row['year'] or ''}".rstrip() + origin)
        shown = Table.grid(padding=(0, 2, 0, 0))
        shown.add_row("  where", row["mask"])
        shown.add_row("  how", row["method"])
        if row["defaults"]:
            shown.add_row("  --set", " ".join(f"{key}={value}" for key, value in row["defaults"].items()))
        to.print(shown, "")
    for clash in offers.clashes():
        show.say(to, f"Note: {clash}.")
    show.say(to, "The values shown are the defaults; each takes another with `excise unlearn --set key=value`.")
    return rows, 0
