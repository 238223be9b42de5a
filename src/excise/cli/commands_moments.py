"""What can be typed about sums that are kept for requests to come."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from excise.cli import commands
from excise.cli.commands import Asked
from excise.cli.options import Config, Data, DataRoot, Debug, Device, Json, Model, Quiet, Seed, Weights


@commands.app.command()
def moments(
    model: Model,
    weights: Weights,
    data: Data,
    out: Annotated[Path, typer.Option(help="File to write, .safetensors.")],
    layers: Annotated[
        str | None,
        typer.Option(help="Names of layers, with commas between; all linear and convolutional ones if left out."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows at a time.")] = 128,
    carry: Annotated[
        Path | None, typer.Option(help="Moments to carry over a request: those of the --forget rows are taken out.")
    ] = None,
    forget: Annotated[Path | None, typer.Option(help="With --carry: the row ids of the request.")] = None,
    into: Annotated[Path | None, typer.Option(help="With --carry: the weights that the request came to.")] = None,
    data_root: DataRoot = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """Sum up what layers are given by the training rows, for PGU requests without them; or carry the sums over a request."""
    return "moments", locals()
