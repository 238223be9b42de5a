"""What processes are asked to do together, and one process alone: the same call gives the truth."""

from dataclasses import dataclass
from typing import ClassVar

import excise
from excise import recipes
from excise.data import Split
from excise.distributed import Processes
from excise.methods import Relabel
from excise.methods.base import Iterative
from excise.train import TrainPlan
from tests.cases import CASES

FORGET = [0, 3, 8, 11, 14, 15, 18]
PLAN = TrainPlan(epochs=2, lr=0.05, batch_size=5, weight_decay=0.1, clip_norm=0.5)
ODD = TrainPlan(epochs=2, lr=0.05, batch_size=3, optimizer="adamw")


@dataclass(frozen=True, kw_only=True)
class Margin(Iterative):
    """A caller's own objective, no sum over rows: a hinge on one mean, and a penalty on the weights."""

    plan: TrainPlan
    streams: ClassVar = ("retain", "forget")

    def objective(self, step):
        norm = sum(value.square().sum() for value in step.model.parameters())
        return step.mean_loss("retain") + (2 - step.mean_loss("forget")).relu().square() + 0.01 * norm


@dataclass(frozen=True, kw_only=True)
class Averages(Iterative):
    """Averages its own rows, which are not all of them."""

    plan: TrainPlan
    streams: ClassVar = ("retain",)

    def objective(self, step):
        logits, targets = step.outputs("retain")
        return step.engine.task.loss(logits, targets).mean()


def asked():
    """Give recipes by name: batches of 5, and of 3 and 2 and 1, which leave some of four processes without a row."""
    small = {"epochs": 2, "batch_size": 3, "lr": 0.05}
    return {
        "DEL": recipes.DEL(epochs=2, batch_size=5, lr=0.05, momentum=0.5),
        "DEL-odd": recipes.DEL(**small, weight_decay=0.01),
        "SalUn": recipes.SalUn(**small),
        "SCRUB": recipes.SCRUB(max_epochs=1, **small),
        "NegGradPlus": recipes.NegGradPlus(**small),
        "L1Sparse": recipes.L1Sparse(**small, kappa=0.01),
        "BadTeacher": recipes.BadTeacher(**small),
        "Margin": Margin(plan=ODD),
        "mixed": Relabel(plan=PLAN, order="mixed", buffers="adapt"),
    }


def problem(case="batchnorm", num_rows=24, forget=FORGET):
    return CASES[case].make(), Split(CASES[case].data(num_rows), forget=forget)


def unlearned(processes, recipe, case="batchnorm", **options):
    """Give what came of a recipe: the mask's digest, weights and buffers, frozen digests, losses, cost."""
    model, split = problem(case)
    fresh = lambda: CASES[case].build().double()  # noqa: E731
    done = excise.unlearn(model, split, recipe, fresh=fresh, processes=processes, **options)
    state = {name: value.clone() for name, value in done.model.state_dict().items()}
    facts = (done.mask.digest, done.frozen_digest_before, done.frozen_digest)
    losses = [trace.loss for trace in done.trace]
    return {"state": state, "facts": facts, "losses": losses, "rows": (done.cost.trained_rows, done.cost.forward_rows)}


def all_of_them(processes):
    return {name: unlearned(processes, recipe) for name, recipe in asked().items()}


ALONE = Processes.alone()
