"""What can be typed about what lies on disk: whether it is sound, who else saw the rows, whether a receipt holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from excise.cli import commands
from excise.cli.commands import Asked
from excise.cli.options import Config, Debug, Device, Json, NoDevice, NoSeed, Quiet

Run = Annotated[
    Path, typer.Argument(metavar="RUN", help="Directory of an `excise unlearn` run, or of a run in a ledger.")
]
Places = Annotated[
    list[Path] | None,
    typer.Option("--in", metavar="DIR", help="Look in here, too, and below; repeatable."),
]
OfBank = Annotated[Path | None, typer.Option("--bank", help="The bank of oracles; the user's own if left out.")]
Ids = Annotated[
    Path | None,
    typer.Option("--forget", help="The row ids, to find lists of them; those of the record's path if left out."),
]
OfData = Annotated[
    str | None,
    typer.Option("--data", help="The training data, as given to the run, to find copies of the rows; its code is run."),
]


@commands.app.command()
def fsck(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run, a search, a bank or a ledger.")],
    seed: NoSeed = 0,
    device: NoDevice = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """Say of every file in a directory of ours whether it is what its record says; change nothing."""
    return "fsck", locals()


@commands.app.command()
def copies(
    run: Run,
    places: Places = None,
    bank: OfBank = None,
    forget: Ids = None,
    data: OfData = None,
    seed: NoSeed = 0,
    device: NoDevice = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """List what saw the forgotten rows: networks, checkpoints, optimizer states, oracles, caches, lists of the rows.

    Copies of the rows themselves are looked for with --data alone, and in arrays alone: look after pictures and texts yourself.
    """
    return "copies", locals()


@commands.app.command()
def purge(
    run: Run,
    places: Places = None,
    bank: OfBank = None,
    forget: Ids = None,
    data: OfData = None,
    quarantine: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Move what was found with --in there, for its owner alone.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove what was found with --in.")] = False,
    keep: Annotated[list[Path] | None, typer.Option(help="Leave this file, or all in this folder; repeatable.")] = None,
    also_released: Annotated[
        bool, typer.Option("--also-released", help="Take what other runs have released, too: networks, masks, patches.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit code 3 if something cannot be looked into or stays.")
    ] = False,
    seed: NoSeed = 0,
    device: NoDevice = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """Take away what `excise copies` lists; the released network, its record and its audit stay.

    Copies of the rows themselves are looked for with --data alone, and in arrays alone: look after pictures and texts yourself.
    """
    return "purge", locals()


@commands.app.command()
def verify(
    receipt: Annotated[Path, typer.Argument(metavar="RECEIPT", help="A receipt of `excise ledger`.")],
    weights: Annotated[Path | None, typer.Option(help="The released weights, as .safetensors.")] = None,
    log: Annotated[Path | None, typer.Option(help="The log, receipts.jsonl, that the receipt stands in.")] = None,
    head: Annotated[
        str | None, typer.Option(help="The log's head as it was exported: SEQ:HASH, or a file of `excise ledger head`.")
    ] = None,
    audit: Annotated[Path | None, typer.Option(help="The audit.json that the receipt sums up.")] = None,
    record: Annotated[Path | None, typer.Option(help="The path from one record to the commitment's root.")] = None,
    replay: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The ledger: its runs up to this one are repeated.")
    ] = None,
    seed: NoSeed = 0,
    device: Device = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """Check a receipt: its seal, its chain, its claim, and that the weights are the ones it speaks of."""
    return "verify", locals()
