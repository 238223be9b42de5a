"""The networks that the audit is audited on: digits with a tenth of the labels planted wrong, learnt by heart by a small MLP.

Pools are trained once, as many networks at a time, and looked at once; every audit draws from them.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from excise import oracles, seeds
from excise.data import Split
from excise.data.rows import Rows
from excise.masks import Mask
from excise.pipeline import policy
from excise.pipeline.demo import noisy_digits
from excise.pipeline.evidence import loaded, observe
from excise.train import Engine, Task, TrainPlan

PLAN = TrainPlan(epochs=80, lr=0.03, optimizer="adam", batch_size=128)
HIDDEN = 128
NUM_ORACLES = 8


def make():
    """Give an untrained network: 64 pixels, 128 hidden units, 10 classes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10))


@dataclass(frozen=True, eq=False)
class Problem:
    """Rows with planted wrong labels, and where networks trained on them are kept."""

    train: tuple
    true_labels: torch.Tensor
    test: tuple
    engine: Engine
    bank: object

    @property
    def wrong(self):
        """Ids of the rows with wrong labels."""
        return (self.train[1] != self.true_labels).nonzero().flatten()

    @property
    def clean(self):
        """Ids of the others."""
        return (self.train[1] == self.true_labels).nonzero().flatten()

    def split(self, ids):
        """Ask for some rows to be forgotten."""
        return Split(self.train, forget=sorted(int(one) for one in ids), test=self.test)

    def half(self):
        """Ask for half of the wrong labels to be forgotten, and as many rows with true ones."""
        return self.split(torch.cat([self.drawn(self.wrong, 64, "half"), self.drawn(self.clean, 64, "half")]))

    def drawn(self, ids, count, purpose):
        """Draw some of the ids, from the problem's seed."""
        order = torch.randperm(len(ids), generator=seeds.generator(self.engine.seed, purpose))
        return ids[order[:count]]

    def originals(self, count):
        """Train networks on all rows."""
        rows = Rows.all_of(self.train)
        return oracles.originals(make, rows, PLAN, count, self.engine, bank=self.bank, together=True)

    def oracles(self, split, count, **options):
        """Train networks on a split's retain rows."""
        return oracles.oracles(make, split.retain, PLAN, count, self.engine, bank=self.bank, together=True, **options)

    def left_in(self, split, share, count):
        """Train networks that forgot all forget rows but a share, each another."""
        several = []
        for number in range(count):
            kept = self.drawn(split.forget.ids, round(share * len(split.forget)), f"left {share} {number}")
            several.append(Rows(split.train.source, torch.cat([split.retain.ids, kept]).sort().values))
        chosen = [seeds.derive(self.engine.seed, "left in", str(share), number) for number in range(count)]
        return oracles.retrain(make, several, PLAN, chosen, self.engine, bank=self.bank, together=True)

    def seen(self, trained, split):
        """Look at trained networks."""
        return [observe(loaded(make, one, "a network of the pool"), split, self.engine) for one in trained]


def problem(seed, bank=None):
    """Plant wrong labels by a seed."""
    train, true_labels, test = noisy_digits(seed)
    return Problem(train, true_labels, test, Engine(Task(), seed, Mask.empty(make())), bank)


@dataclass(frozen=True, eq=False)
class Pool:
    """What originals and oracles of one split say."""

    split: Split
    originals: list
    oracles: list

    def draw(self, generator, count=NUM_ORACLES, without=()):
        """Draw oracles for one audit, none of them twice."""
        places = np.setdiff1d(np.arange(len(self.oracles)), without)
        return [self.oracles[place] for place in generator.permutation(places)[:count]]

    def any_original(self, generator):
        """Draw an original."""
        return self.originals[generator.integers(len(self.originals))]

    def audited(self, own, generator, without=(), original=None, arms=None):
        """Judge one network against oracles drawn from the pool."""
        before = self.any_original(generator) if original is None else original
        held = self.draw(generator, without=without)
        return policy.verdict(own, before, held, self.split, arms=arms)


@dataclass(frozen=True, eq=False)
class Pools:
    """Everything that the audits of one problem draw from.

    Attributes:
        problem: the rows.
        wrong: forget all wrong labels.
        half: forget half of the wrong labels and as many rows with true ones.
        fifth: forget a fifth of wrong labels among true ones.
        easy: forget ten rows with true labels that originals are surest of.
        clean: forget ten rows with true labels drawn at random.
        left: by share, networks that forgot all wrong labels but that share.
    """

    problem: Problem
    wrong: Pool
    half: Pool
    fifth: Pool
    easy: Pool
    clean: Pool
    left: dict


SHARES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)


def pools(bank=None, few=1):
    """Train and look at every pool; `few` divides the counts, to try things out."""
    own = problem(0, bank)
    wrong, clean = own.wrong, own.clean
    whole = own.split(wrong)
    originals = own.originals(64 // few)
    sure = np.mean([one.rows.margins["retain"] for one in own.seen(originals, whole)], axis=0)
    easy = whole.retain.ids[torch.from_numpy(np.argsort(-sure)[:10].copy())]
    asked = {
        "wrong": (whole, 128 // few),
        "half": (own.half(), 32),
        "fifth": (own.split(torch.cat([own.drawn(wrong, 26, "fifth"), own.drawn(clean, 102, "fifth")])), 24),
        "easy": (own.split(easy), 24),
        "clean": (own.split(own.drawn(clean, 10, "clean")), 24),
    }
    found = {}
    for name, (split, count) in asked.items():
        found[name] = Pool(split, own.seen(originals, split), own.seen(own.oracles(split, count), split))
    left = {share: own.seen(own.left_in(whole, share, 24 // few), whole) for share in SHARES}
    return Pools(own, left=left, **found)


def mean_accuracy(networks, part):
    """Give the mean accuracy of some networks on a part."""
    return float(np.mean([one.accuracy[part] for one in networks]))


generator_of = partial(np.random.default_rng)
