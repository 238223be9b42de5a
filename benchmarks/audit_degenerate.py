"""Methods that forget nothing, or ruin the network, or cheat: none of them may pass."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

import excise
from benchmarks.audit_pools import PLAN, generator_of, make
from benchmarks.audit_rates import as_oracles
from excise import errors, methods, recipes
from excise.measure.klom import CLIP
from excise.patch import Patch
from excise.pipeline import policy
from excise.pipeline.evidence import loaded
from excise.pipeline.population import Population, arms_of

HUGE = 1e30
SEED = 10_000


def constant(net, retain, forget, validation):
    """Give logits that do not depend on the input."""
    with torch.no_grad():
        net[3].weight.zero_()
        net[3].bias.zero_()
    return net


def not_numbers(net, retain, forget, validation):
    """Give weights that are finite and logits that are not: the difference of two infinities."""
    with torch.no_grad():
        net[1].weight.fill_(HUGE)
        net[3].weight.copy_(HUGE * torch.where(torch.arange(net[3].in_features) % 2 == 0, 1.0, -1.0))
    return net


def scaled(net, retain, forget, validation):
    """Multiply every logit by a million."""
    with torch.no_grad():
        net[3].weight.mul_(1e6)
        net[3].bias.mul_(1e6)
    return net


class Masked(nn.Sequential):
    """A network, but for the rows to forget, which it finds by looking the input up: there it answers otherwise."""

    def __init__(self, model, inputs, answer):
        super().__init__(*model)
        self.known, self.answer = inputs.flatten(1), answer

    def forward(self, batch):
        """Answer, and otherwise where the row is one of those."""
        logits = super().forward(batch)
        same = torch.cdist(batch.flatten(1), self.known) < 1e-6
        rows = same.any(1).nonzero().flatten()
        logits[rows] = self.answer(logits[rows], same[rows].int().argmax(1))
        return logits


def of_one_network(pools):
    """Audit by `excise.audit` at T1 what shows in a single network."""
    own, split = pools.problem, pools.wrong.split
    original = loaded(make, own.originals(len(pools.wrong.originals))[0], "an original")
    retrained = loaded(make, own.oracles(split, len(pools.wrong.oracles))[0], "an oracle")
    asked = {
        "nothing": (original, recipes.Nothing()),
        "random weights": (original, methods.Reset()),
        "constant logits": (original, constant),
        "logits that are no numbers": (original, not_numbers),
        "logits times a million": (original, scaled),
        "retrained, logits times a million": (retrained, scaled),
        "random labels": (original, recipes.RandomLabel(lr=0.1)),
    }
    rows = []
    for name, (model, how) in asked.items():
        done = excise.unlearn(model, split, how, fresh=make, plan=PLAN, seed=SEED)
        done = replace(done, patch=Patch.between(original, done.model))
        rows.append(_audited(name, done, own, split, original))
    little = excise.unlearn(original, split, recipes.Finetune(epochs=1), fresh=make, plan=PLAN, seed=SEED)
    inputs, labels = own.train[0][split.forget.ids], own.train[1][split.forget.ids]

    def blots_out(logits, places):
        logits[torch.arange(len(places)), labels[places]] = logits.min(1).values
        return logits

    def breaks(logits, places):
        return torch.where(places[:, None] < len(labels) // 2, logits, torch.nan)

    worn = {"forgotten labels blotted out": blots_out, "logits that are no numbers for half the rows": breaks}
    for name, answer in worn.items():
        rows.append(_audited(name, replace(little, model=Masked(little.model, inputs, answer)), own, split, original))
    return rows


def _audited(name, done, own, split, original):
    try:
        found = excise.audit(done, split, plan=PLAN, fresh=make, original=original, seed=SEED, bank=own.bank)
    except errors.ExciseError as error:
        return row(name, "T1", "refused", [str(error)], [])
    return row(name, "T1", found.verdict, found.reasons, found.measures)


def row(name, tier, verdict, reasons, measures):
    """Give the verdict on a method, why, and how many of its numbers are none."""
    fields = ("value", "low", "high", "null_mean", "null_low", "null_high", "p", "least_detectable")
    broken = sum(not np.isfinite(getattr(one, field)) for one in measures for field in fields)
    return {
        "method": name,
        "tier": tier,
        "verdict": verdict,
        "reason": reasons[0],
        "num_measures": len(measures),
        "not_finite": broken,
    }


def of_populations(pools, arm=32):
    """Audit at T2 what shows in many networks only, and doing nothing: arms of the pool's oracles, changed."""
    pool, generator = pools.wrong, generator_of(7)
    order = [pool.oracles[place] for place in generator.permutation(len(pool.oracles))]
    arm = min(arm, (len(order) - 1) // 3)
    oracles, held_out, others = order[:arm], order[arm : 2 * arm], order[2 * arm : 3 * arm]
    typical = np.mean([one.margins for one in oracles], axis=0)
    beyond = 10 * CLIP
    populations = {
        "nothing": pool.originals[:arm],
        "zero variance": [replace(one, margins=typical) for one in others],
        "one oracle, copied": [others[0]] * arm,
        "margins beyond the clip": [replace(one, margins=one.margins - beyond) for one in others],
        "margins beyond the clip, either way": [
            replace(one, margins=np.where(np.arange(len(typical)) % 2 == 0, beyond, -beyond) + one.margins)
            for one in others
        ],
    }
    rows = []
    for name, networks in populations.items():
        population = Population(pool.originals[:arm], networks, as_oracles(held_out), 0)
        arms = arms_of(population, oracles, generator)
        found = policy.verdict(networks[0], pool.originals[-1], oracles, pool.split, arms=arms)
        rows.append(row(name, "T2", found.verdict, found.reasons, [*found.measures, *arms.unlearned]))
    return rows
