"""`excise demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from excise import store
from excise.cli import show, tables
from excise.pipeline.audited import environment
from excise.pipeline.demo import TITLES, num_steps, run_demo
from excise.report import render

LEGEND = (
    "± and green: the 95% band of one more network retrained without the rows. Gap: recipe minus the oracles' mean. "
    "Attack: % of forget rows that an attack takes for never trained on; only its distance to the oracles' means "
    "anything. Cost: rows passed forward and backward, as a share of a retraining's."
)


def run(*, out: Path, oracles: int, seed: int, device: str, quiet: bool) -> tuple[dict[str, Any], int]:
    """Run the story, print its table, write the run directory."""
    tables.require_device(device)
    to = show.console(quiet=quiet)
    request = {"command": "demo", "oracles": oracles, "seed": seed, "device": device, "environment": environment()}
    directory = store.RunDirectory(out, request)
    record = directory.finished()
    if record is None:
        watched = show.progress(quiet=quiet, total=num_steps(oracles), label="excise demo")
        with store.lock(out), watched as hooks:
            story = run_demo(seed=seed, num_oracles=oracles, device=device, hooks=hooks)
            result = {"seconds": story.seconds, "timings": story.timings, "splits": story.table}
            files = story.unlearned.save(out)
            store.write_json(out / "demo.json", {"page": msgspec.to_builtins(story.page), **result})
            store.write_bytes(out / "report.html", render(story.page).encode())
            record = directory.complete([*files, "demo.json", "report.html"], result)
    else:
        store.tidy(out)
        show.say(to, f"{out} already holds this run, complete and unchanged; nothing was done.")
    found = {**record["result"], "report": str(out / "report.html")}
    for name, split in found["splits"].items():
        to.print()
        to.print(show.story_table(f"{TITLES[name][0]}: {split['num_forget']} rows to forget", split))
    to.print()
    show.say(to, LEGEND)
    spent = ", ".join(f"{what} {seconds:.0f} s" for what, seconds in found["timings"].items())
    show.say(to, f"{found['seconds']:.0f} s in all: {spent}.")
    show.say(to, f"Open {found['report']}")
    return found, 0
