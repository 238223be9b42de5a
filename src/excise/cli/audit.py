"""`excise audit`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from torch import nn

from excise import errors, params, store
from excise.cli import show, tables
from excise.masks import Mask
from excise.patch import Patch
from excise.pipeline import Unlearned, audit
from excise.pipeline.auditing import audit_page
from excise.pipeline.unlearned import MASK, MODEL
from excise.train.engine import Cost

STYLES = {"PASS": "bold green", "FAIL": "bold red", "INCONCLUSIVE": "bold yellow", "INVALID": "bold yellow"}


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
    json: bool,
    quiet: bool,
) -> int:
    """Audit the network of a run directory; write audit.json and report.html into it."""
    to = show.console(quiet=quiet, json=json)
    record = store.read_record(run)
    asked = record["request"]
    if asked.get("command") != "unlearn":
        raise errors.BadRequest(f"{run} holds a run of {asked.get('command')!r}; expected a run of `excise unlearn`")
    how = tables.read_plan(plan or asked["plan"])
    if how is None:
        raise errors.BadRequest(
            "--plan: an audit retrains networks the way yours was trained and needs to know how; give a TOML file with "
            "epochs, lr, batch_size, … (the fields of excise.TrainPlan) or pkg.mod:train"
        )
    problem = tables.read_problem(
        model=model or asked["model"],
        weights=weights or Path(asked["weights"]),
        data=data or asked["data"],
        forget=forget or Path(asked["forget"]),
        device=device,
        test=test,
        data_root=data_root or (Path(asked["data_root"]) if asked["data_root"] else None),
    )
    if store.commitment(problem.split.forget.ids) != asked["forget_commitment"]:
        raise errors.Corrupt(f"the forget ids are not those that {run} was made with; give the same file")
    if store.file_digest(weights or Path(asked["weights"])) != asked["weights_sha256"]:
        raise errors.Corrupt(f"the original weights are not those that {run} was made with; give the same file")
    with show.progress(to) as hooks:
        done = audit(
            _unlearned(run, record, problem.model),
            problem.split,
            plan=how,
            fresh=problem.fresh,
            oracles=oracles,
            original=problem.model,
            seed=seed,
            hooks=hooks,
            cache=run / "oracles",
        )
    page = run / "report.html"
    done.save(page)
    numbers = {**done.to_dict(), "report": str(page)}
    store.write_json(run / "audit.json", {**numbers, "page": msgspec.to_builtins(audit_page(done))})
    to.print(f"Verdict: [{STYLES[done.verdict]}]{done.verdict}[/]")
    for reason in done.reasons:
        to.print(f"  - {reason}", markup=False)
    to.print(f"Controls: {', '.join(f'{name} {outcome}' for name, outcome in done.controls.items())}", markup=False)
    to.print(show.measures_table(numbers["measures"]))
    to.print(f"{done.seconds:.1f} s. Open {page}")
    if json:
        show.emit(numbers)
    return errors.AuditInvalid.exit_code if done.verdict == "INVALID" else 0


def _unlearned(run: Path, record: dict[str, Any], original: nn.Module) -> Unlearned:
    """Give the network of a run directory as `unlearn` gave it, whose files `read_record` has checked."""
    result = record["result"]
    network = params.clone_model(original)
    params.load_strictly_(network, store.read_tensors(run / MODEL)[0], str(run / MODEL))
    mask = Mask.load(run / MASK)
    cost = Cost(
        result["trained_rows"],
        result["forward_rows"],
        result["seconds"],
        result["peak_bytes"],
        result["retraining_share"],
    )
    made = Unlearned(
        model=network,
        recipe=result["recipe"],
        mask=mask,
        localized=mask,
        frozen_digest=result["frozen_digest_after"],
        frozen_digest_before=result["frozen_digest_before"],
        patch=Patch.between(original, network),
        trace=(),
        cost=cost,
        seed=result["seed"],
    )
    return replace(made)
