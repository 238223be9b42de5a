"""The project that is broken off: a network trained once, command lines over it, and what they leave, put side by side."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from excise import cli, errors, params, store
from excise.cli import stopping
from excise.lifecycle import Ledger
from excise.recipes import RECIPES
from excise.train import TrainPlan
from tests.crash import mine
from tests.crash.server import Place, Step, run, typed
from tests.crash.shim import NONE_FAILS, Shim

PLAN = TrainPlan(epochs=4, optimizer="adam", lr=0.02, schedule="constant", batch_size=40)
PLAN_WORDS = 'epochs = 4\noptimizer = "adam"\nlr = 0.02\nschedule = "constant"\nbatch_size = 40\n'
NAMED = ("--model", "mine:make", "--weights", "w.safetensors", "--data", "mine:train", "--forget", "ids.txt", "--quiet")
FORGET = tuple(range(0, 80, 10))


@dataclass(frozen=True)
class Command:
    """Something that is broken off.

    Attributes:
        name: in messages.
        needs: the command whose end it begins with; None for the bare project.
        steps: from the place to what is done there; each may be given again.
        written: the directory that it writes, below the current one.
    """

    name: str
    needs: str | None
    steps: Callable[[Place], list[Step]]
    written: str


def _typed(*words: str) -> Callable[[Place], list[Step]]:
    return lambda _: [typed(*words)]


UNLEARN = ("unlearn", *NAMED, "--out", "run", "--plan", "plan.toml", "--set", "epochs=2", "--set", "batch_size=20")
TUNE = ("tune", *NAMED, "--out", "tuned", "--recipe", "DEL", "--set", "epochs=1", "--test", "mine:test")
AUDIT = ("audit", "run", "--test", "mine:test", "--quiet")
COMMANDS = {
    command.name: command
    for command in (
        Command("unlearn", None, _typed(*UNLEARN, "--checkpoint-seconds", "0"), "run"),
        Command("audit", "unlearn", _typed(*AUDIT, "--oracles", "4"), "run"),
        Command("look", "unlearn", _typed(*AUDIT, "--tier", "T0"), "run"),
        Command("report", "look", _typed("report", "run", "--quiet"), "run"),
        Command("purge", "audit", _typed("purge", "run", "--quiet"), "run"),
        Command("tune", None, _typed(*TUNE, "--trials", "3", "--max-utility-loss", "0.9"), "tuned"),
        Command("open", None, lambda place: [opening(place)], "life"),
        Command(
            "ledger",
            "open",
            lambda place: [requesting(place, [0, 10]), requesting(place, [20]), answering(place)],
            "life",
        ),
    )
}


def begun(root: Path) -> Place:
    """Make a project in an empty directory, with a network that knows its rows by heart."""
    for module in pkgutil.iter_modules(cli.__path__):  # once, and not in each process
        importlib.import_module(f"excise.cli.{module.name}")
    place = Place(root)
    for folder in (place.work, *(Path(one) for one in place.surroundings().values())):
        folder.mkdir(parents=True, mode=0o700)
    (place.work / "mine.py").write_text(Path(mine.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    (place.work / "ids.txt").write_text("\n".join(map(str, FORGET)) + "\n")
    (place.work / "plan.toml").write_text(PLAN_WORDS)
    store.write_tensors(place.work / "w.safetensors", _learnt().state_dict())
    store.write_bytes(place.root / "state" / "excise" / "key", bytes(range(32)))
    return place


def _learnt() -> nn.Module:
    inputs, labels = mine.train()
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        model = mine.make()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    return model.eval()


class Stages:
    """The project before and after each command, each made once, by a process that nobody disturbed.

    Args:
        root: an empty directory.

    Attributes:
        seconds: what each command took.
        calls: how often each changed the disk.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._after: dict[str | None, Place] = {}
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}

    def before(self, name: str) -> Place:
        """Give the project as a command finds it."""
        return self.after(COMMANDS[name].needs)

    def after(self, name: str | None) -> Place:
        """Give the project as a command leaves it; as it is at first for None."""
        if name not in self._after:
            if name is None:
                self._after[None] = begun(self._root / "bare")
            else:
                place = self.before(name).copied_to(self._root / name)
                counting = Shim(NONE_FAILS)
                ended = run(place, COMMANDS[name].steps(place), before=counting.install)
                assert ended.code == 0, ended
                self.seconds[name], self.calls[name], self._after[name] = ended.seconds, counting.calls, place
        return self._after[name]


def opening(place: Place) -> Step:
    """Give the step that begins the ledger, unless it was begun."""

    def step() -> None:
        options = {"test": mine.test(), "plan": PLAN, "fresh": mine.make, "max_drop": 0.9}
        with contextlib.suppress(errors.BadRequest):
            Ledger.open(place.work / "life", _given(place), mine.train(), **options)

    return shelled(step)


def requesting(place: Place, rows: list[int]) -> Step:
    """Give the step that asks for rows to be forgotten, unless they were asked for."""

    def step() -> None:
        with contextlib.suppress(errors.BadSplit):
            life(place).request(rows)

    return shelled(step)


def answering(place: Place) -> Step:
    """Give the step that answers all that is open; where a receipt says that this was done, nothing is."""

    def step() -> None:
        ledger = life(place)
        with contextlib.suppress(errors.BadRequest) if ledger.head()["seq"] else contextlib.nullcontext():
            ledger.run(RECIPES["DEL"](epochs=1), tier="T0")

    return shelled(step)


def life(place: Place) -> Ledger:
    """Give the ledger of the project."""
    return Ledger(place.work / "life", _given(place), mine.train(), test=mine.test(), plan=PLAN, fresh=mine.make)


def _given(place: Place) -> nn.Module:
    model = mine.make()
    params.load_strictly_(model, store.read_weights(place.work / "w.safetensors"), "the project")
    return model


def shelled(step: Callable[[], None]) -> Step:
    """Give a call as the shell would see it."""

    def called() -> int:
        try:
            step()
        except (errors.ExciseError, stopping.Terminated, KeyboardInterrupt) as error:
            sys.stderr.write(f"excise: {error}\n")
            return {stopping.Terminated: 143, KeyboardInterrupt: 130}.get(type(error)) or error.exit_code
        return 0

    return called
