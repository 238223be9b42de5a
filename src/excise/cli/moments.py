"""`excise moments`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from excise import errors, params, store
from excise.cli import show, tables
from excise.curvature import Moments, layers_of, second_moments, weights_of
from excise.data.rows import Rows
from excise.masks import Mask
from excise.train.engine import Engine
from excise.train.task import Task


def run(
    *,
    model: str,
    weights: Path,
    data: str,
    out: Path,
    layers: str | None,
    batch_size: int,
    carry: Path | None,
    forget: Path | None,
    into: Path | None,
    data_root: Path | None,
    seed: int,
    device: str,
    quiet: bool,
) -> tuple[dict[str, Any], int]:
    """Make the moments of all rows, or carry some over a request, and write them."""
    to = show.console(quiet=quiet)
    _require_options(out, carry, forget, into, layers)
    tables.require_device(device)
    train, _, known = tables.read_data(data, None, data_root)
    _, network = tables.build_model(model, known)
    params.load_strictly_(network, store.read_weights(weights), str(weights))
    network, rows = network.to(device), Rows.all_of(train)
    if len(rows) == 0:
        raise errors.BadRequest(f"--data: expected at least one row, found none in {data}")
    chosen = None if layers is None else weights_of(layers_of(network), layers.split(","), "--layers").values()
    with show.progress(quiet=quiet) as hooks:
        engine = Engine(Task(), seed, Mask.empty(network), hooks=hooks)
        engine.task.require_fit(params.shadow_of(network, trainable=True), {"training": rows}, labelled=False)
        if carry is None or forget is None or into is None:
            found = second_moments(network, rows, engine, layers=chosen, batch_size=batch_size)
        else:
            full = Moments.load(carry)
            full.require_fit(network)
            asked = Rows(rows.source, tables.read_ids(forget, len(rows)))
            less = full.minus(second_moments(network, asked, engine, layers=full.matrices, batch_size=batch_size))
            params.load_strictly_(network, store.read_weights(into), str(into))
            found = less.carried_to(network)
    found.save(out)
    show.say(to, f"Second moments over {found.num_rows:,} rows of what {len(found.matrices)} layers are given.")
    show.say(to, f"Wrote {out}, {found.num_bytes / 2**20:,.1f} MiB")
    if carry is not None:
        show.say(to, f"{carry} still holds the rows of the request: remove it, and all copies of it.")
    return {
        "out": str(out),
        "num_rows": found.num_rows,
        "network": found.network,
        "digest": found.digest,
        "sha256": store.file_digest(out),
        "bytes": found.num_bytes,
        "layers": {name: list(matrix.shape[:2]) for name, matrix in found.matrices.items()},
    }, 0


def _require_options(out: Path, carry: Path | None, forget: Path | None, into: Path | None, layers: str | None) -> None:
    if len({carry is None, forget is None, into is None}) > 1:
        raise errors.BadRequest(
            "--carry, --forget and --into go together: the moments before a request, its rows, and the weights it came to"
        )
    if carry is not None and layers is not None:
        raise errors.BadRequest("--layers: those of --carry are carried over; leave it out")
    if out.suffix != ".safetensors":
        raise errors.BadRequest(f"--out: expected a .safetensors file to write, found {out.name!r}")
    if out.exists():
        raise errors.BadRequest(f"--out: {out} is there already; give another name, or remove it")
