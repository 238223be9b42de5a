"""What people see: progress with time left, and tables. Everything goes to standard error, the JSON to standard output."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from excise.train.hooks import Hooks


def console(*, quiet: bool, json: bool) -> Console:
    """Give the console for people: standard error beside JSON, else standard output; silent with `--quiet`."""
    return Console(stderr=json, quiet=quiet, highlight=False)


def emit(value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write one JSON value on standard output."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


class Bars(Hooks):
    """Progress of stages, one bar each; or one bar over everything where the total is known."""

    def __init__(self, progress: Progress, total: int | None, label: str) -> None:
        self._progress = progress
        self._whole = progress.add_task(label, total=total) if total else None
        self._stage = progress.add_task("", total=None, visible=False)

    def on_stage(self, name: str, num_steps: int) -> None:
        """Show the stage."""
        self._progress.reset(self._stage, description=f"  {name}", total=num_steps, visible=True)

    def on_step(self) -> None:
        """Move both bars."""
        self._progress.advance(self._stage)
        if self._whole is not None:
            self._progress.advance(self._whole)

    def on_note(self, text: str) -> None:
        """Put the words on the stage's line."""
        self._progress.update(self._stage, description=f"  {text}")

    def on_stage_end(self, name: str) -> None:
        """Hide the stage."""
        self._progress.update(self._stage, visible=False)


class Lines(Hooks):
    """Progress where there is no terminal: one line as each kind of stage begins."""

    def __init__(self, to: Console) -> None:
        self._to = to
        self._started = time.perf_counter()

    def on_stage(self, name: str, num_steps: int) -> None:
        """Write a line."""
        self._to.print(f"[{time.perf_counter() - self._started:6.1f} s] {name}, {num_steps} steps", markup=False)


@contextmanager
def progress(to: Console, *, total: int | None = None, label: str = "") -> Iterator[Hooks]:
    """Show progress for the block: bars on a terminal, lines elsewhere, nothing when quiet."""
    if to.quiet:
        yield Hooks()
    elif not to.is_terminal:
        yield Lines(to)
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("elapsed"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=to, transient=True) as bars:
            yield Bars(bars, total, label)


def percent(value: float | None, digits: int = 1) -> str:
    """Give a fraction as a percentage, or a dash."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


PARTS = ("forget", "retain", "test")


def story_table(title: str, found: Mapping[str, Any]) -> Table:
    """Give the demo's table of one split, oracles first; fits 80 columns."""
    table = Table(title=title, title_justify="left", title_style="bold", pad_edge=False, box=None, padding=(0, 2, 0, 0))
    table.add_column("accuracy % (gap)", no_wrap=True)
    for column in (*PARTS, "attack", "seconds", "cost"):
        table.add_column(column, justify="right", no_wrap=True)
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
        table.add_row(row["recipe"], *cells, percent(row["attack"]), f"{row['seconds']:.2f}", share)
    return table


def _marked(row: Mapping[str, Any], part: str) -> str:
    low, high = row["band"][part]
    value = row[f"{part}_accuracy"]
    text = f"{percent(value)} {100 * row['gap'][part]:+5.1f}"
    return f"[green]{text}[/green]" if low <= value <= high else text


def measures_table(measures: Sequence[Mapping[str, Any]]) -> Table:
    """Give an audit's measures; fits 80 columns."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("gap to the oracles", no_wrap=True)
    for column in ("value", "95% interval", "an oracle's", "p", "detectable"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in measures:
        table.add_row(
            one["name"],
            f"{one['value']:+.3g}",
            f"{one['low']:+.3g} … {one['high']:+.3g}",
            f"±{one['null_high']:.2g}",
            f"{one['p']:.1g}",
            f"{one['least_detectable']:.2g}",
        )
    return table
