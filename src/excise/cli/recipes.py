"""`excise recipes`."""

from __future__ import annotations

import textwrap
from typing import Any

from excise.cli import offers, show
from excise.cli.places import NAMES
from excise.recipes import RECIPES


def run(*, quiet: bool) -> tuple[list[dict[str, Any]], int]:
    """Print the recipes, ours and those of other packages."""
    to = show.console(quiet=quiet)
    rows = offers.rows()
    for row in rows:
        origin = "" if row["from"] == "excise" else f" [from {row['from']}]"
        show.say(to, f"{row['name']}: {row['paper']} {row['year'] or ''}".rstrip() + origin)
        settings = " ".join(f"{key}={value}" for key, value in row["defaults"].items())
        for what, words in (("where", row["mask"]), ("how", row["method"]), ("--set", settings)):
            if words:
                show.say(to, textwrap.fill(f"  {what:5}  {words}", to.width, subsequent_indent=" " * 9))
        to.print()
    for clash in (*offers.clashes(offers.HOW, RECIPES), *offers.clashes(offers.WHERE, NAMES)):
        show.say(to, f"Note: {clash}.")
    show.say(to, "The values shown are the defaults; each takes another with `excise unlearn --set key=value`.")
    return rows, 0
