"""Whether the audit's finer instruments put networks in the right order: U-LiRA, RMIA, relearning."""

import msgspec
import numpy as np
import torch
from scipy.special import expit

from benchmarks.audit_pools import PLAN, make, problem
from excise import recipes, seeds
from excise.data import Split
from excise.measure import Relearner, Signals, auc_band, relearning, rmia_auc
from excise.measure.ulira import ulira_accuracy
from excise.observe import relearn
from excise.observe.relearn import PLAN as RELEARNING
from excise.pipeline.evidence import loaded, observe
from excise.pipeline.forget import unlearn
from excise.pipeline.population import margins_of
from excise.pipeline.probing import RELEARNING_EVERY

FINETUNE_LR = 0.03
LONGER = 4
ARMS = ("nothing", "finetuned 10", "finetuned 30", "retrained")


def partial_unlearning(seeds_of_problems, arm, bank):
    """Attack ever more unlearnt networks by U-LiRA, on fresh rows, networks and wrong labels each seed.

    The same originals go through every recipe, and all arms are held against the same oracles.
    """
    rows = []
    for seed in seeds_of_problems:
        own = problem(seed, bank)
        split = own.half()
        originals = own.originals(arm)
        reference = margins_of(own.seen(own.oracles(split, arm), split))
        arms = {
            "nothing": own.seen(originals, split),
            "finetuned 10": [finetuned(one, own, split, 10, number) for number, one in enumerate(originals)],
            "finetuned 30": [finetuned(one, own, split, 30, number) for number, one in enumerate(originals)],
            "retrained": own.seen(own.oracles(split, arm, held_out=True), split),
        }
        found = [ulira_accuracy(margins_of(arms[name]), reference) for name in ARMS]
        rows.append({"seed": seed, "accuracy": found, "ordered": all(np.diff(found) < 0)})
    return {
        "arm": arm,
        "lr": FINETUNE_LR,
        "rows": rows,
        "mean": np.mean([one["accuracy"] for one in rows], axis=0).tolist(),
        "ordered": sum(one["ordered"] for one in rows),
    }


def finetuned(trained, own, split, epochs, number):
    """Go on training an original on the retain rows, and look at it."""
    model = loaded(make, trained, "an original")
    how = recipes.Finetune(epochs=epochs, lr=FINETUNE_LR)
    done = unlearn(model, split, how, fresh=make, plan=PLAN, seed=seeds.derive(own.engine.seed, "finetune", number))
    return observe(done.model, split, own.engine)


def cheap_membership(pools, num_networks):
    """Attack by RMIA with 1 and with 16 references; the rows beside the forget rows have planted wrong labels as well."""
    own, split = pools.problem, pools.wrong.split
    inputs, labels = own.test
    turned = torch.randint(1, 10, (len(labels),), generator=seeds.generator(0, "wrong test labels"))
    beside = Split(own.train, forget=split.forget.ids, test=(inputs, (labels + turned) % 10))
    originals = own.seen(own.originals(num_networks), beside)
    oracles = own.seen(own.oracles(split, len(pools.wrong.oracles)), beside)[: num_networks + 16]
    references = signals(oracles[num_networks:])
    found = {"num_networks": num_networks, "non_members": len(references.non_members[0])}
    for name, networks in (("nothing", originals), ("retrained", oracles[:num_networks])):
        targets = [signals(networks).part(place) for place in range(num_networks)]
        many = np.array([rmia_auc(one, references) for one in targets])
        single = [references.part(slice(place, place + 1)) for place in range(16)]
        one = np.array([[rmia_auc(target, alone) for alone in single] for target in targets])
        found[name] = {
            "one": float(one.mean()),
            "sixteen": float(many.mean()),
            "apart": float(np.abs(one - many[:, None]).mean()),
            "furthest": float(np.abs(one - many[:, None]).max()),
            "each": many.tolist(),
        }
    low, high = auc_band(len(split.forget), found["non_members"])
    inside = sum(low <= area <= high for area in found["retrained"]["each"])
    return {**found, "band": [low, high], "inside": inside}


def signals(networks):
    """Give confidences of forget rows, of half of the other rows, and of the other half as the population."""
    test = np.stack([expit(one.rows.margins["test"]) for one in networks])
    half = test.shape[1] // 2
    forget = np.stack([expit(one.rows.margins["forget"]) for one in networks])
    return Signals(forget=forget, non_members=test[:, :half], population=test[:, half:])


def relearnt(pools, num_oracles):
    """Let oracles learn the wrong labels again, each held against others, in two groups; beside an original and none.

    The audit's own plan for this is too short for these networks, so they learn on for `LONGER` times as many epochs.
    """
    own, split = pools.problem, pools.wrong.split
    trained = own.oracles(split, len(pools.wrong.oracles))[:num_oracles]
    look = [_curve(loaded(make, one, "an oracle"), own, split) for one in trained]
    original = _curve(loaded(make, own.originals(len(pools.wrong.originals))[0], "an original"), own, split)
    with seeds.isolated(0, "untrained"):
        untrained = _curve(make(), own, split)
    half, found = num_oracles // 2, []
    for group in (look[:half], look[half:]):
        for at, one in enumerate(group):
            others = [*group[:at], *group[at + 1 :]]
            anchors = {"original": original, "untrained": untrained}
            found.append(relearning(one, others, **anchors, every=RELEARNING_EVERY))
    points = RELEARNING.epochs * -(-len(split.forget) // RELEARNING.batch_size) // RELEARNING_EVERY + 1
    return {
        "indices": [one.index for one in found],
        "num_seeds": len(look[0].accuracy),
        "oracle_steps": found[0].oracle_steps,
        "index_original": found[0].index_original,
        "index_untrained": found[0].index_untrained,
        "num_censored": sum(one.num_censored["own"] for one in found),
        "censored_by_audit": int(sum((one.accuracy[:, :points] < found[0].level).all(1).sum() for one in look)),
        "longer": LONGER,
        "utility": found[0].utility,
    }


def _curve(model, own, split):
    plan = msgspec.structs.replace(RELEARNING, epochs=LONGER * RELEARNING.epochs)  # its rate is constant
    found = relearn(model, split.forget, own.engine, plan=plan, every=RELEARNING_EVERY)
    return Relearner(accuracy=found.accuracy, utility=observe(model, split, own.engine).accuracy["test"])
