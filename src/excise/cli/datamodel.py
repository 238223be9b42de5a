"""`excise datamodel`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from torch import nn

from excise import errors
from excise.attribution import Datamodel, Score, Shrink, estimate, score
from excise.attribution.estimate import plain, require_by
from excise.attribution.origin import network_digest
from excise.attribution.quality import require_held
from excise.cli import choices, show, tables
from excise.cli.bank import size
from excise.cli.fleets import read_fleet
from excise.data import Rows
from excise.oracles import Bank, default_bank


def run(
    *,
    model: str,
    data: str,
    plan: str,
    out: Path,
    networks: int,
    by: str,
    test: str | None,
    score: int,
    as_found: bool,
    float16: bool,
    bank: str | None,
    cluster: str | None,
    at_once: int | None,
    data_root: Path | None,
    seed: int,
    device: str,
    precision: str,
    layout: str,
    compiled: str,
    workers: int,
    quiet: bool,
) -> tuple[dict[str, Any], int]:
    """Train networks on halves, estimate, and write the file; a file of the same request is left as it is."""
    to, fleet = show.console(quiet=quiet), read_fleet(cluster, at_once)
    machine = choices.read_machine(precision=precision, layout=layout, compiled=compiled, workers=workers)
    how, kind = tables.read_plan(plan), require_by(by)
    assert how is not None
    if out.suffix != ".safetensors":
        raise errors.BadRequest(f"--out: expected a .safetensors file to write, found {out.name!r}")
    if score:
        require_held(score)
    tables.require_device(device)
    train, held_out, known = tables.read_data(data, test, data_root)
    rows = {"train": Rows.all_of(train)} | ({} if held_out is None else {"test": Rows.all_of(held_out)})
    fresh = _builder(*tables.build_model(model, known), model, device)
    nets = Bank(bank or default_bank())
    asked: dict[str, Any] = {"by": by, "num_models": networks, "seed": seed, "network": network_digest(fresh())}
    asked["plan"] = plain(how)
    found, error = _finished(out, asked, rows, as_found=as_found), None
    with show.progress(quiet=quiet) as hooks:
        options: dict[str, Any] = {"bank": nets, "fleet": fleet, "hooks": hooks, "machine": machine}
        if found is None:
            found = estimate(fresh, rows, how, networks, by=kind, shrink=not as_found, seed=seed, **options)
            error = found.save(out, precision="float16" if float16 else "float32")
        else:
            show.say(to, f"{out} already holds this datamodel; nothing was trained.")
        judged = _judged(found, fresh, rows, how, score, options) if score else {}
    result = {
        "out": str(out),
        "by": by,
        "networks": networks,
        "rows": {name: len(part.ids) for name, part in found.parts.items()},
        "shrink": msgspec.to_builtins(found.shrink),
        "rounding_error": error,
        "trained_rows": found.made.trained_rows,
        "seconds": found.made.seconds,
        "num_bytes": out.stat().st_size,
        "score": msgspec.to_builtins(judged),
    }
    _tell(to, result, nets)
    return result, 0


def _builder(
    fresh: Callable[[], nn.Module] | None, built: nn.Module, words: str, device: str
) -> Callable[[], nn.Module]:
    if fresh is None:
        raise errors.BadRequest(
            f"--model: expected a callable that builds an untrained network each time, found that {words} is a "
            f"{type(built).__name__}; name the function that makes it"
        )
    return lambda: fresh().to(device)


def _finished(out: Path, asked: dict[str, Any], rows: dict[str, Rows], *, as_found: bool) -> Datamodel | None:
    """Give the datamodel that is there already, of this request and these rows; refuse any other file."""
    if not out.exists():
        return None
    found = Datamodel.load(out)
    made = msgspec.to_builtins(found.made)
    differs = [name for name, value in asked.items() if made[name] != value or value == {}]  # code cannot be compared
    if found.made.by == "means" and (found.shrink == Shrink()) != as_found:
        differs.append("--as-found")
    if not differs and set(found.parts) == set(rows):
        for name, one in rows.items():
            found.require_rows(one, name)
        return found
    raise errors.BadRequest(
        f"--out: {out} holds the datamodel of another request ({', '.join(differs) or 'other rows'}); name another file, or "
        "remove it"
    )


def _judged(
    found: Datamodel,
    fresh: Callable[[], nn.Module],
    rows: dict[str, Rows],
    plan: Any,
    networks: int,
    options: dict[str, Any],
) -> dict[str, Score]:
    return {
        name: score(found, fresh, rows, plan, networks, part=name, **options)
        for name in rows
        if found.parts[name].margins is not None
    }


def _tell(to: Console, result: dict[str, Any], nets: Bank) -> None:
    rows = ", ".join(f"{count:,} {name}" for name, count in result["rows"].items())
    own, other = (show.percent(result["shrink"][name]) for name in ("own", "other"))
    show.say(
        to,
        f"{result['networks']} networks on halves, {result['seconds']:.1f} s of training; outputs on {rows} rows. Of an "
        f"effect found, {own} % is kept of a row's on itself, {other} % of one on another.",
    )
    for name, one in result["score"].items():
        show.say(
            to,
            f"Predicted and true margins of {one['num_models']} other networks, {name} rows: rank correlation "
            f"{one['spearman']:.2f} ({one['spearman_low']:.2f} to {one['spearman_high']:.2f}).",
        )
    show.say(
        to,
        f"{result['out']}: {size(result['num_bytes'])}. It and the networks of kind half in {nets.place} have seen every "
        "row: after a request, they are copies to take away.",
    )
