"""`excise audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import to_builtins
from rich.console import Console

from excise import errors, store
from excise.cli import choices, show, tables
from excise.cli.fleets import read_fleet
from excise.cli.stopping import stoppable
from excise.data.content import content_commitment
from excise.oracles import Bank, default_bank
from excise.oracles.retrain import TrainFunction
from excise.pipeline import Audit, audit
from excise.pipeline.audited import audit_page, environment
from excise.pipeline.planning import AuditPlan, require_planned
from excise.pipeline.policy import CONTROLS
from excise.pipeline.probing import Confusion, Goal, Trigger
from excise.pipeline.row_results import ROWS, row_results
from excise.pipeline.unlearned import MASK, MODEL, PATCH, Made, read_unlearned
from excise.recipes import Recipe
from excise.report import render
from excise.store.hidden import reveal
from excise.train.checkpoints import Checkpoints
from excise.train.engine import Cost
from excise.train.machine import Machine
from excise.train.plan import TrainPlan

NUMBERS, PAGE, PLAN = "audit.json", "report.html", "audit-plan.json"
STYLES = {"PASS": "bold green", "FAIL": "bold red", "INCONCLUSIVE": "bold yellow", "INVALID": "bold yellow"}


class _Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What an audit needs to know of the request of a run."""

    command: str
    model: str = ""
    weights: str = ""
    weights_sha256: str = ""
    data: str = ""
    data_root: str | None = None
    forget: str = ""
    forget_commitment: str = ""
    data_commitment: str | None = None
    plan: str | None = None
    plan_values: dict[str, Any] | None = None
    holdout: str | None = None
    recipe: str = ""
    set: list[str] = []
    mask: str | None = None
    machine: Machine = Machine()


def run(
    *,
    run: Path,
    plan: str | None,
    tier: str | None,
    budget_seconds: float | None,
    oracles: int | None,
    effect: float,
    bank: str | None,
    keep_originals: bool,
    trigger: str | None,
    confused: str | None,
    search: Path | None,
    model: str | None,
    weights: Path | None,
    data: str | None,
    forget: Path | None,
    test: str | None,
    data_root: Path | None,
    seed: int,
    device: str,
    precision: str,
    layout: str,
    compiled: str,
    workers: int,
    quiet: bool,
    rows: bool = False,
    cluster: str | None = None,
    at_once: int | None = None,
) -> tuple[dict[str, Any], int]:
    """Audit the network of a run directory; write audit.json and report.html into it, and rows.json if that is wanted."""
    to, fleet = show.console(quiet=quiet), read_fleet(cluster, at_once)
    machine = choices.read_machine(precision=precision, layout=layout, compiled=compiled, workers=workers)
    record, asked, made = _read_run(run)
    how = _plan(plan or asked.plan, needed=tier != "T0")
    original = weights or Path(asked.weights)
    if original.is_file() and store.file_digest(original) != asked.weights_sha256:
        raise errors.Corrupt(f"{original} does not hold the weights that {run} was made from; give the same file")
    problem = tables.read_problem(
        model=model or asked.model,
        weights=original,
        data=data or asked.data,
        forget=forget or Path(reveal(asked.forget)),
        device=device,
        test=test,
        holdout=asked.holdout,
        data_root=data_root or (Path(asked.data_root) if asked.data_root else None),
    )
    _require_same_rows(run, problem, asked)
    request = {
        "command": "audit",
        **problem.request,
        "test": test,
        "plan": plan or asked.plan,
        "plan_values": tables.plan_values(how),
        "tier": tier,
        "budget_seconds": budget_seconds,
        "oracles": oracles,
        "effect": effect,
        "trigger": trigger,
        "confused": confused,
        "search": None if search is None else str(search),
        "seed": seed,
        "audited": {name: record["files"].get(name) for name in (MODEL, MASK, PATCH)},
        "environment": environment(),
        **choices.told_machine(machine),
    }
    numbers = _finished(run, record, request, (NUMBERS, PAGE, *((ROWS,) if rows else ())))
    if numbers is None:
        goal = _goal(trigger, confused)
        again = _recipe_again(asked, how, required=tier == "T2", to=to)
        _tell_of_rounding(run, asked, tier, machine, to)
        kept = Checkpoints(None)
        nets = Bank(bank or default_bank())
        with store.lock(run), stoppable(kept), show.progress(quiet=quiet) as hooks:
            store.sweep([nets.directory])  # others may be writing there: only what killed processes have left goes
            done = audit(
                read_unlearned(run, made, problem.model, again, by_hand=bool(asked.mask)),
                problem.split,
                plan=how,
                fresh=problem.fresh,
                tier=tier,
                budget_seconds=budget_seconds,
                oracles=oracles,
                effect=effect,
                goal=goal,
                search=None if search is None else _search(search),
                original=problem.model,
                seed=seed,
                hooks=hooks,
                bank=nets,
                keep_originals=keep_originals,
                checkpoints=kept,
                machine=machine,
                fleet=fleet,
                on_plan=lambda planned: _planned(run, planned),
            )
            numbers = _written(run, request, done, record["result"], to, rows=rows)
    else:
        store.tidy(run)
        show.say(to, f"{run} already holds this audit, complete; nothing was done.")
    found = {**numbers, "report": str(run / PAGE)}
    _tell(to, found)
    if quiet:  # the verdict is neither progress nor a table
        show.say(show.console(quiet=False), f"Verdict: {found['verdict']}")
    return found, errors.AuditInvalid.exit_code if found["verdict"] == "INVALID" else 0


