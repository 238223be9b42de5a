"""Break commands off, fail their disks, flip their bits, at full size: `make soak`.

Writes benchmarks/results/soak.json and renders docs/reliability.md from it. The trials are those of tests/crash, which
runs a few of each.
"""

import argparse
import json
import multiprocessing
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import soak_page
from benchmarks.environment import environment
from tests.crash.failing import fail_at, fill_up
from tests.crash.flipping import (
    KINDS,
    cut,
    everything,
    files_of,
    flipped,
    is_found,
    is_passed_over,
    is_refused,
    swapped,
)
from tests.crash.killing import break_off
from tests.crash.project import Stages
from tests.crash.racing import append_all, race
from tests.crash.repeating import SURROUNDINGS, repeated
from tests.crash.shim import CODES, Failure
from tests.ledger import tampering
from tests.train import resuming

TARGET = soak_page.ROOT / "benchmarks" / "results" / "soak.json"
BROKEN = ("unlearn", "audit", "ledger", "unlearn", "look", "tune", "report", "purge", "unlearn", "open")
"""Commands in the order in which they are killed, again and again."""
FAILED = ("unlearn", "look", "report", "purge", "tune", "open", "ledger")
SHOWN = 5
LIMITS = (1000, 1500, 2000, 3000, 4500, 8000, 20_000)

Row = dict[str, Any]
Job = Callable[[Path], list[Row]]


def row(what: str, trials: int, wrong: list[str], **more: Any) -> Row:
    """Give what came of one kind of trial."""
    return {"what": what, "trials": trials, "wrong": len(wrong), "shown": wrong[:SHOWN], **more}


def tried(trial: Callable[[], Any], wrong: list[str]) -> Any:
    """Make a trial; what speaks against it is noted, and None given."""
    try:
        return trial()
    except AssertionError as error:
        wrong.append(str(error)[:2000])
    except Exception:
        wrong.append(traceback.format_exc()[-2000:])
    return None


def kills(count: int, number: int, first: int) -> Job:
    """Give the job that breaks commands off by a signal so many times."""

    def job(root: Path) -> list[Row]:
        stages, draws, wrong, done = Stages(root), random.Random(f"{number} {first}"), [], []
        for place in range(first, first + count):
            name = BROKEN[place % len(BROKEN)]
            found = tried(lambda name=name: break_off(stages, name, root / "trial", draws, number=number), wrong)
            done += [] if found is None else [found]
        worst = {} if number == signal.SIGKILL else {"late": max((one.late for one in done), default=0.0)}
        name = signal.Signals(number).name
        return [row(f"commands stopped by {name}", count, wrong, hit=sum(one.hit for one in done), **worst)]

    return job


