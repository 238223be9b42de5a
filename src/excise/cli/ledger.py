"""`excise ledger`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from excise import errors, lifecycle, params, store
from excise.cli import choices, show, tables
from excise.cli.fleets import read_fleet
from excise.cli.stopping import stoppable
from excise.lifecycle import Ledger, Trained
from excise.oracles import default_bank
from excise.recipes import Recipe

VERDICT_CODES = {"FAIL": errors.Refused.exit_code, "INVALID": errors.AuditInvalid.exit_code}
"""Exit codes of a run whose requests stay open."""


def run(*, what: str, quiet: bool, **options: Any) -> tuple[dict[str, Any], int]:
    """Do one of the commands of `excise ledger`, by the word after it."""
    works: dict[str, Callable[..., tuple[dict[str, Any], int]]] = {
        "open": _open,
        "request": _request,
        "status": _status,
        "run": _run,
        "head": _head,
        "receipt": _receipt,
        "replay": _replay,
        "forget-key": _forget_key,
        "withdraw": _withdraw,
        "show-record": _show_record,
    }
    unused = {"open": {"seed"}, "replay": {"seed"}, "run": set()}.get(what, {"seed", "device"})
    own = {name: value for name, value in options.items() if name not in unused}
    return works[what](to=show.console(quiet=quiet), quiet=quiet, **own)


def _open(
    *,
    directory: Path,
    model: str,
    weights: Path,
    data: str,
    test: str | None,
    plan: str | None,
    holdout: str | None,
    max_drop: float,
    due_days: int,
    after: Path | None,
    data_root: Path | None,
    device: str,
    to: Console,
    quiet: bool,
) -> tuple[dict[str, Any], int]:
    words = {
        "model": model,
        "weights": str(weights),
        "data": data,
        "test": test,
        "plan": plan,
        "holdout": holdout,
        "data_root": None if data_root is None else str(data_root),
    }
    given = _given(words, weights, device)
    made = Ledger.open(directory, **given, max_drop=max_drop, due_days=due_days, after=after, words=words)
    found = {"directory": str(directory), **_some(made.status(), "original", "num_rows", "test_accuracy")}
    show.say(
        to,
        f"{directory}: the life of a network begins, with {found['num_rows']:,} training rows and "
        f"{show.percent(found['test_accuracy'])} % test accuracy. Its keys lie apart, in $XDG_STATE_HOME/excise/keys: keep a "
        "copy; without them no row is found again.",
    )
    return found, 0


def _request(
    *,
    directory: Path,
    forget: Path | None,
    records: str | None,
    reason: str,
    due: str | None,
    to: Console,
    quiet: bool,
) -> tuple[dict[str, Any], int]:
    trained = _trained(_words(directory))
    ids = None if forget is None else tables.read_ids(forget, len(trained.rows.source))
    made = lifecycle.add_request(
        directory,
        trained,
        forget=ids,
        records=None if records is None else tables.read_rows(records, "--records"),
        reason=reason,
        due=None if due is None else _date(due),
    )
    found = {**msgspec.to_builtins(made), "directory": str(directory)}
    show.say(to, f"Request {made.id}: {counted(made.num_rows, 'row')}, exact copies included; due {made.due}.")
    show.say(to, f"Answer it by: excise ledger run {directory}")
    return found, 0


def _status(*, directory: Path, to: Console, quiet: bool) -> tuple[dict[str, Any], int]:
    found = lifecycle.status(directory)
    if found["requests"]:
        table = show.plain_table("request", "rows", "due", "left", "state", "verdict", "receipt")
        for number, one in enumerate(found["requests"], 1):
            left = "" if one["days_left"] is None else f"{one['days_left']} d{' OVERDUE' if one['overdue'] else ''}"
            state = "running" if one["running"] else "waits" if one["waits"] else one["state"]
            told = (one["num_rows"], one["due"], left, state, one["verdict"] or "", one["receipt"] or "")
            table.add_row(str(number), *map(str, told))
        to.print(table)
        for number, one in enumerate(found["requests"], 1):  # below: 32 digits leave too little of 80 columns
            show.say(to, f"request {number}: {one['id']}")
    if found["runs"]:
        table = show.plain_table("run", "recipe", "requests", "state", "verdict", "adopted", "receipt")
        for one in found["runs"]:
            told = (
                one["recipe"],
                one["num_requests"],
                one["state"],
                one["verdict"] or "",
                "" if one["verdict"] is None else "yes" if one["adopted"] else "no",
                one["receipt"],
            )
            table.add_row(str(one["number"]), *("" if cell is None else str(cell) for cell in told))
        to.print(table)
    show.say(to, _summary(found))
    for one in found["runs"]:
        if one["waits"]:
            show.say(to, f"Run {one['number']} waits for {one['waits']}.")
    for one in found["notes"]:
        show.say(to, one)
    for one in found["advice"]:
        show.say(to, f"Retrain from scratch on the rows that are left: {one}.")
    return found, 0


def _summary(found: Mapping[str, Any]) -> str:
    drift = found["drift"]
    cost = "–" if drift["retrainings"] is None else f"{drift['retrainings']:.2f}"
    distance = "–" if drift["distance"] is None else f"{drift['distance']:.3f}"
    return (
        f"{found['waiting']} waiting, {found['overdue']} overdue; in use: {found['model'] or 'the original'}. Since the "
        f"original: {show.percent(drift['forgotten_fraction'])} % of the rows forgotten, weights moved by {distance} of their "
        f"length, test accuracy changed by {100 * drift['test_accuracy_change']:+.1f} percentage points, {cost} retrainings "
        f"spent by runs with a receipt. Head {found['head']['seq']}."
    )


def _run(
    *,
    directory: Path,
    recipe: str,
    settings: list[str] | None,
    tier: str | None,
    oracles: int | None,
    bank: Path | None,
    cluster: str | None,
    at_once: int | None,
    keep_statistics: bool,
    accept_drop: bool,
    anew: bool,
    checkpoint_seconds: float,
    seed: int,
    device: str,
    to: Console,
    quiet: bool,
) -> tuple[dict[str, Any], int]:
    made, fleet = _ledger(directory, device), read_fleet(cluster, at_once)
    how = choices.read_recipe(recipe, settings, made.subject.plan)
    with show.progress(quiet=quiet) as hooks:
        found = made.run(
            how,
            seed=seed,
            tier=tier,
            oracles=oracles,
            recompute=not keep_statistics,
            accept_drop=accept_drop,
            anew=anew,
            bank=bank or default_bank(),
            fleet=fleet,
            words={"recipe": recipe, "set": sorted(settings or ())},
            hooks=hooks,
            checkpoint_seconds=checkpoint_seconds,
            watched=stoppable,
        )
    show.say(
        to,
        f"Run {found['run']}: {counted(len(found['requests']), 'request')}, verdict {found['verdict']}; receipt "
        f"{found['seq']}.",
    )
    for reason in found["reasons"]:
        show.say(to, f"  - {reason}")
    if not found["adopted"]:
        show.say(to, "The network is not adopted and the requests stay open; run again with another recipe.")
    elif found["verdict"] != "PASS":
        show.say(to, _undecided(tier))
    show.say(to, f"Open {found['report']}")
    return found, VERDICT_CODES.get(found["verdict"], 0)


def _undecided(tier: str | None) -> str:
    """Say what is done with a network whose audit could not decide."""
    why = "at tier T0 no network is retrained, and nothing can pass" if tier == "T0" else "the audit could not decide"
    return (
        f"The network is adopted all the same, and its requests count as answered with the verdict INCONCLUSIVE: {why}. "
        "Whether the rows are forgotten was not shown."
    )


def _head(*, directory: Path, out: Path | None, to: Console, quiet: bool) -> tuple[dict[str, Any], int]:
    found = lifecycle.head(directory) if out is None else lifecycle.export_head(directory, out)
    show.say(to, f"{found['seq']}:{found['hash'].removeprefix('sha256:')}")
    return found, 0


def _receipt(*, directory: Path, which: str, out: Path, to: Console, quiet: bool) -> tuple[dict[str, Any], int]:
    found = lifecycle.export_receipt(directory, which, out)
    show.say(
        to,
        f"Wrote {out}: receipt {found['seq']}, verdict {found['audit']['verdict']}. Check it by: excise verify {out}",
    )
    return {"out": str(out), "receipt": found}, 0


def _replay(*, directory: Path, seq: int | None, device: str, to: Console, quiet: bool) -> tuple[dict[str, Any], int]:
    found = replayed(directory, seq, device, quiet=quiet)
    for one in found:
        show.say(to, f"receipt {one.seq}: {one.outcome}{f' ({one.reason})' if one.reason else ''}")
    reasons = lifecycle.faults(found)
    told = {"valid": not reasons, "reasons": reasons, "replayed": msgspec.to_builtins(found)}
    return told, errors.Refused.exit_code if reasons else 0


def replayed(directory: Path, seq: int | None, device: str, *, quiet: bool) -> list[lifecycle.Replayed]:
    """Repeat a ledger's runs up to a receipt, with the network, data and recipes that were named when it was made."""
    made = _ledger(directory, device)

    def again(asked: Mapping[str, Any]) -> Recipe | None:
        words = asked["options"]["words"]
        if "recipe" not in words:  # it was made from Python
            return None
        return choices.read_recipe(words["recipe"], words["set"], made.subject.plan)

    with show.progress(quiet=quiet) as hooks:
        return lifecycle.replay(directory, made.subject, again, seq=seq, hooks=hooks)


