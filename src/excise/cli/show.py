"""What people see: results on standard output, progress with time left on standard error."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from excise.cli.printable import printable
from excise.cli.wrapping import wrapped
from excise.train.hooks import Hooks


def console(*, quiet: bool) -> Console:
    """Give the console for results; silent with `--quiet`."""
    return Console(quiet=quiet, highlight=False)


def say(to: Console, text: str) -> None:
    """Print sentences: broken between words on a terminal, as they are elsewhere."""
    text = printable(text)
    to.print(wrapped(text, to.width) if to.is_terminal else text, markup=False, soft_wrap=True)


def cell(text: str) -> Text:
    """Give a name for a table or a bar: shown as it is, brackets and all."""
    return Text(printable(text))


class Stages(Hooks):
    """Names each stage by what it is a part of, where that was said."""

    def __init__(self) -> None:
        self._part = ""

    def on_part(self, name: str) -> None:
        """Keep the words for the stages that follow."""
        self._part = f"{name}, "

    def title(self, name: str) -> str:
        """Give a stage's line."""
        return self._part + name


class Bars(Stages):
    """One bar for the stage; above it one over everything, where the total is known."""

    def __init__(self, progress: Progress, total: int | None, label: str) -> None:
        super().__init__()
        self._progress = progress
        self._whole = progress.add_task(label, total=total) if total else None
        self._indent = "  " if total else ""
        self._stage = progress.add_task("", total=None, visible=False)

    def on_note(self, text: str) -> None:
        """Write the sentence above the bars."""
        say(self._progress.console, text)

    def on_stage(self, name: str, num_steps: int) -> None:
        """Show the stage."""
        title = printable(self._indent + self.title(name))
        self._progress.reset(self._stage, description=title, total=num_steps, visible=True)

    def on_step(self) -> None:
        """Move both bars."""
        self._progress.advance(self._stage)
        if self._whole is not None:
            self._progress.advance(self._whole)

    def on_stage_end(self, name: str) -> None:
        """Hide the stage."""
        self._progress.update(self._stage, visible=False)


class Lines(Stages):
    """Progress where there is no terminal: one line as each stage begins."""

    def __init__(self, to: Console) -> None:
        super().__init__()
        self._to = to
        self._started = time.perf_counter()

    def on_note(self, text: str) -> None:
        """Write the sentence."""
        say(self._to, text)

    def on_stage(self, name: str, num_steps: int) -> None:
        """Write a line."""
        seconds = time.perf_counter() - self._started
        say(self._to, f"[{seconds:6.1f} s] {self.title(name)} ({num_steps} steps)")


@contextmanager
def progress(*, quiet: bool, total: int | None = None, label: str = "") -> Iterator[Hooks]:
    """Show progress for the block: bars on a terminal, lines elsewhere, nothing when quiet."""
    to = Console(stderr=True, highlight=False)
    if quiet:
        yield Hooks()
    elif not to.is_terminal:
        yield Lines(to)
    else:
        columns = (
            TextColumn(
                "{task.description}", markup=False, table_column=Column(width=38 if total else 14, no_wrap=True)
            ),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
        )
        with Progress(*columns, console=to, transient=True) as bars:
            yield Bars(bars, total, label)


def plain_table(first: str, *others: str) -> Table:
    """Give a table without lines; all columns but the first stand to the right."""
    right = (Column(header, justify="right", no_wrap=True) for header in others)
    return Table(Column(first, overflow="fold"), *right, box=None, pad_edge=False, padding=(0, 2, 0, 0))


def percent(value: float | None, digits: int = 1) -> str:
    """Give a fraction as a percentage, or a dash."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


PARTS = ("forget", "retain", "test")


def story_table(title: str, found: Mapping[str, Any]) -> Table:
    """Give the demo's table of one split, oracles first; fits 80 columns."""
    table = plain_table("accuracy % (gap)", *PARTS, "attack", "seconds", "cost")
    table.title, table.title_justify, table.title_style = cell(title), "left", "bold"
    first = found["rows"][0]
    means = first["oracle_mean"]
    table.add_row(
        f"{found['num_oracles']} oracles",
        *(f"{percent(means[part])} ±{percent(first['band'][part][1] - means[part])}" for part in PARTS),
        percent(first["attack_oracles"]),
        f"{found['oracle_seconds']:.2f}",
        "100 %",
        style="dim",
    )
    for row in found["rows"]:
        share = "–" if row["retraining_share"] is None else f"{100 * row['retraining_share']:.0f} %"
        cells = [_marked(row, part) for part in PARTS]
        table.add_row(cell(row["recipe"]), *cells, percent(row["attack"]), f"{row['seconds']:.2f}", share)
    return table


def _marked(row: Mapping[str, Any], part: str) -> str:
    low, high = row["band"][part]
    value = row[f"{part}_accuracy"]
    text = f"{percent(value)} {100 * row['gap'][part]:+5.1f}"
    return f"[green]{text}[/green]" if low <= value <= high else text


def accuracy_table(accuracy: Mapping[str, Mapping[str, float]]) -> Table:
    """Give accuracies before, after, and of networks that never saw the rows."""
    table = plain_table("accuracy %", *PARTS)
    for name, values in accuracy.items():
        table.add_row(cell(name), *(percent(values[part]) for part in PARTS))
    return table


def measures_table(title: str, measures: Sequence[Mapping[str, Any]]) -> Table:
    """Give some of an audit's measures; fits 80 columns."""
    table = plain_table(title, "value", "95% interval", "oracles' band", "p")
    table.padding = (0, 1, 0, 0)
    for one in measures:
        table.add_row(
            cell(one["name"].replace("recalibrated_forget_accuracy", "recalibrated_forget")),
            f"{one['value']:+.2g}",
            f"{one['low']:+.2g} … {one['high']:+.2g}",
            f"{one['null_low']:+.2g} … {one['null_high']:+.2g}",
            f"{one['p']:.1g}",
        )
    return table


def modules_table(fractions: Mapping[str, float]) -> Table:
    """Give the share of each module that was chosen, those without any left out; fits 80 columns."""
    table = plain_table("module", "chosen %")
    table.add_column(no_wrap=True)
    for name, fraction in fractions.items():
        if fraction > 0:
            table.add_row(cell(name), percent(fraction), "█" * round(30 * fraction))
    return table
