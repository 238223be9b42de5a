"""What processes are asked to do together, and one process alone: the same call gives the truth."""

import os
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import nn

import excise
from excise import errors, params, recipes
from excise.data import Split
from excise.distributed import Processes, launch, normalised_together, shard_of, sharded, sharding
from excise.localize import Cut, Gradient, Mean, Top, WeightGradient
from excise.masks import Mask
from excise.methods import Attract, Finetune, Match, OracleMean, Relabel
from excise.methods.base import Iterative
from excise.train import Checkpoints, Engine, Hooks, Task, TrainPlan, chosen_rows
from excise.train.augment import Augment
from tests.cases import CASES, Case

DROPOUT = Case(lambda: nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 4)), (6,), 4)
CASES = {**CASES, "dropout": DROPOUT}

FORGET = [0, 3, 8, 11, 14, 15, 18]
PLAN = TrainPlan(epochs=2, lr=0.05, batch_size=5, weight_decay=0.1, clip_norm=0.5)
AUGMENTED = TrainPlan(epochs=1, lr=0.05, batch_size=3, augment=Augment(flip=True, pad=1))
SMALL = TrainPlan(epochs=1, lr=0.05, batch_size=3)
ODD = TrainPlan(epochs=2, lr=0.05, batch_size=3, optimizer="adamw")


@dataclass(frozen=True, kw_only=True)
class Margin(Iterative):
    """A caller's own objective, no sum over rows: a hinge on one mean, and a penalty on the weights."""

    plan: TrainPlan
    past_the_engine: bool = False
    streams: ClassVar = ("retain", "forget")

    def objective(self, step):
        if step.engine.processes.sharded and not self.past_the_engine:
            norm = step.total(torch.square)
        else:
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
    small = {"epochs": 1, "batch_size": 3, "lr": 0.05}
    oracle = CASES["batchnorm"].make()
    with torch.no_grad():
        oracle[8].weight.mul_(1.5)
    return {
        "DEL": recipes.DEL(epochs=2, batch_size=5, lr=0.05, momentum=0.5, weight_decay=0.01),
        "SalUn": recipes.SalUn(**small),
        "SCRUB": recipes.SCRUB(max_epochs=1, **small),
        "NegGradPlus": recipes.NegGradPlus(**small),
        "L1Sparse": recipes.L1Sparse(**small, kappa=0.01),
        "PGU": recipes.PGU(**small, gamma=0.7, momentum=0.9, weight_decay=0.01),
        "JiT": recipes.JiT(**small, num_draws=3),
        "BadTeacher": recipes.BadTeacher(**small),
        "Attract": Attract(plan=SMALL, repeats=2),
        "Margin": Margin(plan=ODD),
        "augmented": Finetune(plan=AUGMENTED),
        "Match": Match(plan=ODD, targets=OracleMean([oracle]), retain_multiplier=1, forget_multiplier=1.6, anchor=0.1),
        "mixed": Relabel(plan=PLAN, order="mixed", buffers="adapt"),
    }


def problem(case="batchnorm", num_rows=20, forget=FORGET):
    return CASES[case].make(), Split(CASES[case].data(num_rows), forget=forget)


def unlearned(processes, recipe, case="batchnorm", split=None, **options):
    """Give what came of a recipe: the mask's digest, weights and buffers, frozen digests, losses, cost."""
    model, usual = problem(case)
    split = usual if split is None else split
    fresh = lambda: CASES[case].build().double()  # noqa: E731
    done = excise.unlearn(model, split, recipe, fresh=fresh, processes=processes, **options)
    state = {name: value.clone() for name, value in done.model.state_dict().items()}
    facts = (done.mask.digest, done.frozen_digest_before, done.frozen_digest)
    losses = [trace.loss for trace in done.trace]
    return {"state": state, "facts": facts, "losses": losses, "rows": (done.cost.trained_rows, done.cost.forward_rows)}


def all_of_them(processes, names):
    every = asked()
    return {name: unlearned(processes, every[name]) for name in names}


def refused(processes, kind, call):
    """Give the message of what a call refuses, in each process."""
    try:
        call()
    except kind as error:
        return str(error)
    return f"rank {processes.rank} did not refuse"


def _draws(net, retain, forget, validation):
    with torch.no_grad():
        next(net.parameters()).add_(torch.empty(1, dtype=torch.float64).random_().frac() + os.getpid())
    return net


