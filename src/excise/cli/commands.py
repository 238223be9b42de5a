"""What can be typed: each command with its options.

The parser only reads: a command gives the name of the module beside this file that does the work, and its options.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from excise.cli.options import (
    CRITERION,
    AtOnce,
    Cluster,
    Compile,
    Config,
    Data,
    DataRoot,
    Debug,
    Device,
    Devices,
    Forget,
    Holdout,
    Json,
    Layout,
    Model,
    Nodes,
    NoDevice,
    NoSeed,
    Out,
    Plan,
    Precision,
    Quiet,
    Seed,
    Settings,
    Strategy,
    Test,
    Weights,
    Workers,
)
from excise.version import __version__

Asked = tuple[str, dict[str, Any]]
"""The module beside this file that does the work, and its options."""
UNSEEDED = frozenset({"report", "recipes", "bank", "fsck", "copies", "purge"})
"""Modules that take neither seed nor device."""

app = typer.Typer(
    name="excise",
    help="Make a trained PyTorch network forget chosen training rows, and show how well it did.",
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"excise {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version.")
    ] = False,
) -> None:
    """Make a trained PyTorch network forget chosen training rows, and show how well it did."""


@app.command()
def demo(
    out: Out = Path("excise-demo"),
    oracles: Annotated[int, typer.Option(min=2, help="Networks retrained for each forget set.")] = 8,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """Tell the whole story on data that ships with a dependency; about a minute."""
    return "demo", locals()


@app.command()
def unlearn(
    model: Model,
    weights: Weights,
    data: Data,
    forget: Forget,
    out: Out,
    recipe: Annotated[str, typer.Option(help="See `excise recipes`.")] = "DEL",
    settings: Settings = None,
    mask: Annotated[Path | None, typer.Option(help="A mask of `excise localize`; a promise for any recipe.")] = None,
    plan: Plan = None,
    holdout: Holdout = None,
    keep_statistics: Annotated[
        bool, typer.Option("--keep-statistics", help="Do not recompute batch normalisation's statistics from retain.")
    ] = False,
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0, help="So much work is lost at most if the process is killed; 0 keeps every step.")
    ] = 30.0,
    data_root: DataRoot = None,
    seed: Seed = 0,
    device: Device = "cpu",
    devices: Devices = None,
    nodes: Nodes = 1,
    strategy: Strategy = "ddp",
    precision: Precision = "auto",
    layout: Layout = "auto",
    compiled: Compile = "auto",
    workers: Workers = 0,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """Make a network forget rows; write the new weights, the mask, the patch and the record."""
    return "forget", locals()


@app.command()
def tune(
    model: Model,
    weights: Weights,
    data: Data,
    forget: Forget,
    out: Out,
    recipe: Annotated[str, typer.Option(help="See `excise recipes`.")] = "DEL",
    space: Annotated[
        list[str] | None,
        typer.Option(help="Where to search: lr=0.001:0.3:log, budget_fraction=0.1:0.5, epochs=2,4,8; repeatable."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting that stays, as key=value; repeatable.")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Settings to try.")] = 20,
    max_utility_loss: Annotated[
        float, typer.Option(help="How far accuracy on held-out rows may fall below the original's.")
    ] = 0.02,
    max_cost_share: Annotated[
        float | None, typer.Option(help="What a setting may cost, as a share of a retraining; needs --plan.")
    ] = None,
    plan: Plan = None,
    test: Test = None,
    holdout: Annotated[
        str | None,
        typer.Option(
            "--holdout", help="pkg.mod:rows never trained on, to choose by; half of the test rows if left out."
        ),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(help="pkg.mod:name, from a batch to what rows are compared by; the inputs if left out."),
    ] = None,
    oracles: Annotated[
        int, typer.Option(min=0, help="Networks to retrain after the choice, 3 or more, to say how it ranks.")
    ] = 0,
    cluster: Cluster = None,
    at_once: Annotated[
        int, typer.Option(min=1, help="Settings suggested at a time, and tried side by side on a cluster.")
    ] = 1,
    data_root: DataRoot = None,
    seed: Seed = 0,
    device: Device = "cpu",
    precision: Precision = "auto",
    layout: Layout = "auto",
    compiled: Compile = "auto",
    workers: Workers = 0,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """Choose a recipe's settings without any oracle, by rows never trained on that look like those to forget."""
    return "tune", locals()


