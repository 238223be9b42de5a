"""The problems on which the published systems are held beside oracles: rows, a network, a plan, forget sets, populations.

Everything of a problem follows from its name, its size and a seed. Trained networks are kept in a bank, a datamodel in a file.
"""

from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import msgspec
import torch
from torch import nn

from excise import errors, oracles, seeds
from excise.attribution import Datamodel, estimate, principal_rows
from excise.data import Rows, Split, of_class, random_fraction, within_classes
from excise.data.sets import load
from excise.masks import Mask
from excise.networks import resnet18
from excise.oracles import Bank
from excise.train import Engine, Task, TrainPlan

PARTS = ("forget", "retain", "test")
FORGET_FRACTION, COMPONENT_FRACTION = 0.1, 0.05
SETS = ("class", "random", "two-class")
TITLES = {
    "class": "A whole class",
    "random": "A random tenth",
    "two-class": "Two classes, a tenth of the rows",
}
NUM_CLASSES = 10


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a problem there is.

    Attributes:
        num_train: training rows.
        num_other: rows never trained on; half of them test, half holdout.
        num_models: originals, oracles and held-out oracles, each.
        num_halves: networks on random halves of the training rows, of which a datamodel is made.
        num_components: of a datamodel's principal components, how many give a forget set.
        width: of the network.
        epochs: of the training.
    """

    num_train: int
    num_other: int
    num_models: int
    num_halves: int
    num_components: int
    width: int
    epochs: int


SIZES = {
    "usual": {
        "digits": Size(
            num_train=800, num_other=997, num_models=16, num_halves=800, num_components=2, width=128, epochs=40
        ),
        "fashion-mnist": Size(
            num_train=2000, num_other=2000, num_models=8, num_halves=400, num_components=2, width=16, epochs=15
        ),
    },
    "tiny": {
        "digits": Size(num_train=120, num_other=80, num_models=4, num_halves=8, num_components=1, width=8, epochs=10),
        "fashion-mnist": Size(
            num_train=120, num_other=80, num_models=4, num_halves=8, num_components=1, width=4, epochs=5
        ),
    },
    "large": {
        "fashion-mnist": Size(
            num_train=60_000, num_other=10_000, num_models=16, num_halves=512, num_components=2, width=32, epochs=20
        ),
    },
    "pretend": {
        "fashion-mnist": Size(
            num_train=80, num_other=60, num_models=4, num_halves=4, num_components=1, width=2, epochs=5
        ),
    },
}
RESIDUAL = ("large", "pretend")
"""Sizes at which the network is a ResNet-18 and not a small one of two convolutions."""


def kind_of(name):
    """Give the kind of a forget set: all principal components are one."""
    return "component" if name.startswith("component") else name


def title_of(name):
    """Give a forget set's name for people."""
    if name in TITLES:
        return TITLES[name]
    return f"Top of principal component {name.partition('-')[2]}"


def perceptron(width):
    """Give an untrained network for images of 8 x 8: one hidden layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, NUM_CLASSES))


def convolutions(width):
    """Give one for images of 14 x 14: two convolutions, each with batch normalisation, and a linear head."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, stride=2, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * width * 16, NUM_CLASSES),
    )


def residual(width):
    """Give one for images of 28 x 28: ResNet-18."""
    return resnet18(NUM_CLASSES, width=width, in_channels=1)


def placed(make, width, device):
    """Give an untrained network on a device."""
    return make(width).to(device)