def refusals(processes):
    """Give what is refused when processes differ."""
    model, split = problem()
    plan = TrainPlan(epochs=1, lr=0.01, batch_size=4)
    others, (inputs, labels) = (
        Split(CASES["batchnorm"].data(20), forget=[0, 1 + processes.rank]),
        CASES["batchnorm"].data(20),
    )
    changed = Split((inputs + 1e-3 * processes.rank, labels), forget=FORGET)
    moved = problem()[0]
    with torch.no_grad():
        moved[0].weight[0, 0, 0, 0] += 1e-12 * (processes.rank == processes.size - 1)
    here = partial(excise.unlearn, processes=processes)
    every = {
        "weights": (errors.BadRequest, partial(here, moved, split, Margin(plan=plan))),
        "ids": (errors.BadRequest, partial(here, model, others, Margin(plan=plan))),
        "content": (errors.BadRequest, partial(here, model, changed, Margin(plan=plan))),
        "recipe": (errors.BadRequest, partial(here, model, split, recipes.L1Sparse(kappa=0.1 + processes.rank))),
        "mask": (
            errors.BadRequest,
            partial(here, model, split, Margin(plan=plan), mask=Mask.of_modules(model, ["08"[processes.rank % 2]])),
        ),
        "seed": (errors.BadRequest, partial(here, model, split, Margin(plan=plan), seed=processes.rank)),
        "objective": (errors.BadRequest, partial(here, model, split, Averages(plan=plan))),
        "function": (errors.Refused, partial(here, model, split, _draws)),
    }
    return {name: refused(processes, kind, call) for name, (kind, call) in every.items()}


def verbs(processes):
    """Give what the verbs came to: sums with holes, sums over two buckets, a gradient, the largest, copies."""
    one, rank = torch.ones(2, 3), processes.rank
    holes = processes.summed([one * rank, one[0] if rank == 1 else None, None], [one, one[0], one])
    leaf = torch.tensor(2.0, requires_grad=True)
    total = processes.total(leaf * (rank + 1))
    (total**2).backward()
    value = torch.full((3, 2), float(rank)).T
    processes.copy_from_first_([value])
    return {
        "holes": [None if found is None else found.tolist() for found in holes],
        "total": (float(total.detach()), float(leaf.grad)),
        "mean gradient": float(processes.averaged([leaf.grad], [leaf])[0]),
        "largest": (processes.largest(rank), processes.anywhere(fact=rank == 1), processes.anywhere(fact=False)),
        "copied": value.tolist(),
        "gathered": processes.gathered(torch.tensor([rank])).tolist(),
    }


LAYERS = {
    "1d": (nn.BatchNorm1d, {}, (3,)),
    "2d": (nn.BatchNorm2d, {"momentum": None}, (3, 2, 2)),
    "3d": (nn.BatchNorm3d, {"affine": False}, (3, 1, 2, 2)),
    "untracked": (nn.BatchNorm1d, {"track_running_stats": False}, (3, 4)),
    "sync": (nn.SyncBatchNorm, {}, (3, 2)),
}


def normalised(processes, num_rows):
    """Give by layer how far shared rows are from whole ones: outputs, gradients, running statistics, in two rounds."""
    found = {}
    for name, (kind, options, shape) in LAYERS.items():
        plain = (nn.BatchNorm1d if name == "sync" else kind)(3, **options).double()
        own = kind(3, **options).double()
        draws = torch.Generator().manual_seed(3)
        worst = 0.0
        with normalised_together(own, processes) as joint:
            for _ in range(2):
                rows = 5 + torch.randn(num_rows, *shape, generator=draws, dtype=torch.float64)
                slopes = torch.randn(rows.shape, generator=draws, dtype=torch.float64)
                whole = rows.clone().requires_grad_()
                truth = plain(whole)
                (truth * slopes).sum().backward()
                mine = processes.share(torch.arange(num_rows))
                idle, places = not len(mine), mine if len(mine) else torch.tensor([0])
                part = rows[places].requires_grad_()
                with joint.standing_in(idle=idle):
                    outputs = own(part)
                (outputs * slopes[places]).sum().mul(0 if idle else 1).backward()
                pairs = [(outputs, truth[places]), (part.grad, 0 * part if idle else whole.grad[places])]
                if own.affine:
                    weights = list(own.parameters())
                    sums = processes.summed([weight.grad for weight in weights], weights)
                    pairs += [(one, other.grad) for one, other in zip(sums, plain.parameters(), strict=True)]
                pairs += [
                    (one.double(), other.double()) for one, other in zip(own.buffers(), plain.buffers(), strict=True)
                ]
                worst = max(worst, *(float((one - other).detach().abs().max()) for one, other in pairs))
                own.zero_grad(), plain.zero_grad()
        assert "forward" not in vars(own)
        found[name] = worst
    return found


