"""A masked unlearning step against the same step without a mask. Goal: at most 1.05."""

from benchmarks.paired import paired_ratio
from benchmarks.problems import BATCH, del_mask, engine, problem
from excise.localize import WeightGradient
from excise.masks import Mask
from excise.methods import Finetune
from excise.params import clone_model
from excise.train import TrainPlan

MASKS = {
    "channel": del_mask,
    "weight": lambda model, split: _scores(model, split).select(budget_fraction=0.3, granularity="weight"),
    "last_block": lambda model, split: Mask.of_modules(model, ["layer4.1", "fc"]),
}


def _scores(model, split):
    return WeightGradient(batch_size=BATCH)(model, split)


def measure(rounds: int = 5):
    """Time an epoch of finetuning under each kind of mask against the full mask, for SGD with momentum and AdamW."""
    found = {}
    for optimizer in ("sgd", "adamw"):
        method = Finetune(
            plan=TrainPlan(epochs=1, lr=1e-3, optimizer=optimizer, batch_size=BATCH, weight_decay=5e-4, shuffle=False)
        )
        for name, make in MASKS.items():
            if optimizer == "adamw" and name != "channel":
                continue
            model, split = problem()
            mask, full = make(model, split), Mask.full(model)
            ours, theirs = clone_model(model), clone_model(model)
            ratio = paired_ratio(
                lambda how=method, m=ours, k=mask, s=split: how.unlearn_(m, s, k, engine(m)),
                lambda how=method, m=theirs, k=full, s=split: how.unlearn_(m, s, k, engine(m)),
                rounds,
            )
            found[f"step_{optimizer}_{name}"] = {
                **ratio,
                "goal": 1.05,
                "what": f"{optimizer} epoch under a {name.replace('_', ' ')} mask ({mask.fraction:.0%}), against no mask",
            }
    return found