def _plan(words: str | None, *, needed: bool) -> TrainPlan | TrainFunction | None:
    how = tables.read_plan(words)
    if how is None and needed:
        raise errors.BadRequest(
            "--plan: an audit retrains networks the way yours was trained and needs to know how; give a TOML file with "
            "epochs, lr, batch_size, … (the fields of excise.TrainPlan) or pkg.mod:train"
        )
    return how


def _require_same_rows(run: Path, problem: tables.Problem, asked: _Asked) -> None:
    if problem.request["forget_commitment"] != asked.forget_commitment:
        raise errors.Corrupt(
            f"the forget ids are not those that {run} was made with (or this machine has not the key they were recorded "
            "under); give the same file, where the run was made"
        )
    if asked.data_commitment not in (None, content_commitment(problem.split.train)):
        raise errors.Corrupt(
            f"the training data are not those that {run} was made from: their content has changed since; give the same data"
        )
    if problem.split.test is None:
        raise errors.BadRequest("--test: an audit needs rows that the network never saw; give pkg.mod:test")


def _read_run(run: Path) -> tuple[dict[str, Any], _Asked, Made]:
    """Give the record of a run of `excise unlearn`, what was asked there and what was made, files checked."""
    if not (run / store.RECORD).is_file():
        raise errors.BadRequest(f"expected the directory of an `excise unlearn` run, found no {store.RECORD} in {run}")
    gone = {name for name in (NUMBERS, PAGE, PLAN, ROWS) if not (run / name).exists()}  # are made again
    record = store.read_record(run, but=gone)
    try:
        asked = msgspec.convert(record.get("request"), _Asked)
        if asked.command == "unlearn":
            _require_rows_that_stay(run, asked)
            return record, asked, msgspec.convert(record.get("result"), Made)
    except msgspec.ValidationError as error:
        raise errors.Corrupt(f"{run / store.RECORD} is not a record that this version can read: {error}") from error
    raise errors.BadRequest(
        f"expected the directory of an `excise unlearn` run, found one of {asked.command!r} in {run}"
    )


def _require_rows_that_stay(run: Path, asked: _Asked) -> None:
    if reveal(asked.forget) == tables.EVERY_ROW:
        raise errors.BadSplit(
            f"{run}: an audit reads rows that stay and rows never trained on, and this run was given rows to forget alone "
            "(--forget all); unlearn with all training rows as --data and the ids to forget in a file, then audit that"
        )


def _tell_of_rounding(run: Path, asked: _Asked, tier: str | None, machine: Machine, to: Console) -> None:
    made = choices.rounding_of(asked.machine)
    if tier != "T0" and made != choices.rounding_of(machine):
        words = " ".join(f"--{name} {word}" for name, word in made.items())
        show.say(to, f"{run} was made with {words}; give the audit the same, or its networks round otherwise.")


def _recipe_again(asked: _Asked, plan: object, *, required: bool, to: Console) -> Recipe | None:
    """Give the recipe of the run, to be put to other networks; None where it cannot be read again and need not be."""
    try:
        return choices.read_recipe(asked.recipe, asked.set, plan)
    except errors.ExciseError as error:
        if required:
            raise
        show.say(to, f"The recipe cannot be put to other networks, so the SWAP test is left out: {error}")
        return None


def _search(directory: Path) -> Cost:
    """Give what a search of `excise tune` cost, from its directory."""
    held = store.read_sealed(directory / "result.json")
    try:
        return msgspec.convert({key: held.get(key, 0) for key in ("seconds", "trained_rows", "forward_rows")}, Cost)
    except (AttributeError, msgspec.ValidationError) as error:
        raise errors.BadRequest(
            f"--search: expected the directory of `excise tune`, found {directory}: {error}"
        ) from error


