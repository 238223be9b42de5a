"""How a run of a ledger is begun, gone on with, and given up: what is refused before a batch is fixed."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from excise import checks, errors, store
from excise.ledger.entries import Run
from excise.lifecycle.papers import Papers, now
from excise.lifecycle.settings import differing
from excise.lifecycle.subject import Subject
from excise.lifecycle.work import NUMBERS, PAGE, PLAN, Options
from excise.oracles import Bank
from excise.pipeline.planning import require_tier
from excise.pipeline.unlearned import MASK, MODEL, PATCH
from excise.train.checkpoints import Checkpoints

REFUSED = "refused"
"""Where the record of a run says that its network lost too much accuracy, and waits for its owner's word."""
_OWN = {MODEL, MASK, PATCH, NUMBERS, PAGE, PLAN, store.RECORD, store.LAST_FINITE, store.BEGUN}


def require_auditable(subject: Subject, options: Options, bank: Path | None, checkpoint_seconds: float) -> None:
    """Refuse what a run could not come to its end with.

    Raises:
        errors.BadRequest: a tier that there is none of or that needs a plan; oracles at tier T0; a bank that is a file; no
            finite number of seconds.
    """
    require_tier(options.tier)
    if subject.plan is None and options.tier != "T0":
        raise errors.BadRequest(
            "plan: every run is audited beside networks retrained the way yours was, and this ledger does not know how; open "
            "it with a plan, or audit at tier T0, which passes nothing"
        )
    if options.tier == "T0" and options.oracles is not None:
        raise errors.BadRequest("oracles: tier T0 retrains nothing; leave them out, or take tier T1")
    checks.require_finite("checkpoint_seconds", checkpoint_seconds)
    Bank.of(bank)


def begun(papers: Papers, asked: dict[str, Any], *, anew: bool) -> tuple[Run, str]:
    """Give the run under way if it is this one, else a new one over all that is open; and what to say before its work.

    Raises:
        errors.BadRequest: a run was begun with other settings; or where the new run would be kept lies something.
    """
    for dropped in papers.book.runs():
        if dropped.state == "dropped":  # by a call that was killed before it had removed everything
            _remove_files(papers.run_directory(dropped.number), dropped)
    run = next((one for one in papers.book.runs() if one.state == "begun"), None)
    if run is not None and not anew and run.asked != asked:
        raise errors.BadRequest(
            f"run {run.number} was begun with other settings and is not done ({differing(run.asked, asked)[0]}); give the "
            "same to go on with it, or `--anew` (anew=True) to give it up and begin again"
        )
    _require_free(papers.run_directory(len(papers.book.runs()) + 1))
    if run is not None and anew:
        give_up(papers, run)
        run = None
    run = run or papers.book.begin(secrets.token_hex(16), now(), asked)
    return run, _repeating(papers, run)


def give_up(papers: Papers, run: Run) -> None:
    """Give up a run, and remove what it has made; its requests wait for the next."""
    papers.book.drop(run.number)
    _remove_files(papers.run_directory(run.number), run)


def _require_free(directory: Path) -> None:
    held = sorted(one.name for one in directory.iterdir()) if directory.is_dir() else []
    if held or (directory.exists() and not directory.is_dir()):
        raise errors.BadRequest(
            f"the next run would be kept in {directory}, and there lies something that no run has put there "
            f"({held[0] if held else 'a file'}); move it elsewhere"
        )


def _remove_files(directory: Path, run: Run) -> None:
    """Remove what a run that was given up has made, a network that nobody needs, and nothing else."""
    if not directory.is_dir():
        return
    record = directory / store.RECORD
    if record.is_file() and store.read_sealed(record).get("request", {}).get("run") != run.id:
        return  # somebody has put another run there
    Checkpoints(directory / store.CHECKPOINTS).clear()
    store.sweep([directory])
    for name in sorted(_OWN - {store.RECORD}):
        if (directory / name).is_file():
            store.remove(directory / name)
    store.remove(record)  # last, since it says whose the rest is


def _repeating(papers: Papers, run: Run) -> str:
    for before in papers.book.runs():
        verdict = before.found.get("verdict")
        if verdict == "FAIL" and (before.asked, before.requests) == (run.asked, run.requests):
            return (
                f"run {before.number} unlearned the same requests with the same recipe, settings and seed, and came to FAIL: "
                "the same network will come out again; take another recipe or seed"
            )
    return ""