@app.command()
def bench(
    model: Model,
    weights: Weights,
    data: Data,
    forget: Forget,
    recipe: Annotated[str, typer.Option(help="See `excise recipes`.")] = "DEL",
    settings: Settings = None,
    mask: Annotated[Path | None, typer.Option(help="A mask of `excise localize`.")] = None,
    plan: Plan = None,
    holdout: Holdout = None,
    budget_seconds: Annotated[float, typer.Option(min=0, help="So long it tries larger and larger sizes.")] = 30.0,
    precision: Precision = "auto",
    layout: Layout = "auto",
    compiled: Compile = "auto",
    workers: Workers = 0,
    data_root: DataRoot = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """Say what a request would cost on this machine, from short runs of it; nothing is written."""
    return "bench", locals()


@app.command()
def localize(
    model: Model,
    weights: Weights,
    data: Data,
    forget: Forget,
    out: Out,
    criterion: Annotated[str, typer.Option(help=CRITERION)] = "weight-gradient",
    budget: Annotated[
        float | None, typer.Option(help="Share of the weights to choose, 0 to 1; 0.3 if left out.")
    ] = None,
    granularity: Annotated[str | None, typer.Option(help="channel (if left out), weight or module.")] = None,
    count: Annotated[
        str | None, typer.Option(help="What the budget is a share of: weights (if left out) or channels.")
    ] = None,
    scope: Annotated[
        str | None,
        typer.Option(help="network (if left out), one budget for all of it; or layer, the same share of each."),
    ] = None,
    lowest: Annotated[bool, typer.Option("--lowest", help="Choose the lowest scores.")] = False,
    partial: Annotated[bool, typer.Option("--partial", help="Cut the last channel or module in part.")] = False,
    reduction: Annotated[
        str | None, typer.Option(help="top:SHARE of a channel's weights, or mean; top:0.1 if left out.")
    ] = None,
    data_root: DataRoot = None,
    seed: Seed = 0,
    device: Device = "cpu",
    devices: Devices = None,
    nodes: Nodes = 1,
    strategy: Strategy = "ddp",
    precision: Precision = "auto",
    layout: Layout = "auto",
    compiled: Compile = "auto",
    workers: Workers = 0,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """Find the channels on which the rows lean most; write the mask."""
    return "localize", locals()


@app.command()
def doctor(
    model: Model,
    weights: Weights,
    data: Data,
    forget: Forget,
    test: Test = None,
    groups: Annotated[
        Path | None,
        typer.Option(help="A value a training row (a person, a source): a text file, one a line, or a .npy."),
    ] = None,
    loader: Annotated[
        str | None, typer.Option(help="pkg.mod:name, the DataLoader the network was trained with, or what gives it.")
    ] = None,
    data_root: DataRoot = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """Name, before any work, what stands in the way of forgetting the rows, each with a remedy."""
    return "doctor", locals()


@app.command()
def audit(
    run: Annotated[Path, typer.Argument(help="Run directory of `excise unlearn`.")],
    plan: Plan = None,
    tier: Annotated[
        str | None, typer.Option(help="T0 trains nothing, T1 a few networks (if left out), T2 64 an arm.")
    ] = None,
    budget_seconds: Annotated[
        float | None, typer.Option(help="Pick what fits so many seconds, and say what was left out.")
    ] = None,
    oracles: Annotated[
        int | None,
        typer.Option(min=1, help="Networks to retrain without the rows: 8 at T1, 64 at T2; 4 or more to decide."),
    ] = None,
    effect: Annotated[
        float, typer.Option(help="Share of the rows' trace in the original that a PASS promises to have seen.")
    ] = 0.5,
    bank: Annotated[
        str | None,
        typer.Option(help="Directory or URL where retrained networks are kept and found again; see `excise bank`."),
    ] = None,
    cluster: Cluster = None,
    at_once: AtOnce = None,
    keep_originals: Annotated[
        bool,
        typer.Option(
            "--keep-originals", help="Leave networks trained on the forget rows in the bank, for other audits."
        ),
    ] = False,
    trigger: Annotated[
        str | None, typer.Option(help="pkg.mod:apply=CLASS, a planted pattern and its class: is it gone?")
    ] = None,
    confused: Annotated[str | None, typer.Option(help="I,J, two classes that were exchanged: is it gone?")] = None,
    rows: Annotated[
        bool, typer.Option("--rows", help="Also write rows.json: what was found row by row, under opaque names.")
    ] = False,
    search: Annotated[
        Path | None,
        typer.Option(help="Directory of the `excise tune` that chose the settings: its cost is counted too."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="As in unlearn; the run's own if left out.")] = None,
    weights: Annotated[Path | None, typer.Option(help="The original weights; the run's own if left out.")] = None,
    data: Annotated[str | None, typer.Option(help="As in unlearn; the run's own if left out.")] = None,
    forget: Annotated[Path | None, typer.Option(help="As in unlearn; the run's own if left out.")] = None,
    test: Test = None,
    data_root: DataRoot = None,
    seed: Seed = 0,
    device: Device = "cpu",
    precision: Precision = "auto",
    layout: Layout = "auto",
    compiled: Compile = "auto",
    workers: Workers = 0,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """Hold the unlearned network against networks retrained without the rows; write audit.json and report.html."""
    return "audit", locals()


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Directory with an audit.json or a demo.json.")],
    seed: NoSeed = 0,
    device: NoDevice = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """Draw report.html again from the numbers in a run directory."""
    return "report", locals()


@app.command()
def recipes(
    seed: NoSeed = 0,
    device: NoDevice = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """List the recipes with their papers and defaults."""
    return "recipes", locals()


@app.command()
def bank(
    directory: Annotated[
        str | None, typer.Argument(metavar="DIR", help="The bank's directory or URL; the user's own if left out.")
    ] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Remove what the next four options name.")] = False,
    keep_bytes: Annotated[
        str | None, typer.Option(help="The oldest go until the bank takes no more than this: 500MB, 2GB.")
    ] = None,
    older_than: Annotated[float | None, typer.Option(min=0, help="Only networks trained so many days ago.")] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="Only oracle, original, half, unreadable or unfinished; repeatable.")
    ] = None,
    everything: Annotated[bool, typer.Option("--everything", help="All that is the bank's.")] = False,
    seed: NoSeed = 0,
    device: NoDevice = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """List the trained networks that are kept for audits, and prune them."""
    return "bank", locals()
