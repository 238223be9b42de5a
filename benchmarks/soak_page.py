"""docs/reliability.md: what is promised, how it is tried, and what the last soak found."""

from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reliability.md"

BEFORE = """# Reliability

What happens to files when a command is killed, the disk fails, or somebody changes a file; and how often that was tried.
Written by `make soak`; do not edit.

## What holds

- **A file is the old one or the new one.** Each is written under a temporary name, synced, and renamed; the directory is
  synced after that. A run's record, `run.json`, is written last and names the SHA-256 of every other file. What is added later
  (an audit, its page) is announced in the record, written, then entered.
- **The same command again goes on.** `excise unlearn` keeps checkpoints while it trains (`--checkpoint-seconds`, 30 unless
  said otherwise; none under `--strategy fsdp`), an audit keeps each retrained network in the bank, a search each trial, a
  ledger each step. What comes out in the end is the same to the bit as if nobody had disturbed the command; only times differ,
  and an audit's own cost, which counts what the process that finished it has trained.
- **A signal is obeyed within seconds.** Ctrl-C and SIGTERM have a training finish its step and keep it (4 seconds at most),
  then the command stops with exit code 130 or 143.
- **A disk that fails is told of.** Exit code 5, one message with the file, its size and what to do; what was there before
  stays. Memory that runs out is exit code 9, a loss or weight that stops being finite exit code 8; no network is written then.
- **A changed file is found before it is used.** Exit code 6, with the file and what to do. A damaged checkpoint is passed over
  for the one before it, and that is said. `excise fsck DIR` looks at every file of a run, a search, a bank or a ledger.
- **One run at a time in a directory.** Who comes second is refused at once with exit code 7 and the number of the process that
  holds it. The lock is the kernel's, so a killed process holds nothing.
- **Nothing is left lying about.** The next run in a directory removes what a killed one has left of a broken-off write.

## How it is tried

`tests/crash` does a few of each trial in every test run, `make soak` all of them. One process imports everything once and forks
another for each command, in a project of its own with a home, cache and temporary directory of its own. After each trial
`fsck` must find nothing damaged, the same command given again must end well, and every file must hold what it holds where
nobody disturbed the command: networks, masks and patches by their digest, records, numbers and receipts but for times and
what is drawn by lot, pages as the page of their numbers; and there must be no other file.

- *Killed*: at a moment drawn evenly over the time that the command takes. Commands: unlearn (every step kept), audit with 4
  oracles, audit at tier T0, report, purge, tune, the beginning of a ledger, two requests and the run that answers them.
  What a step of the ledger has acknowledged must be there.
- *Failed calls*: each call in turn that opens for writing, writes, syncs, renames, removes or makes something fails, by ENOSPC,
  EIO and EACCES in turn, once or from then on. *Full disks*: no file may grow beyond some length.
- *Changed files*: one bit anywhere in a file of each kind, a cut end, another run's file. The room that SQLite leaves in the
  pages of a ledger's book is nobody's: a bit there counts as found if the book says exactly what it said before.
- *Edits*: of logs, receipts and weights, by `excise verify` (see [the ledger](ledger.md)).
"""

AFTER = """
## What is not promised

- A network file system may not carry the kernel's locks between machines; then two machines are not kept apart.
- What the disk says is synced is taken to be so. Power cuts were not tried, only processes killed.
- POSIX systems only. On macOS a sync does not reach through the drive's own cache.
- Hashes find accidents. Who can write to a directory can write a new record for what they changed; a receipt in an exported
  ledger is what shows that.
- Bits are the same for the same versions, kind of processor and number of threads; the record names them.
- The time to stop by a signal is that of one training step, or 4 seconds, whatever is less; what runs outside of Python (one
  operation of torch) is waited for.
"""


def render(result: dict[str, Any]) -> str:
    """Give the page of the results."""
    told = ", ".join(f"{key} {value}" for key, value in result["environment"].items())
    lines = [
        BEFORE,
        "## What was found",
        "",
        f"Measured with {told}; {result['seconds'] / 60:.0f} minutes on {result['asked']['processes']} processes.",
        "",
        "| trials | how many | not as it should be | besides |",
        "|---|---:|---:|---|",
    ]
    for what, row in sorted(result["rows"].items()):
        lines.append(f"| {what} | {row['trials']:,} | {row['wrong']} | {_besides(row)} |")
    return "\n".join(lines) + "\n" + AFTER


def _besides(row: dict[str, Any]) -> str:
    told = []
    if "hit" in row:
        told.append(f"{row['hit']} met the command at work")
    if "late" in row:
        told.append(f"ended within {row['late']:.2f} s of the signal")
    if "refused_seconds" in row:
        told.append(f"seven refused within {row['refused_seconds']:.2f} s of their start")
    return "; ".join(told)