class Heard(Hooks):
    """Writes down what was said; asks for a stop after some steps."""

    def __init__(self, checkpoints=None, after=0):
        self.checkpoints, self.left, self.notes = checkpoints, after, []

    def on_step(self):
        self.left -= 1
        if self.left == 0:
            self.checkpoints.stop(KeyboardInterrupt())

    def on_note(self, text):
        self.notes.append(text)


def resumed(processes, directory):
    """Stop the first process, and so all, after some steps, then go on; give what came, and what the first was told."""
    method = Margin(plan=ODD)
    call = partial(unlearned, processes, method, case="dropout")
    checkpoints = Checkpoints(directory, 1000)
    stopping = partial(call, checkpoints=checkpoints, hooks=Heard(checkpoints, 5))
    stopped = refused(processes, KeyboardInterrupt, stopping)
    again = Heard()
    went_on = call(checkpoints=directory, hooks=again)
    return {"stopped": stopped, "notes": again.notes, "went on": went_on, "whole": call()}


def fails(place, failing):
    """Meet the others and fail, or wait for one that does; give what was raised, and what was heard on standard output."""
    reading, writing = os.pipe()
    os.dup2(writing, 1)
    told = "nothing"
    try:
        with launch.joined(place, "ddp", torch.device("cpu")) as processes:
            os.write(1, f"rank {processes.rank} speaks\n".encode())
            if place.rank == failing:
                raise errors.BadRequest("this one is at fault")
            processes.barrier()
    except (errors.ExciseError, SystemExit) as error:
        told = f"{type(error).__name__}: {error}"
    os.set_blocking(reading, False)
    try:
        return {"told": told, "heard": os.read(reading, 1000).decode()}
    except BlockingIOError:
        return {"told": told, "heard": ""}


def everything(processes, names, directory):
    """Do all that is checked of processes in one start of them."""
    return {
        "verbs": verbs(processes),
        "normalised": [normalised(processes, num_rows) for num_rows in (3, 7)],
        "refusals": refusals(processes),
        "resumed": resumed(processes, directory),
        "unlearned": all_of_them(processes, names),
        "of chosen rows": of_chosen_rows(processes),
        "of forget alone": of_forget_alone(processes),
    }


@dataclass(frozen=True, kw_only=True)
class Trespasses(Iterative):
    """Writes to what lies here of the first parameter, whatever the mask."""

    plan: TrainPlan
    streams: ClassVar = ("retain",)

    def objective(self, step):
        with torch.no_grad():
            step.shards[0].local.add_(1e-9)
        return step.mean_loss("retain")


GROUPED = {
    "batchnorm": recipes.DEL(epochs=1, batch_size=3, lr=0.05),
    "transformer": Margin(plan=PLAN),
    "tied": Margin(plan=PLAN),
}


def grouped(processes):
    """Give what comes of networks gathered a layer at a time, or (where weights are tied) at once."""
    before, sharding.GROUP_WEIGHTS = sharding.GROUP_WEIGHTS, 40
    try:
        return {case: unlearned(processes, recipe, case=case) for case, recipe in GROUPED.items()}
    finally:
        sharding.GROUP_WEIGHTS = before


def of_chosen_rows(processes):
    """Give what comes of DEL where every layer computes the gradient of its chosen rows alone, however small it is."""
    names = ("LEAST_LEFT_OUT_LINEAR", "LEAST_LEFT_OUT_CONVOLUTION")
    before = {name: getattr(chosen_rows, name) for name in names}
    try:
        for name in names:
            setattr(chosen_rows, name, 1)
        return {"DEL": unlearned(processes, asked()["DEL"])}
    finally:
        for name, value in before.items():
            setattr(chosen_rows, name, value)


