"""What can be typed about which rows made a network's outputs what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from excise.cli import commands
from excise.cli.commands import Asked
from excise.cli.options import (
    AtOnce,
    Cluster,
    Compile,
    Config,
    Data,
    DataRoot,
    Debug,
    Device,
    Json,
    Layout,
    Model,
    Precision,
    Quiet,
    Seed,
    Test,
    Workers,
)


@commands.app.command()
def datamodel(
    model: Model,
    data: Data,
    plan: Annotated[
        str, typer.Option(help="How the network was trained: a TrainPlan as TOML or JSON, or pkg.mod:name.")
    ],
    out: Annotated[Path, typer.Option(help="File to write, .safetensors; a copy of what was learnt from every row.")],
    networks: Annotated[int, typer.Option(min=2, help="Networks to train on random halves, an even number.")] = 64,
    by: Annotated[str, typer.Option(help="means, or sparse: a LASSO for each row and class, for toy sizes.")] = "means",
    test: Test = None,
    score: Annotated[
        int, typer.Option(min=0, help="Networks on further halves, 4 or more, to say how well it predicts them.")
    ] = 0,
    as_found: Annotated[
        bool, typer.Option("--as-found", help="Do not shrink effects by what noise leaves of them: for coherent sets.")
    ] = False,
    float16: Annotated[bool, typer.Option("--float16", help="Keep outputs in half the bytes, rounded.")] = False,
    bank: Annotated[
        str | None,
        typer.Option(help="Directory or URL where the networks are kept and found again; see `excise bank`."),
    ] = None,
    cluster: Cluster = None,
    at_once: AtOnce = None,
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
    """Estimate, once for all later requests, what each training row adds to a network's outputs (for --recipe DMM)."""
    return "datamodel", locals()
