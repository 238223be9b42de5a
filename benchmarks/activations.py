"""Three epochs of finetuning behind frozen layers, activations kept, against not kept and against no mask. Goal: 0.35.

The pass that fills the store, and what tries whether its bits are the same, are in the time.
"""

from dataclasses import replace

from benchmarks.paired import paired_ratio
from benchmarks.problems import BATCH, engine, problem
from excise.masks import Mask
from excise.methods import Finetune
from excise.params import clone_model, model_digest
from excise.train import TrainPlan
from excise.train.engine import KEPT

EPOCHS = 3
MASKS = {"last_block": ["layer4.1", "fc"], "head": ["fc"]}
GOALS = {"last_block": (0.35, 1.0), "head": (0.35, 1.0)}
"""Against no mask, and against the same mask without the store."""


def measure(rounds: int = 1):
    """Time three epochs of finetuning under each mask."""
    model, split = problem()
    method = Finetune(plan=TrainPlan(epochs=EPOCHS, lr=1e-3, batch_size=BATCH, weight_decay=5e-4))

    def run(mask, keep):
        work = clone_model(model)
        method.unlearn_(work, split, mask, replace(engine(work), keep=keep))
        return model_digest(work)

    found, full = {}, Mask.full(model)
    for name, modules in MASKS.items():
        mask, told = Mask.of_modules(model, modules), name.replace("_", " ")
        assert run(mask, KEPT) == run(mask, None)
        for against, reference, goal in zip(("no mask", "none kept"), (full, mask), GOALS[name], strict=True):
            found[f"kept_{name}_against_{against.replace(' ', '_')}"] = {
                **paired_ratio(lambda k=mask: run(k, KEPT), lambda k=reference: run(k, None), rounds),
                "goal": goal,
                "what": f"{EPOCHS} epochs under a mask of the {told} ({mask.fraction:.0%}), kept activations, to {against}",
            }
    return found
