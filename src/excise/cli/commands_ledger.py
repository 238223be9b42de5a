"""What can be typed after `excise ledger`: each command with its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from excise.cli import commands
from excise.cli.commands import Asked
from excise.cli.options import (
    AtOnce,
    Cluster,
    Config,
    Data,
    DataRoot,
    Debug,
    Device,
    Holdout,
    Json,
    Model,
    NoDevice,
    NoSeed,
    Plan,
    Quiet,
    Seed,
    Settings,
    Test,
    Weights,
)

ledger = typer.Typer(
    name="ledger",
    help="Keep requests to forget over a model's life: taken in, answered in batches, with receipts.",
    rich_markup_mode="markdown",
    no_args_is_help=True,
)
commands.app.add_typer(ledger)

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The ledger's directory.")]
Id = Annotated[str, typer.Argument(metavar="REQUEST", help="The id that `excise ledger request` gave.")]


def _asked(what: str, options: dict[str, Any]) -> Asked:
    return "ledger", {"what": what, **options}


@ledger.command("open")
def begin(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new directory.")],
    model: Model,
    weights: Weights,
    data: Data,
    test: Test = None,
    plan: Plan = None,
    holdout: Holdout = None,
    max_drop: Annotated[
        float, typer.Option(help="How far accuracy on the test rows may fall below that of these weights.")
    ] = 0.02,
    due_days: Annotated[int, typer.Option(min=1, max=3650, help="Days to answer a request.")] = 30,
    after: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The ledger before a retraining: what it has forgotten may not be back."),
    ] = None,
    data_root: DataRoot = None,
    seed: NoSeed = 0,
    device: Device = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """Begin a model's life: the digest of its weights, and of every row it was trained on, under a key."""
    return _asked("open", locals())


@ledger.command()
def request(
    directory: Directory,
    forget: Annotated[
        Path | None, typer.Option(help="Row ids to forget: a text file of integers, or a .npy of integers or booleans.")
    ] = None,
    records: Annotated[
        str | None, typer.Option(help="Instead of ids pkg.mod:rows, the records; each must be a training row exactly.")
    ] = None,
    reason: Annotated[str, typer.Option(help="erasure, mislabel or poison.")] = "erasure",
    due: Annotated[str | None, typer.Option(help="YYYY-MM-DD; the ledger's own number of days if left out.")] = None,
    seed: NoSeed = 0,
    device: NoDevice = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """Take a request to forget rows, at any time; give its id."""
    return _asked("request", locals())


@ledger.command()
def status(
    directory: Directory,
    seed: NoSeed = 0,
    device: NoDevice = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """Show requests with due dates, runs with verdicts, drift, and whether to retrain."""
    return _asked("status", locals())


@ledger.command()
def run(
    directory: Directory,
    recipe: Annotated[str, typer.Option(help="See `excise recipes`.")] = "DEL",
    settings: Settings = None,
    tier: Annotated[
        str | None, typer.Option(help="Of the audit: T0 trains nothing, T1 a few networks (if left out), T2 64 an arm.")
    ] = None,
    oracles: Annotated[int | None, typer.Option(min=1, help="Networks to retrain for the audit.")] = None,
    bank: Annotated[
        Path | None, typer.Option(help="Where retrained networks are kept and found again; see `excise bank`.")
    ] = None,
    cluster: Cluster = None,
    at_once: AtOnce = None,
    keep_statistics: Annotated[
        bool, typer.Option("--keep-statistics", help="Do not recompute batch normalisation's statistics from retain.")
    ] = False,
    accept_drop: Annotated[
        bool, typer.Option("--accept-drop", help="Adopt the network although its accuracy fell too far.")
    ] = False,
    anew: Annotated[
        bool, typer.Option("--anew", help="Give up the run that was begun, and begin again with all that is open.")
    ] = False,
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0, help="As much work is lost at most when the run is killed.")
    ] = 30.0,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """Answer all open requests in one run: unlearn, audit, write the receipt. Killed and given again, it goes on."""
    return _asked("run", locals())


@ledger.command()
def head(
    directory: Directory,
    out: Annotated[Path | None, typer.Option(help="Write it to this file, too.")] = None,
    seed: NoSeed = 0,
    device: NoDevice = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """Give number and hash of the last receipt, to be kept where nobody can rewrite the log."""
    return _asked("head", locals())


@ledger.command()
def receipt(
    directory: Directory,
    which: Annotated[str, typer.Argument(metavar="REQUEST|SEQ", help="A request's id, or a receipt's number.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    seed: NoSeed = 0,
    device: NoDevice = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """Write a receipt to a file of its own, for `excise verify`."""
    return _asked("receipt", locals())


@ledger.command()
def replay(
    directory: Directory,
    seq: Annotated[
        int | None, typer.Argument(metavar="SEQ", help="The last receipt to come to; all if left out.")
    ] = None,
    seed: NoSeed = 0,
    device: Device = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """Repeat the runs from the original weights; the same bits must come out."""
    return _asked("replay", locals())


@ledger.command("forget-key")
def forget_key(
    directory: Directory,
    request: Id,
    seed: NoSeed = 0,
    device: NoDevice = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """Destroy an answered request's key: its commitment says nothing then; the ledger's own digests of the rows stay."""
    return _asked("forget-key", locals())


@ledger.command()
def withdraw(
    directory: Directory,
    request: Id,
    seed: NoSeed = 0,
    device: NoDevice = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """Take back a request that no run has taken up; its rows may be named again."""
    return _asked("withdraw", locals())


@ledger.command("show-record")
def show_record(
    directory: Directory,
    request: Id,
    out: Annotated[Path, typer.Option(help="The file to write, for `excise verify --record`.")],
    row: Annotated[int | None, typer.Option(min=0, help="The id of the training row.")] = None,
    record: Annotated[str | None, typer.Option(help="Instead of the id pkg.mod:row, a data set of one record.")] = None,
    seed: NoSeed = 0,
    device: NoDevice = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """Write what shows one record to be among a request's rows, and nothing of the others but how many there are."""
    return _asked("show-record", locals())
