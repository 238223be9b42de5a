"""Repeat the runs of a ledger from the original network, and see whether the same bits come out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from excise import errors, params
from excise.ledger.entries import Run
from excise.lifecycle.answering import unlearned_again
from excise.lifecycle.papers import Papers, opened
from excise.lifecycle.requesting import require_life
from excise.lifecycle.settings import code_digest, differing, recipe_values
from excise.lifecycle.subject import Subject
from excise.lifecycle.work import Options
from excise.recipes import Recipe
from excise.train.hooks import Hooks

RecipeOf = Callable[[Mapping[str, Any]], Recipe | None]
"""Gives the recipe of a run from what was asked then (`Run.asked`); None where it cannot be made again."""


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """What came of repeating one run.

    Attributes:
        seq: of its receipt.
        run: its number.
        outcome: valid (the same bits), different, or not comparable.
        expected: digest of the network, as the receipt has it.
        found: digest of the network that was made now, or None.
        reason: why it is not valid; empty if it is.
    """

    seq: int
    run: int
    outcome: Literal["valid", "different", "not comparable"]
    expected: str
    found: str | None
    reason: str


def among(recipes: Iterable[Recipe]) -> RecipeOf:
    """Give the lookup that finds a run's recipe among some, by name and all settings."""
    known = [(one.name, recipe_values(one), one) for one in recipes]

    def find(asked: Mapping[str, Any]) -> Recipe | None:
        return next(
            (one for name, values, one in known if (name, values) == (asked["recipe"], asked["settings"])), None
        )

    return find


def replay(
    directory: str | Path,
    subject: Subject,
    recipe_of: RecipeOf,
    *,
    seq: int | None = None,
    hooks: Hooks | None = None,
) -> list[Replayed]:
    """Repeat the runs of a ledger in order, each from the network that the repetition itself has come to.

    Costs what the unlearnings cost; nothing is audited again, nothing is written. In another environment (versions,
    machine, threads, device) the same bits are not promised, so a run made in one is not comparable, never valid.

    Args:
        directory: of the ledger.
        subject: the original network and its rows.
        recipe_of: finds the recipes.
        seq: of the last receipt to come to; all if None.
        hooks: who watches.

    Raises:
        errors.BadRequest: no such receipt; the network is not the original.
        errors.Corrupt: as `opened`, or other training data than the ledger's.
    """
    with opened(directory) as papers:
        life, key = require_life(papers, subject.trained)
        receipts = papers.log.receipts()
        if seq is not None and not 1 <= seq <= len(receipts):
            raise errors.BadRequest(f"expected the number of a receipt, 1 to {len(receipts)}; found {seq}")
        model = subject.original(life)
        if model is None:
            raise errors.BadRequest(
                "a replay begins with the original network, and this is another; give the weights that the ledger was "
                "opened with"
            )
        runs = {run.seq: run for run in papers.book.runs()}
        found, broken = [], ""
        for receipt in receipts[:seq]:
            run = runs[receipt["seq"]]
            forget, gone = (subject.trained.ids_of(some, key) for some in _rows(papers, run))
            num_missing = _num_rows(receipt) - (len(subject.trained.rows) - len(gone))
            recipe, reason = _comparable(papers, subject, run, recipe_of, num_missing)
            reason = broken or reason
            digest = None
            if not reason and recipe is not None:
                split = subject.trained.split(forget, gone)
                options = msgspec.convert(run.asked["options"], Options)
                made = unlearned_again(subject, model, split, recipe, options, hooks or Hooks()).model
                digest = f"sha256:{params.model_digest(made)}"
                model = made if run.found["adopted"] else model
            found.append(_judged(receipt, run, digest, reason, subject.model_code()))
            if found[-1].outcome != "valid" and run.found["adopted"]:
                broken = f"it begins with the network of entry {receipt['seq']}, which did not come out"
        return found


def faults(replayed: Iterable[Replayed]) -> list[str]:
    """Say in sentences what keeps a replay from being valid; none where every run came out to the bit."""
    return [f"entry {one.seq}: replay {one.outcome}: {one.reason}" for one in replayed if one.outcome != "valid"]


def _judged(receipt: Mapping[str, Any], run: Run, digest: str | None, reason: str, model_code: str | None) -> Replayed:
    expected, method = receipt["model_after"], receipt["method"]
    outcome: Literal["valid", "different", "not comparable"] = "valid"
    if digest is None:
        outcome = "not comparable"
    elif digest != expected and method["code"] != code_digest():
        outcome, reason = "not comparable", f"it was made by other code ({method['code']}), and other bits came out"
    elif digest != expected and method["model_code"] != model_code:
        outcome = "not comparable"
        reason = f"its network was built by other code ({method['model_code']}), and other bits came out"
    elif digest != expected:
        outcome, reason = "different", "other bits came out of the same settings, rows and environment"
    return Replayed(seq=receipt["seq"], run=run.number, outcome=outcome, expected=expected, found=digest, reason=reason)


def _num_rows(receipt: Mapping[str, Any]) -> int:
    """Give how many rows there were, to forget and to retain."""
    return int(receipt["retain_rows"]) + sum(int(one["num_rows"]) for one in receipt["requests"])


def _comparable(
    papers: Papers, subject: Subject, run: Run, recipe_of: RecipeOf, num_missing: int
) -> tuple[Recipe | None, str]:
    """Give the recipe, or why a run cannot be repeated here."""
    elsewhere = differing(run.asked["environment"], msgspec.json.decode(msgspec.json.encode(subject.environment())))
    if elsewhere:
        return None, f"it was made in another environment ({'; '.join(elsewhere)})"
    before = [one for one in papers.book.runs() if one.state == "done" and one.number <= run.number]
    named = {request for one in before for request in one.requests}
    keyless = [one.id for one in papers.book.requests() if one.id in named and one.key_id is None]
    if keyless:
        return None, f"the key of request {keyless[0]} was destroyed, and with it which rows it named"
    if num_missing:
        return None, f"{num_missing} of its rows are no longer in the training data"
    recipe = recipe_of(run.asked)
    if recipe is None or recipe_values(recipe) != run.asked["settings"]:
        return None, f"its recipe ({run.asked['recipe']}) cannot be made again with the settings it had; give it"
    return recipe, ""


def _rows(papers: Papers, run: Run) -> tuple[list[bytes], list[bytes]]:
    """Give the digests of the rows a run was to forget, and of those that were gone by then."""
    earlier = {
        request
        for one in papers.book.runs()
        if one.number < run.number and one.found.get("adopted")
        for request in one.requests
    }
    rows = papers.book.rows()
    forget = [digest for digest, request in rows.items() if request in run.requests]
    return forget, [digest for digest, request in rows.items() if request in earlier]