def of_forget_alone(processes):
    """Give what comes of a split without retain rows, in a place found on the forget rows."""
    split = Split.of_forget(tuple(part[FORGET] for part in CASES["batchnorm"].data(20)))
    return {"JiT": unlearned(processes, asked()["JiT"].at(Cut(Gradient(), 0.5)), split=split)}


def of_nothing(processes):
    """Give what comes of a training whose mask allows nothing: forward passes that no backward pass follows."""
    model, _ = problem("tied")
    return {"empty": unlearned(processes, Finetune(plan=PLAN), case="tied", mask=Mask.empty(model))}


def held(processes):
    """Give what lies here of a layer of 5 rows: shape, first row, its first number; and that a change reaches the layer."""
    plain = nn.Linear(3, 5)
    with torch.no_grad():
        plain.weight.copy_(torch.arange(15.0).reshape(5, 3))
    kept = params.snapshot(dict(plain.named_parameters()))
    with sharded(plain, processes) as twin:
        parts = [shard_of(value) for value in twin.network.parameters()]
        found = [(tuple(part.local.shape), part.start, part.local.flatten()[:1].tolist()) for part in parts]
        with torch.no_grad():
            parts[0].local.add_(1)
    same = torch.equal(plain.weight, kept["weight"] + 1) and torch.equal(plain.bias, kept["bias"])
    return {"shapes": found[0], "written back": same, "plain": shard_of(plain.weight)}


def broken(processes):
    """Give what is said where a shard moves that must not, a weight stops being finite, or an objective is not one."""
    model, split = problem()
    frozen = Mask.of_modules(model, ["8"])
    here = partial(excise.unlearn, model, split, processes=processes)
    plan = TrainPlan(epochs=1, lr=0.01, batch_size=4)
    try:
        here(Margin(plan=TrainPlan(epochs=3, lr=1e200, batch_size=4)))
        last = None
    except errors.Diverged as error:
        last = error.last_finite
    return {
        "trespass": refused(processes, errors.Refused, partial(here, Trespasses(plan=plan), mask=frozen)),
        "past the engine": refused(
            processes, errors.BadRequest, partial(here, Margin(plan=plan, past_the_engine=True))
        ),
        "diverged": last is not None
        and all(torch.equal(value, last[name]) for name, value in model.state_dict().items()),
    }


CUTS = {
    "channels": {},
    "lowest": {"lowest": True},
    "mean": {"reduction": Mean()},
    "by layer": {"scope": "layer"},
    "as published": {"reduction": Top(of="layer"), "partial": True},
    "weights": {"granularity": "weight"},
    "modules": {"granularity": "module", "budget_fraction": 0.6},
    "of channels": {"count": "channels"},
}


def scored(processes):
    """Give the masks cut from scores in every way, and how many scores lie here."""
    model, split = problem(num_rows=23)
    found = {}
    for name, localizer in {
        "weight x gradient": WeightGradient(batch_size=4),
        "gradient": Gradient(batch_size=3, accumulate="batch-means"),
    }.items():
        scores = localizer(model, split, processes=processes)
        digests = {cut: scores.select(**{"budget_fraction": 0.4, **options}).digest for cut, options in CUTS.items()}
        half = Mask.where(model, lambda name: name.startswith("0"))
        digests["among"] = scores.among(half).select(budget_fraction=0.5).digest
        found[name] = {"digests": digests, "here": sum(value.numel() for value in scores._held.values())}
    with torch.no_grad():
        next(model.parameters()).view(-1)[-1] = torch.inf  # in the last process's rows
    found["broken"] = refused(
        processes, errors.ExciseError, lambda: WeightGradient().score(model, split, engine_for(model, processes))
    )
    return found


def engine_for(model, processes):
    return Engine(Task(), seed=0, besides=Mask.empty(model), processes=processes)


def everything_sharded(processes, names):
    """Do all that is checked of sharded networks in one start of processes."""
    model, split = problem()
    project = partial(excise.unlearn, model, split, recipes.PGU(epochs=1), processes=processes)
    return {
        "unlearned": all_of_them(processes, names),
        "refused": refused(processes, errors.BadRequest, project),
        "grouped": grouped(processes),
        "of nothing": of_nothing(processes),
        "held": held(processes),
        "broken": broken(processes),
        "scored": scored(processes),
    }


ALONE = Processes.alone()