def replay_faults(receipt: Path, directory: Path, device: str, *, quiet: bool) -> list[str]:
    """Say what keeps a receipt's run, and those before it, from coming out again to the bit; for `excise verify --replay`.

    Raises:
        errors.BadData: the receipt cannot be read, or there is no such ledger.
    """
    told = store.read_json(receipt)
    seq = told.get("seq") if isinstance(told, dict) else None
    if not isinstance(seq, int) or lifecycle.receipt(directory, seq) != told:
        return [f"replay: this receipt is not the one that {directory} holds under its number"]
    return lifecycle.faults(replayed(directory, seq, device, quiet=quiet))


def _forget_key(*, directory: Path, request: str, to: Console, quiet: bool) -> tuple[dict[str, Any], int]:
    found = lifecycle.forget_key(directory, request)
    done = (
        "is destroyed" if found["found"] else "is not on this machine: it is noted as gone, and may lie elsewhere still"
    )
    show.say(to, f"The key of request {request} {done}. Lost with it: {'; '.join(found['lost'])}.")
    return found, 0


def _withdraw(*, directory: Path, request: str, to: Console, quiet: bool) -> tuple[dict[str, Any], int]:
    lifecycle.withdraw(directory, request)
    show.say(to, f"Request {request} is taken back. It gets no receipt, and its rows may be named again.")
    return {"request": request, "state": "withdrawn"}, 0