def failures(name: str) -> Job:
    """Give the job in which each call that changes the disk fails once."""

    def job(root: Path) -> list[Row]:
        stages, wrong, number = Stages(root), [], 1
        stages.after(name)
        while number <= stages.calls[name] + SHOWN:  # some more: what a call that failed makes necessary
            failure = Failure(number, CODES[number % len(CODES)], lasting=number // len(CODES) % 2 == 1)
            tried(lambda failure=failure: fail_at(stages, name, root / "trial", failure), wrong)
            number += 1
        return [row("calls that failed", number - 1, wrong)]

    return job


def full_disks(root: Path) -> list[Row]:
    """Have commands write no file longer than some limit."""
    stages, wrong, hit = Stages(root), [], 0
    for name in ("unlearn", "look", "report", "ledger"):
        for limit in LIMITS:
            hit += bool(tried(lambda name=name, limit=limit: fill_up(stages, name, root / "trial", limit), wrong))
    return [row("disks that were full", 4 * len(LIMITS), wrong, hit=hit)]


def changes(flips: int, cuts: int) -> Job:
    """Give the job that changes one file after another."""

    def job(root: Path) -> list[Row]:
        stages = Stages(root)
        place, draws, rows = everything(stages, root / "everything"), random.Random(0), []
        for what, change, count in (("bits that were flipped", flipped, flips), ("ends that were cut", cut, cuts)):
            wrong: list[str] = []
            for number in range(count):
                name = [*KINDS][number % len(KINDS)]
                path = draws.choice(files_of(place, KINDS[name]))
                content = change(path.read_bytes(), draws)
                if not tried(lambda n=name, p=path, c=content: is_found(place, KINDS[n], p, c), wrong):
                    wrong.append(f"{name}: {path.name}")
            rows.append(row(what, count, wrong))
        wrong = []
        read = [name for name, kind in KINDS.items() if kind.used_by]
        for name in read:
            path = files_of(place, KINDS[name])[0]
            content = flipped(path.read_bytes(), draws)
            if not tried(lambda n=name, p=path, c=content: is_refused(place, KINDS[n], p, c), wrong):
                wrong.append(name)
        rows.append(row("commands given a changed file", len(read), wrong))
        found = swapped(place.copied_to(root / "own"))
        rows.append(row("files of another run", len(found), [name for name, seen in found.items() if not seen]))
        over = is_passed_over(stages, place.copied_to(root / "own"), draws)
        rows.append(row("newest checkpoints that were changed", 1, [] if over else ["it was not passed over"]))
        return rows

    return job


def races(root: Path) -> list[Row]:
    """Have processes want one directory, and one log."""
    stages, wrong, slowest = Stages(root), [], 0.0
    for _ in range(10):
        raced = tried(lambda: race(stages, root / "trial"), wrong)
        if raced is not None:
            slowest = max(slowest, *(one.seconds for one in raced.refused))
    receipts = tried(lambda: append_all(stages.after(None).copied_to(root / "log"), 8, 100), wrong) or []
    lost = [] if len(receipts) == 800 else [f"{len(receipts)} of 800 receipts"]
    return [
        row("races of eight processes for one directory", 10, wrong, refused_seconds=slowest),
        row("receipts by eight processes in one log", 800, lost),
    ]


def repetitions(root: Path) -> list[Row]:
    """Repeat commands where the surroundings differ."""
    stages, wrong = Stages(root), []
    found = {
        name: tried(lambda more=more: repeated(stages, root / "trial", more), wrong)
        for name, more in SURROUNDINGS.items()
    }
    first = found["hash seed 0"]
    wrong += [name for name, picture in found.items() if picture is not None and picture != first]
    return [row("repetitions with other hash seeds, zones, languages", len(found), wrong)]


def resumptions(root: Path) -> list[Row]:
    """Break unlearnings off at every step and go on."""
    wrong, events = [], 0
    for plan in resuming.PLANS:
        for name, method in resuming.some_methods(plan).items():
            go = resuming.unlearning(method, resuming.split())
            where = root / plan.replace(" ", "-") / name.replace(" ", "-")
            events += tried(lambda go=go, where=where: resuming.resume_at_every_step(go, where / "steps"), wrong) or 0
            events += tried(lambda go=go, where=where: resuming.resume_everywhere(go, where / "all"), wrong) or 0
    return [row("steps at which an unlearning went on", events, wrong)]


def edits(count: int) -> Job:
    """Give the job that edits logs, receipts and weights."""

    def job(root: Path) -> list[Row]:
        found = tampering.soak(root, count)
        wrong = [f"{total - seen} {name} not found" for name, (seen, total) in found.items() if seen != total]
        return [row("edits of logs, receipts and weights", sum(total for _, total in found.values()), wrong)]

    return job


def jobs(how: argparse.Namespace) -> Iterator[tuple[str, Job]]:
    """Give the jobs, the long ones first."""
    quarter = -(-how.kills // 4)
    for first in range(0, how.kills, quarter):
        yield f"kills from {first}", kills(min(quarter, how.kills - first), signal.SIGKILL, first)
    if how.failures:
        for name in FAILED:
            yield f"failures of {name}", failures(name)
    yield "SIGTERM", kills(how.stops, signal.SIGTERM, 0)
    yield "SIGINT", kills(how.stops // 5, signal.SIGINT, 1)
    yield "changes", changes(how.flips, how.flips // 5)
    yield "resumptions", resumptions
    yield "edits", edits(how.edits)
    yield "full disks", full_disks
    yield "races", races
    yield "repetitions", repetitions


def merged(rows: list[Row]) -> dict[str, Row]:
    """Give one row for each kind of trial."""
    found: dict[str, Row] = {}
    for one in rows:
        held = found.setdefault(one["what"], {key: type(value)() for key, value in one.items() if key != "what"})
        for key in held:
            held[key] = max(held[key], one[key]) if key in ("late", "refused_seconds") else held[key] + one[key]
    return found


def _work(given: tuple[int, str, Path]) -> tuple[str, float, list[Row]]:
    place, name, root = given
    torch.set_num_threads(1)
    started = time.monotonic()
    own = root / str(place)
    own.mkdir()
    try:
        found = _JOBS[place][1](own)
    except Exception:
        found = [row(name, 1, [traceback.format_exc()[-2000:]])]
    shutil.rmtree(own, ignore_errors=True)
    return name, time.monotonic() - started, found


_JOBS: list[tuple[str, Job]] = []
"""What the workers take from, by place: a job itself cannot be sent to a process."""


def asked(words: list[str]) -> argparse.Namespace:
    """Read what was typed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--stops", type=int, default=50, help="by SIGTERM, and a fifth of it by SIGINT")
    parser.add_argument("--flips", type=int, default=1000, help="and a fifth of it of ends cut off")
    parser.add_argument("--edits", type=int, default=10_000)
    parser.add_argument("--no-failures", dest="failures", action="store_false", help="have no disk fail")
    parser.add_argument("--processes", type=int, default=2)
    return parser.parse_args(words)


def main(words: list[str]) -> int:
    """Do all jobs on some processes, write, render; give 1 if anything was not as it should be."""
    how_much = asked(words)
    _JOBS.extend(jobs(how_much))
    started, rows = time.monotonic(), []
    with (
        tempfile.TemporaryDirectory() as root,
        multiprocessing.get_context("fork").Pool(how_much.processes, maxtasksperchild=1) as pool,
    ):
        given = [(place, name, Path(root)) for place, (name, _) in enumerate(_JOBS)]
        for name, seconds, found in pool.imap_unordered(_work, given, chunksize=1):
            rows += found
            wrong = [text for one in found for text in one["shown"]]
            sys.stdout.write(
                f"{name:24} {seconds:7.1f} s  {sum(one['trials'] for one in found):6} trials, {len(wrong)} wrong\n"
            )
            sys.stdout.writelines(f"  {text}\n" for text in wrong)
            sys.stdout.flush()
    result = {
        "environment": {**environment(), "system": platform.system()},
        "asked": vars(how_much),
        "seconds": time.monotonic() - started,
        "rows": merged(rows),
    }
    TARGET.write_text(json.dumps(result, indent=1) + "\n")
    soak_page.PAGE.write_text(soak_page.render(result))
    wrong = sum(one["wrong"] for one in result["rows"].values())
    sys.stdout.write(f"{result['seconds']:.0f} s, {wrong} wrong; wrote {TARGET} and {soak_page.PAGE}\n")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
