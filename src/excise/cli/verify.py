"""`excise verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from excise import errors, verify
from excise.cli import show
from excise.cli.ledger import replay_faults


def run(
    *,
    receipt: Path,
    weights: Path | None,
    log: Path | None,
    head: str | None,
    audit: Path | None,
    seed: int,
    device: str,
    quiet: bool,
    record: Path | None = None,
    replay: Path | None = None,
) -> tuple[dict[str, Any], int]:
    """Check a receipt, and what is given beside it; 6 where a file is not what its record says, 3 for other faults.

    The device is that of a replay; the seeds of its runs are the recorded ones, and `seed` is of no use.
    """
    try:
        found = verify.faults(receipt, weights=weights, log=log, head=head, audit=audit, record=record)
        said, notes = verify.outlook(receipt, {"weights": weights, "log": log, "head": head, "audit": audit})
    except OSError as error:
        raise errors.BadData(f"{error.filename} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise errors.BadRequest(str(error)) from error
    if replay is not None:
        found = [*found, *replay_faults(receipt, replay, device, quiet=quiet)]
    to = show.console(quiet=quiet)
    show.say(to, "\n".join([*[said] * bool(said), f"{receipt} is {'not ' if found else ''}valid", *found, *notes]))
    code = 0 if not found else 6 if any(isinstance(one, verify.Mismatch) for one in found) else 3
    return {"valid": not found, "says": said, "reasons": found, "notes": notes}, code
