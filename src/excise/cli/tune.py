"""`excise tune`."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from excise import errors, store
from excise.cli import choices, show, tables
from excise.cli.fleets import read_fleet
from excise.oracles import Bank
from excise.pipeline.tuning import Tuning, tune
from excise.pipeline.tuning_ranking import FEWEST_ORACLES, oracle_margins

CONFIG, RESULT = "settings.toml", "result.json"


def run(
    *,
    model: str,
    weights: Path,
    data: str,
    forget: Path,
    out: Path,
    recipe: str,
    space: list[str] | None,
    settings: list[str] | None,
    trials: int,
    max_utility_loss: float,
    max_cost_share: float | None,
    plan: str | None,
    test: str | None,
    holdout: str | None,
    features: str | None,
    oracles: int,
    data_root: Path | None,
    seed: int,
    device: str,
    precision: str,
    layout: str,
    compiled: str,
    workers: int,
    quiet: bool,
    cluster: str | None = None,
    at_once: int = 1,
) -> tuple[dict[str, Any], int]:
    """Choose settings without oracles; write the trials and what was chosen."""
    to = show.console(quiet=quiet)
    machine = choices.read_machine(precision=precision, layout=layout, compiled=compiled, workers=workers)
    trained_by = tables.read_plan(plan)
    if oracles and trained_by is None:
        raise errors.BadRequest("--oracles: retraining needs --plan, how the network was trained")
    if 0 < oracles < FEWEST_ORACLES:
        raise errors.BadRequest(
            f"--oracles: expected 0, or at least {FEWEST_ORACLES}, since fewer training seeds rank nothing; found {oracles}"
        )
    make, fixed = choices.read_settings(recipe, settings, trained_by)
    asked = read_space(recipe, make, fixed, space)
    compared = None if features is None else tables.import_object(features, "--features")
    problem = tables.read_problem(
        model=model,
        weights=weights,
        data=data,
        forget=forget,
        device=device,
        test=test,
        holdout=holdout,
        data_root=data_root,
    )
    fleet = None if cluster is None else read_fleet(cluster, at_once)
    with store.lock(out), show.progress(quiet=quiet) as hooks:
        found = tune(
            problem.model,
            problem.split,
            functools.partial(make, **fixed),
            space=asked,
            trials=trials,
            seed=seed,
            fresh=problem.fresh,
            max_utility_loss=max_utility_loss,
            max_cost_share=max_cost_share,
            plan=trained_by,
            features=compared,
            hooks=hooks,
            directory=out,
            machine=machine,
            at_once=at_once,
            fleet=fleet,
        )
        words = [*(settings or ()), *(f"{key}={_word(value)}" for key, value in found.settings.items())]
        store.write_bytes(out / CONFIG, _toml(recipe, words, seed).encode())
        ranking = None
        if oracles and trained_by is not None:  # the choice stands by now
            own = oracle_margins(
                problem.model,
                problem.split,
                plan=trained_by,
                oracles=oracles,
                fresh=problem.fresh,
                seed=seed,
                hooks=hooks,
                bank=Bank(out / "oracles"),
                machine=machine,
                fleet=fleet,
            )
            ranking = msgspec.to_builtins(found.against(own))
        told = {"out": str(out), **found.to_dict(), "set": words, "config": str(out / CONFIG), "ranking": ranking}
        told["files"] = {CONFIG: store.file_digest(out / CONFIG)}
        store.write_sealed(out / RESULT, told)
    _tell(to, found, told)
    return told, 0


def read_space(
    recipe: str, make: Any, fixed: Mapping[str, Any], words: Sequence[str] | None
) -> dict[str, object] | None:
    """Give the space that `key=low:high`, `key=low:high:log` and `key=a,b,c` name; None for none.

    Raises:
        errors.BadRequest: another form, a setting that the recipe does not have or that is named twice, or a value of the
            wrong kind.
    """
    if not words:
        return None
    known = inspect.signature(make, eval_str=True).parameters
    found: dict[str, object] = {}
    for word in words:
        key, equals, places = word.partition("=")
        if not equals or not places or key not in known or key in found or key in fixed:
            raise errors.BadRequest(
                f"--space: expected key=low:high, key=low:high:log or key=a,b,c, once for each key of {recipe} "
                f"({', '.join(known) or 'it has none'}) and none that --set names; found {word!r}"
                f"{tables.nearest(key, {*known} - {key})}"
            )
        parts = places.split(":") if ":" in places else places.split(",")
        values = [
            choices.converted(f"--space {word}", recipe, key, one, known[key].annotation)
            for one in (parts[:2] if ":" in places else parts)
        ]
        found[key] = (*values, *parts[2:]) if ":" in places else values
    return found


def _word(value: Any) -> str:
    """Give a value as `--set` reads it."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _toml(recipe: str, words: Sequence[str], seed: int) -> str:
    """Give what `excise unlearn --config` takes. (A string of JSON is a string of TOML.)"""
    listed = ", ".join(json.dumps(word) for word in words)
    return f"recipe = {json.dumps(recipe)}\nset = [{listed}]\nseed = {seed}\n"


def _tell(to: Console, found: Tuning, told: Mapping[str, Any]) -> None:
    to.print(_table(found))
    show.say(
        to,
        f"{found.recipe.name}: {' '.join(f'--set {word}' for word in told['set'])}",
    )
    gained = "fell" if found.utility_loss > 0 else "rose"
    show.say(
        to,
        f"Distance of the forget rows from their twins and of the retain rows from the original, together: {found.value:.2g}; "
        f"the original's {found.original_value:.2g}. Accuracy on the held-out rows ({found.held_out}) {gained} by "
        f"{100 * abs(found.utility_loss):.1f} points.",
    )
    for alarm in found.alarms:
        show.say(to, f"Alarm, {alarm.name}: {alarm.sentence}.")
    if found.held_out != "holdout":
        show.say(
            to,
            "Half of the test rows are used up by this choice: audit with other --test rows, or tune with --holdout.",
        )
    rank = told["ranking"]
    if rank is not None:
        tau = "" if rank["kendall_tau"] is None else f", Kendall's tau {rank['kendall_tau']:+.2f}"
        show.say(
            to,
            f"By {rank['num_oracles']} networks retrained afterwards the choice is {rank['rank']} of {rank['num_trials']}{tau}"
            f": {rank['distance']:.2g} from them, the best {rank['best']:.2g}, the middle one {rank['median']:.2g}, one of "
            f"themselves {rank['oracle']:.2g}.",
        )
    share = (
        ""
        if found.cost.retraining_share is None
        else f", {show.percent(found.cost.retraining_share)} % of a retraining"
    )
    show.say(to, f"{len(found.trials)} trials, {found.cost.seconds:.1f} s{share}.")
    show.say(to, f"Next: excise unlearn --config {told['config']} --model … --weights … --data … --forget … --out …")


def _table(found: Tuning) -> Table:
    """Give the trials, the chosen one marked; fits 80 columns."""
    table = show.plain_table("trial", "distance", "accuracy, points", "")
    for one in found.trials:
        named = ", ".join(
            f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in one.settings.items()
        )
        state = "chosen" if one.number == found.chosen.number else "" if one.state == "ok" else one.state
        value = "–" if one.value is None else f"{one.value:.3f}"
        lost = "–" if one.utility_loss is None else f"{-100 * one.utility_loss:+.1f}"
        table.add_row(show.cell(f"{one.number + 1}  {named}"), value, lost, state)
    return table