def _goal(trigger: str | None, confused: str | None) -> Goal | None:
    """Give what the removal is to correct, from `pkg.mod:apply=CLASS` or `I,J`."""
    if trigger is not None and confused is not None:
        raise errors.BadRequest("expected one of --trigger and --confused, found both; audit twice")
    if trigger is not None:
        words, _, target = trigger.rpartition("=")
        if not words or not target.isdigit():
            raise errors.BadRequest(
                f"--trigger: expected pkg.mod:apply=CLASS, a callable that puts the pattern on a batch of inputs and the "
                f"class it calls for, found {trigger!r}"
            )
        return Trigger(tables.import_object(words, "--trigger"), int(target))
    if confused is None:
        return None
    pair = confused.split(",")
    if len(pair) != 2 or not all(one.strip().isdigit() for one in pair):
        raise errors.BadRequest(f"--confused: expected two classes such as 3,5, found {confused!r}")
    return Confusion(int(pair[0]), int(pair[1]))


def _finished(
    run: Path, record: dict[str, Any], request: dict[str, Any], wanted: tuple[str, ...]
) -> dict[str, Any] | None:
    """Give the numbers of this very audit, if it has been made."""
    if record.get("pending") or not all(name in record["files"] and (run / name).exists() for name in wanted):
        return None
    held = store.read_json(run / NUMBERS)
    same = isinstance(held, dict) and held.get("request") == msgspec.json.decode(msgspec.json.encode(request))
    if not same:
        return None
    require_planned(held)
    return _without(held, "page", "request")


def _planned(run: Path, plan: AuditPlan) -> None:
    """Write down what will be measured, before it is."""
    store.amend_record(run, {PLAN: store.json_bytes({**to_builtins(plan), "digest": plan.digest})})


def _written(
    run: Path, request: dict[str, Any], done: Audit, made: dict[str, Any], to: Console, *, rows: bool
) -> dict[str, Any]:
    """Write numbers and page (and rows) and enter them in the run's record; of the run, say what its record says.

    The numbers of another audit of this run are kept under a name of their own.
    """
    numbers = {**done.to_dict(), "unlearned": made, "request": request}
    page = audit_page(done)
    earlier = _earlier(run, request)  # first: it is kept before another takes its place
    if earlier:
        show.say(to, f"{run} holds another audit; its numbers are kept as {min(earlier)}.")
    new = {NUMBERS: store.json_bytes({**numbers, "page": to_builtins(page)}), PAGE: render(page).encode()}
    if rows:
        new[ROWS] = store.json_bytes(row_results(done))
        show.say(to, f"{run / ROWS} holds what was found row by row, under names that only your key can give to rows.")
    store.amend_record(run, {**earlier, **new}, audit={"verdict": done.verdict, "plan_digest": numbers["plan_digest"]})
    return _without(store.read_json(run / NUMBERS), "page", "request")


def _earlier(run: Path, request: dict[str, Any]) -> dict[str, bytes]:
    """Give the numbers of another audit under the name they are kept by; nothing where this very one was broken off."""
    if not (run / NUMBERS).is_file():
        return {}
    held = store.read_json(run / NUMBERS)
    if isinstance(held, dict) and held.get("request") == msgspec.json.decode(msgspec.json.encode(request)):
        return {}
    digest = held.get("plan_digest", "earlier") if isinstance(held, dict) else "earlier"
    return {f"audit-{str(digest)[:12]}.json": (run / NUMBERS).read_bytes()}


def _without(held: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in held.items() if key not in keys}


def _tell(to: Console, found: dict[str, Any]) -> None:
    to.print(f"Verdict: [{STYLES[found['verdict']]}]{found['verdict']}[/]")
    for reason in found["reasons"]:
        show.say(to, f"  - {reason}")
    controls = [_control(name, outcome, found["verdict"]) for name, outcome in found["controls"].items()]
    show.say(to, f"Controls: {'; '.join(controls)}")
    to.print(show.accuracy_table(found["accuracy"]))
    for title, decides in (("decides", True), ("informs", False)):
        some = [one for one in found["measures"] if one["decides"] == decides]
        if some:
            to.print(show.measures_table(title, some))
    for note in [*found["notes"], *(f"left out: {one}" for one in found["left_out"])]:
        show.say(to, f"  - {note}")
    show.say(to, f"Open {found['report']}")


def _control(name: str, outcome: str, verdict: str) -> str:
    if outcome == "not run":
        return f"{name} not run"
    if (name, outcome) == ("nothing", "PASS") and verdict != "INVALID":
        return "nothing PASS, these rows left no trace that this audit can see"
    return f"{name} {outcome}, {'as' if outcome == CONTROLS[name] else 'NOT as'} it must"
