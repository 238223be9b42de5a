"""A masked unlearning step against the same step without a mask, and what each part of that is worth.

The network's weights are random, and so DEL's 30% of all weights lie oddly: nearly all rows of the first layers, where a
weight's gradient costs as much as in the last, and a fifth of the last, where there are few positions and many weights. The
same share of every layer (`channel_by_layer`) stands beside it.
"""

from contextlib import contextmanager

import torch

from benchmarks.paired import paired_ratio
from benchmarks.problems import BATCH, del_mask, engine, problem
from excise.localize import WeightGradient
from excise.masks import Mask
from excise.methods import Finetune
from excise.params import clone_model
from excise.train import TrainPlan, chosen_rows, enforced

MASKS = {
    "channel": del_mask,
    "channel_by_layer": lambda model, split: _scores(model, split).select(budget_fraction=0.3, scope="layer"),
    "weight": lambda model, split: _scores(model, split).select(budget_fraction=0.3, granularity="weight"),
    "last_block": lambda model, split: Mask.of_modules(model, ["layer4.1", "fc"]),
}
GOALS = {"channel": 0.80, "channel_by_layer": 0.80, "weight": 1.05, "last_block": 0.35}
OPTIMIZERS = {"sgd": tuple(MASKS), "adamw": ("channel",)}
"""And the masks under which each is timed: what differs between the two is the optimizer's own step."""
THRESHOLDS = ("LEAST_LEFT_OUT_LINEAR", "LEAST_LEFT_OUT_CONVOLUTION")


def _scores(model, split):
    return WeightGradient(batch_size=BATCH)(model, split)


def _finetune(optimizer):
    plan = TrainPlan(epochs=1, lr=1e-3, optimizer=optimizer, batch_size=BATCH, weight_decay=5e-4, shuffle=False)
    return Finetune(plan=plan)


def measure(rounds: int = 3):
    """Time an epoch of finetuning under each kind of mask against the full mask, for SGD with momentum and AdamW."""
    found = {}
    for optimizer, names in OPTIMIZERS.items():
        how = _finetune(optimizer)
        for name in names:
            model, split = problem()
            mask, full = MASKS[name](model, split), Mask.full(model)
            ours, theirs = clone_model(model), clone_model(model)
            ratio = paired_ratio(
                lambda h=how, m=ours, k=mask, s=split: h.unlearn_(m, s, k, engine(m)),
                lambda h=how, m=theirs, k=full, s=split: h.unlearn_(m, s, k, engine(m)),
                rounds,
            )
            what = f"{optimizer} epoch under a {name.replace('_', ' ')} mask ({mask.fraction:.0%}), against no mask"
            found[f"step_{optimizer}_{name}"] = {**ratio, "goal": GOALS[name], "what": what}
            if name.startswith("channel"):
                kept = kept_of_weight_gradients(clone_model(model), mask)
                row = found[f"step_{optimizer}_{name}"]
                row |= {"kept_of_weight_gradients": kept, "multiply_adds": (2 + kept) / 3}
                row["what"] += (
                    f"; by multiply-adds {row['multiply_adds']:.2f}, as {kept:.0%} of those of the weights' gradients are left"
                )
        found[f"rows_alone_{optimizer}"] = chosen_rows_on_and_off(optimizer, rounds)
        found[f"optimizer_memory_{optimizer}"] = optimizer_memory(optimizer)
    return found


def chosen_rows_on_and_off(optimizer: str, rounds: int):
    """Time the epoch under DEL's mask with the gradients of chosen rows computed alone, against all rows and then a choice."""
    model, split = problem()
    mask, how = del_mask(model, split), _finetune(optimizer)
    ours, theirs = clone_model(model), clone_model(model)

    def all_rows():
        with _never_alone():
            how.unlearn_(theirs, split, mask, engine(theirs))

    ratio = paired_ratio(lambda: how.unlearn_(ours, split, mask, engine(ours)), all_rows, rounds)
    what = f"{optimizer} epoch under a channel mask: gradients of chosen rows alone, against all rows and then a choice"
    return {**ratio, "goal": 0.85, "what": what}


@contextmanager
def _never_alone():
    before = {name: getattr(chosen_rows, name) for name in THRESHOLDS}
    for name in THRESHOLDS:
        setattr(chosen_rows, name, 2**62)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(chosen_rows, name, value)


def kept_of_weight_gradients(model, mask) -> float:
    """Give the share of the multiply-adds of all weights' gradients that belongs to rows in the mask."""
    layers = {
        name: layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)
    }
    counts = {}

    def counting(name):
        def hook(layer, _, outputs):
            counts[name] = layer.weight.numel() * outputs.numel() // layer.weight.shape[0]

        return hook

    hooks = [layer.register_forward_hook(counting(name)) for name, layer in layers.items()]
    with torch.no_grad():
        model(torch.zeros(2, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    kept = sum(counts[name] * mask.count(f"{name}.weight") / layer.weight.numel() for name, layer in layers.items())
    return kept / sum(counts.values())


def optimizer_memory(optimizer: str):
    """Give the bytes of the optimizer's state under DEL's mask, against those without a mask."""
    model, split = problem()
    plan, held = _finetune(optimizer).plan, []
    for mask in (del_mask(model, split), Mask.full(model)):
        with enforced(model, mask, "follow-mask") as free:
            made = plan.make_optimizer(free.leaves)
            free.backward(sum(value.sum() for value in model.parameters()))
            free.step(made, None)
            states = [value for state in made.state.values() for value in state.values() if value is not None]
            held.append(sum(value.numel() * value.element_size() for value in states))
    ratio = held[0] / held[1]
    return {
        **dict.fromkeys(("ratio", "lowest", "highest"), ratio),
        "bytes": held[0],
        "bytes_of_reference": held[1],
        "goal": 0.5,
        "what": f"{optimizer}: memory of the optimizer's state under a channel mask, against no mask",
    }
