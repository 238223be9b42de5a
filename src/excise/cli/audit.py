"""`excise audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from torch import nn

from excise import errors, params, store
from excise.cli import show, tables
from excise.masks import Mask
from excise.patch import Patch
from excise.pipeline import Audit, Unlearned, audit
from excise.pipeline.auditing import audit_page, environment
from excise.pipeline.unlearned import MASK, MODEL
from excise.train.engine import Cost

NUMBERS, PAGE = "audit.json", "report.html"
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
    plan: str | None = None


class _Made(msgspec.Struct, frozen=True, kw_only=True):
    """What an audit needs to know of the result of a run."""

    recipe: str
    seed: int
    frozen_digest_before: str
    frozen_digest_after: str
    trained_rows: int
    forward_rows: int
    seconds: float
    peak_bytes: int
    retraining_share: float | None


def run(
    *,
    run: Path,
    plan: str | None,
    oracles: int,
    model: str | None,
    weights: Path | None,
    data: str | None,
    forget: Path | None,
    test: str | None,
    data_root: Path | None,
    seed: int,
    device: str,
    quiet: bool,
) -> tuple[dict[str, Any], int]:
    """Audit the network of a run directory; write audit.json and report.html into it."""
    to = show.console(quiet=quiet)
    record, asked, made = _read_run(run)
    how = tables.read_plan(plan or asked.plan)
    if how is None:
        raise errors.BadRequest(
            "--plan: an audit retrains networks the way yours was trained and needs to know how; give a TOML file with "
            "epochs, lr, batch_size, … (the fields of excise.TrainPlan) or pkg.mod:train"
        )
    original = weights or Path(asked.weights)
    if original.is_file() and store.file_digest(original) != asked.weights_sha256:
        raise errors.Corrupt(f"{original} does not hold the weights that {run} was made from; give the same file")
    problem = tables.read_problem(
        model=model or asked.model,
        weights=original,
        data=data or asked.data,
        forget=forget or Path(asked.forget),
        device=device,
        test=test,
        data_root=data_root or (Path(asked.data_root) if asked.data_root else None),
    )
    if problem.request["forget_commitment"] != asked.forget_commitment:
        raise errors.Corrupt(
            f"the forget ids are not those that {run} was made with (or this machine has not the key they were recorded "
            "under); give the same file, where the run was made"
        )
    if problem.split.test is None:
        raise errors.BadRequest("--test: an audit needs rows that the network never saw; give pkg.mod:test")
    request = {
        "command": "audit",
        **problem.request,
        "test": test,
        "plan": plan or asked.plan,
        "plan_values": tables.plan_values(how),
        "oracles": oracles,
        "seed": seed,
        "audited": record["files"],
        "environment": environment(),
    }
    numbers = _finished(run, request)
    if numbers is None:
        with show.progress(quiet=quiet) as hooks:
            done = audit(
                _unlearned(run, made, problem.model),
                problem.split,
                plan=how,
                fresh=problem.fresh,
                oracles=oracles,
                original=problem.model,
                seed=seed,
                hooks=hooks,
                cache=run / "oracles",
            )
        numbers = _written(run, request, done)
    else:
        show.say(to, f"{run} already holds this audit, complete; nothing was done.")
    found = {**numbers, "report": str(run / PAGE)}
    _tell(to, found)
    return found, errors.AuditInvalid.exit_code if found["verdict"] == "INVALID" else 0


def _read_run(run: Path) -> tuple[dict[str, Any], _Asked, _Made]:
    """Give the record of a run of `excise unlearn`, what was asked there and what was made, files checked."""
    if not (run / store.RECORD).is_file():
        raise errors.BadRequest(f"expected the directory of an `excise unlearn` run, found no {store.RECORD} in {run}")
    record = store.read_record(run)
    try:
        asked = msgspec.convert(record.get("request"), _Asked)
        if asked.command == "unlearn":
            return record, asked, msgspec.convert(record.get("result"), _Made)
    except msgspec.ValidationError as error:
        raise errors.Corrupt(f"{run / store.RECORD} is not a record that this version can read: {error}") from error
    raise errors.BadRequest(
        f"expected the directory of an `excise unlearn` run, found one of {asked.command!r} in {run}"
    )


def _finished(run: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    """Give the numbers of this very audit, if it has been made."""
    if not (run / NUMBERS).is_file() or not (run / PAGE).is_file():
        return None
    held = store.read_json(run / NUMBERS)
    same = isinstance(held, dict) and held.get("request") == msgspec.json.decode(msgspec.json.encode(request))
    return _without(held, "page", "request") if same else None


def _written(run: Path, request: dict[str, Any], done: Audit) -> dict[str, Any]:
    """Write the page, then the numbers, which say that the audit is complete."""
    done.save(run / PAGE)
    store.write_json(
        run / NUMBERS, {**done.to_dict(), "request": request, "page": msgspec.to_builtins(audit_page(done))}
    )
    return _without(store.read_json(run / NUMBERS), "page", "request")


def _without(held: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in held.items() if key not in keys}


def _tell(to: Console, found: dict[str, Any]) -> None:
    to.print(f"Verdict: [{STYLES[found['verdict']]}]{found['verdict']}[/]")
    for reason in found["reasons"]:
        show.say(to, f"  - {reason}")
    controls = ", ".join(f"{name} {outcome}" for name, outcome in found["controls"].items())
    show.say(to, f"Controls: {controls}")
    to.print(show.accuracy_table(found["accuracy"]))
    to.print(show.measures_table(found["measures"]))
    show.say(to, f"Open {found['report']}")


def _unlearned(run: Path, made: _Made, original: nn.Module) -> Unlearned:
    """Give the network of a run directory as `unlearn` gave it, whose files `read_record` has checked."""
    network = params.clone_model(original)
    params.load_strictly_(network, store.read_tensors(run / MODEL)[0], str(run / MODEL))
    mask = Mask.load(run / MASK)
    return Unlearned(
        model=network,
        recipe=made.recipe,
        mask=mask,
        localized=mask,
        frozen_digest=made.frozen_digest_after,
        frozen_digest_before=made.frozen_digest_before,
        patch=Patch.between(original, network),
        trace=(),
        cost=Cost(
            trained_rows=made.trained_rows,
            forward_rows=made.forward_rows,
            seconds=made.seconds,
            peak_bytes=made.peak_bytes,
            retraining_share=made.retraining_share,
        ),
        seed=made.seed,
    )
