"""`excise doctor`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from torch.utils.data import DataLoader

from excise import errors
from excise.cli import show, tables
from excise.diagnosis import Finding, doctor
from excise.diagnosis.findings import SEVERITIES, counted
from excise.store.values import MAX_TEXT_BYTES, read_array, read_content

STYLES = {"error": "bold red", "warning": "bold yellow", "note": "dim"}


def run(
    *,
    model: str,
    weights: Path,
    data: str,
    forget: Path,
    test: str | None,
    groups: Path | None,
    loader: str | None,
    data_root: Path | None,
    seed: int,
    device: str,
    quiet: bool,
) -> tuple[list[dict[str, Any]], int]:
    """Examine network and rows; nothing is written."""
    to = show.console(quiet=quiet)
    problem = tables.read_problem(
        model=model, weights=weights, data=data, forget=forget, device=device, test=test, data_root=data_root
    )
    values = None if groups is None else read_groups(groups)
    given = None if loader is None else read_loader(loader)
    with show.progress(quiet=quiet) as hooks:
        found = doctor(problem.model, problem.split, groups=values, loader=given, hooks=hooks, seed=seed)
    _tell(to, found)
    refused = any(one.severity == "error" for one in found)
    return [dataclasses.asdict(one) for one in found], errors.Refused.exit_code if refused else 0


def read_groups(path: Path) -> list[Any]:
    """Read one value a row: the lines of a text file, or a `.npy` array of numbers or texts.

    Raises:
        errors.BadRequest: no such file, or none that can be read.
    """
    try:
        if path.suffix == ".npy":
            return list(read_array(path).tolist())
        return [line.strip() for line in read_content(path, MAX_TEXT_BYTES).decode("utf-8-sig").splitlines()]
    except (errors.BadData, UnicodeDecodeError, TypeError) as error:
        raise errors.BadRequest(
            f"--groups: {path} cannot be read: {error}; give a text file with one value a line, or a .npy array"
        ) from error


def read_loader(words: str) -> DataLoader[Any]:
    """Give the loader that `pkg.mod:name` names, or that it gives when called.

    Raises:
        errors.BadRequest: it names none, or the user's own code fails.
    """
    found = tables.import_object(words, "--loader")
    if not isinstance(found, DataLoader) and callable(found):
        try:
            found = found()
        except (errors.ExciseError, MemoryError):
            raise
        except (Exception, SystemExit) as error:
            raise errors.BadRequest(
                f"--loader: {words}() raised {type(error).__name__}: {error}; correct it there (--debug shows where)"
            ) from error
    if not isinstance(found, DataLoader):
        raise errors.BadRequest(
            f"--loader: expected {words} to be a torch.utils.data.DataLoader or to give one, found {type(found).__name__}"
        )
    return found


def _tell(to: Console, found: list[Finding]) -> None:
    if found:
        to.print(_table(found))
    numbers = Counter(one.severity for one in found)
    words = ", ".join(counted(numbers[each], each) for each in SEVERITIES if numbers[each])
    show.say(to, f"{words}." if words else "Nothing to mend.")


def _table(found: list[Finding]) -> Table:
    """Give one row a finding: what, where and the remedy below one another; fits 80 columns."""
    columns = (Column("severity", no_wrap=True), Column("finding", overflow="fold"))
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 1, 0))
    for one in found:
        what, where, remedy = (show.cell(text) for text in (one.what, one.where, one.remedy))
        lines = Text.assemble(what, "\n", ("where   ", "bold"), where, "\n", ("remedy  ", "bold"), remedy)
        table.add_row(Text(one.severity, style=STYLES[one.severity]), lines)
    return table