def _show_record(
    *, directory: Path, request: str, row: int | None, record: str | None, out: Path, to: Console, quiet: bool
) -> tuple[dict[str, Any], int]:
    given = None if record is None else tables.read_rows(record, "--record")
    found = lifecycle.show_record(directory, _trained(_words(directory)), request, out, row=row, record=given)
    show.say(to, f"Wrote {out}. Whoever has the receipt checks it by: excise verify RECEIPT --record {out}")
    return {"out": str(out), "request": request, **found}, 0


def _ledger(directory: Path, device: str) -> Ledger:
    """Give a ledger with the network and data that were named when it was opened."""
    words = _words(directory)
    original, in_use = Path(str(words["weights"])), lifecycle.status(directory)["model"]
    weights = original if original.is_file() or in_use is None else Path(in_use)
    return Ledger(directory, **_given(words, weights, device))


def _words(directory: Path) -> dict[str, str | None]:
    words = lifecycle.words(directory)
    if not words:
        raise errors.BadRequest(
            f"{directory} was opened from Python, and does not say where network and data are; go on from there, with "
            "excise.Ledger"
        )
    return words


def _given(words: Mapping[str, str | None], weights: Path, device: str) -> dict[str, Any]:
    """Give network, data and plan from the words that name them."""
    tables.require_device(device)
    state = store.read_weights(weights)
    train, held_out, known = _data(words)
    fresh, network = tables.build_model(str(words["model"]), known)
    params.load_strictly_(network, state, str(weights))
    return {
        "model": network.to(device),
        "train": train,
        "test": held_out,
        "holdout": _holdout(words),
        "plan": tables.read_plan(words["plan"]),
        "fresh": fresh,
    }


def _trained(words: Mapping[str, str | None]) -> Trained:
    train, held_out, _ = _data(words)
    return Trained(train, test=held_out, holdout=_holdout(words))


def _data(words: Mapping[str, str | None]) -> tuple[Any, Any, Any]:
    root = words["data_root"]
    return tables.read_data(str(words["data"]), words["test"], None if root is None else Path(root))


def _holdout(words: Mapping[str, str | None]) -> Any:
    return None if words["holdout"] is None else tables.read_rows(words["holdout"], "--holdout")


def _date(words: str) -> date:
    try:
        return date.fromisoformat(words)
    except ValueError as error:
        raise errors.BadRequest(f"--due: expected a date as YYYY-MM-DD, found {words!r}") from error


def counted(number: int, noun: str) -> str:
    """Give a number with its noun.

    >>> counted(1, "row"), counted(1200, "row")
    ('1 row', '1,200 rows')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _some(found: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: found[name] for name in names}