@dataclass(frozen=True)
class Problem:
    """One problem at one seed, which draws rows, forget sets and networks."""

    name: str
    size: str
    seed: int
    out: str
    device: str = "cpu"
    code: str = ""

    @property
    def sizes(self):
        """Its counts."""
        return SIZES[self.size][self.name]

    @property
    def plan(self):
        """How its networks are trained."""
        if self.size in RESIDUAL:
            batch = 256 if self.size == "large" else 32
            return TrainPlan(epochs=self.sizes.epochs, lr=0.1, batch_size=batch, weight_decay=5e-4)
        return TrainPlan(epochs=self.sizes.epochs, lr=0.05, batch_size=64, weight_decay=5e-4)

    @property
    def make(self):
        """What builds an untrained network."""
        made = residual if self.size in RESIDUAL else perceptron if self.name == "digits" else convolutions
        return partial(placed, made, self.sizes.width, self.device)

    @property
    def described(self):
        """What its networks and images are, in a sentence."""
        if self.size in RESIDUAL:
            return f"ResNet-18 of width {self.sizes.width}{' on enlarged digits' if self.size == 'pretend' else ''}."
        if self.name == "digits":
            return f"A perceptron of {self.sizes.width} hidden units."
        width = self.sizes.width
        return f"Images pooled to 14 x 14; convolutions of {width} and {2 * width} channels with batch normalisation."

    @property
    def engine(self):
        """Its task and seed."""
        return Engine(Task(), self.seed, Mask.empty(self.make()))

    @property
    def bank(self):
        """Where its networks lie."""
        return Bank(Path(self.out) / "bank")

    @property
    def data(self):
        """Training rows, holdout and test rows."""
        return _data(self)

    @property
    def train(self):
        """Rows of the training."""
        return Rows.all_of(self.data[0])

    @property
    def sets(self):
        """Names of its forget sets."""
        kinds = SETS[:1] if self.size == "pretend" else SETS
        return (*kinds, *(f"component-{number}" for number in range(1, self.sizes.num_components + 1)))

    def first_of_kind(self, name):
        """Give the first forget set of a set's kind, on which the settings of the kind are chosen."""
        return next(one for one in self.sets if kind_of(one) == kind_of(name))

    def rule(self, name):
        """Give a forget set's rows."""
        if kind_of(name) == "component":
            count = round(COMPONENT_FRACTION * self.sizes.num_train)
            return principal_rows(self.datamodel, count=count, component=int(name.partition("-")[2]))
        if name == "class":
            return of_class(self.classes(1)[0])
        if name == "two-class":
            return within_classes(self.classes(3)[1:], fraction=FORGET_FRACTION, seed=self.seed)
        return random_fraction(FORGET_FRACTION, seed=self.seed)

    def classes(self, count):
        """Draw classes by the seed."""
        drawn = torch.randperm(NUM_CLASSES, generator=seeds.generator(self.seed, "classes"))
        return drawn[:count].tolist()

    @property
    def datamodel(self):
        """What each training row adds to the outputs; made of networks on halves, once, and kept in a file."""
        return _datamodel(self)

    def originals(self):
        """Train networks on all rows, or find them."""
        several = partial(oracles.originals, self.make, self.train, self.plan, self.sizes.num_models, self.engine)
        return together_if_possible(several, self)

    def oracles(self, split, *, held_out=False):
        """Train networks on a split's retain rows, or find them."""
        several = partial(oracles.oracles, self.make, split.retain, self.plan, self.sizes.num_models, self.engine)
        return together_if_possible(partial(several, held_out=held_out), self)

    def split(self, name):
        """Give a forget set's split."""
        train, holdout, test = self.data
        return Split(train, forget=self.rule(name), test=test, holdout=holdout)


def together_if_possible(several, problem):
    """Train networks as one where that pays and they are then what they are alone; else one by one."""
    return several(bank=problem.bank, together=None)


@cache
def _data(problem):
    """Draw training and other rows by the seed; half of the others are the holdout."""
    inputs, labels = _source(problem)
    sizes = problem.sizes
    order = torch.randperm(len(labels), generator=seeds.generator(problem.seed, "rows"))
    one = sizes.num_train + sizes.num_other // 2
    ends = (slice(0, sizes.num_train), slice(sizes.num_train, one), slice(one, sizes.num_train + sizes.num_other))
    return tuple((inputs[order[end]], labels[order[end]]) for end in ends)


@cache
def _datamodel(problem):
    words = f"{problem.name}-{problem.size}-{problem.seed}-{problem.code[:16]}.datamodel"
    path = Path(problem.out) / "datamodels" / words
    if not path.exists():
        several = partial(estimate, problem.make, problem.train, problem.plan, problem.sizes.num_halves)
        made = together_if_possible(partial(several, seed=problem.seed), problem)
        made.save(path)
    return Datamodel.load(path)


@cache
def _whole(name, side):
    found = load(name)
    inputs, labels = (torch.cat([one, other]) for one, other in zip(found.train, found.test, strict=True))
    return (nn.functional.avg_pool2d(inputs, 2) if side == 14 else inputs), labels


def _source(problem):
    if problem.size == "pretend":
        inputs, labels = _whole("digits", 8)
        return nn.functional.interpolate(inputs, size=12), labels
    return _whole(problem.name, 8 if problem.name == "digits" else 28 if problem.size == "large" else 14)


def why_absent(name):
    """Say why a problem's rows are not on this machine; None if they are."""
    try:
        load(name)
    except errors.BadData:
        return "its files were not found on the machine that measured."
    return None
