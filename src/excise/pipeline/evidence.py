"""Evidence: what networks say about the split's rows, boiled down to the arrays that measures and pictures need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax
from torch import nn

from excise import errors, params, seeds
from excise.cluster import Fleet
from excise.data.split import Split
from excise.measure import accuracy, confidence_attack, confidences, margins
from excise.observe import Outputs, collect
from excise.oracles import Bank, Trained, oracles
from excise.oracles.retrain import TrainFunction
from excise.train.engine import Engine
from excise.train.plan import TrainPlan

PARTS = ("forget", "retain", "test")


@dataclass(frozen=True, eq=False)
class Seen:
    """What a network says of each row, kept for measures that look at rows.

    Attributes:
        margins: by part, `[rows]`, ln(p / (1 - p)) of each row's label.
        predicted: by part, `[rows]`, the class it names.
        targets: by part, `[rows]`, the labels.
        probabilities: `[forget, classes]`, softmax on the forget rows.
        test_logits: float32 `[test, classes]`, so that a test row can be asked about under another row's label.
    """

    margins: Mapping[str, np.ndarray]
    predicted: Mapping[str, np.ndarray]
    targets: Mapping[str, np.ndarray]
    probabilities: np.ndarray
    test_logits: np.ndarray

    @property
    def num_classes(self) -> int:
        """Width of the head."""
        return int(self.probabilities.shape[1])


@dataclass(frozen=True, eq=False)
class Evidence:
    """One network's standing on one split.

    Attributes:
        accuracy: on forget, retain and test, fractions.
        attack: share of forget rows that the confidence attack takes for never trained on.
        margins: `[forget]`, ln(p / (1 - p)) of each forget row's label.
        losses: `[forget]`, loss of each forget row.
        finite: whether every logit is a finite number.
        seen: what it says row by row, on every part; None where only the numbers above are wanted.
    """

    accuracy: Mapping[str, float]
    attack: float
    margins: np.ndarray
    losses: np.ndarray
    finite: bool
    seen: Seen | None = None

    @property
    def rows(self) -> Seen:
        """What the network says row by row; for evidence that has it."""
        assert self.seen is not None
        return self.seen


def observe(model: nn.Module, split: Split, engine: Engine) -> Evidence:
    """Collect a network's evidence on a split: one forward pass over forget, retain and test rows.

    Raises:
        errors.BadSplit: the split has no test rows, or no retain rows.
        errors.BadData: logits and targets that are not of classes.
    """
    split.require_retain("an audit")
    if split.test is None:
        raise errors.BadSplit("test: an audit needs rows the network never saw; pass test= to Split")
    outputs = {part: collect(model, getattr(split, part), engine) for part in PARTS}
    for part, found in outputs.items():
        _require_classes(part, found)
    finite = all(bool(np.isfinite(found.logits).all()) for found in outputs.values())
    sure = {part: confidences(found.logits, found.targets) for part, found in outputs.items()}
    generator = np.random.default_rng(seeds.derive(engine.seed, "attack"))
    attack = confidence_attack(sure["retain"], sure["test"], sure["forget"], generator) if finite else float("nan")
    forget = outputs["forget"]
    return Evidence(
        accuracy={part: accuracy(found.logits, found.targets) for part, found in outputs.items()},
        attack=attack,
        margins=margins(forget.logits, forget.targets),
        losses=forget.losses,
        finite=finite,
        seen=_seen(outputs) if finite else None,
    )


def _seen(outputs: Mapping[str, Outputs]) -> Seen:
    return Seen(
        margins={part: margins(found.logits, found.targets) for part, found in outputs.items()},
        predicted={part: found.logits.argmax(axis=1) for part, found in outputs.items()},
        targets={part: found.targets for part, found in outputs.items()},
        probabilities=softmax(outputs["forget"].logits, axis=1),
        test_logits=outputs["test"].logits.astype(np.float32),
    )


def _require_classes(part: str, found: Outputs) -> None:
    logits, targets = found.logits, found.targets
    whole = targets.ndim == 1 and np.issubdtype(targets.dtype, np.integer)
    if logits.ndim != 2 or not whole or targets.min() < 0 or targets.max() >= logits.shape[1]:
        raise errors.BadData(
            f"{part}: an audit needs logits [examples, classes] and one label a row within the classes, found logits "
            f"{list(logits.shape)} and targets {targets.dtype} {list(targets.shape)}; give them through forward="
        )


@dataclass(frozen=True, eq=False)
class Oracles:
    """Networks retrained without the forget rows, and what they say.

    Attributes:
        trained: the networks' states, seconds and cost.
        evidence: one a network, in the same order.
    """

    trained: Sequence[Trained]
    evidence: Sequence[Evidence]

    @property
    def mean_accuracy(self) -> dict[str, float]:
        """Mean accuracy over the networks, on each part."""
        return {part: float(np.mean([one.accuracy[part] for one in self.evidence])) for part in PARTS}

    def model(self, fresh: Callable[[], nn.Module], place: int) -> nn.Module:
        """Give one of the networks, as a module."""
        return loaded(fresh, self.trained[place], "an oracle")

    @property
    def mean_seconds(self) -> float:
        """Mean wall time of one retraining."""
        return float(np.mean([network.seconds for network in self.trained]))


def loaded(fresh: Callable[[], nn.Module], network: Trained, what: str) -> nn.Module:
    """Give a trained network as a module."""
    with seeds.isolated(network.seed, "fresh"):
        model = fresh()
    params.load_strictly_(model, network.state, what)
    return model


def gather_oracles(
    fresh: Callable[[], nn.Module],
    split: Split,
    plan: TrainPlan | TrainFunction,
    num_oracles: int,
    engine: Engine,
    bank: Bank | None = None,
    *,
    held_out: bool = False,
    together: bool | None = False,
    fleet: Fleet | None = None,
) -> Oracles:
    """Retrain networks on the retain rows, each from its own seed, and observe them.

    Args:
        fresh: builds an untrained network.
        split: what to retrain on, and to observe.
        plan: how.
        num_oracles: how many.
        engine: task, seed and hooks.
        bank: where to find networks again, and to keep them.
        held_out: the other arm, of seeds that the first has none of; see `excise.oracles.oracles`.
        together: train them as one, where that pays (None), always or never; see `excise.oracles.retrain`.
        fleet: who trains them; see there.

    Raises:
        errors.BadRequest: two of them are one network, so that they have no spread to judge by.
        errors.Diverged: one gives logits that are not finite.
    """
    trained = oracles(
        fresh, split.retain, plan, num_oracles, engine, held_out=held_out, bank=bank, together=together, fleet=fleet
    )
    if len({params.digest(network.state) for network in trained}) < len(trained):
        raise errors.BadRequest(
            "plan: expected oracles that differ by their seeds, two of them are equal to the bit; "
            "let fresh draw from torch's global generator, unseeded, and train(model, dataset, seed) use its seed"
        )
    evidence: list[Evidence] = []
    for network in trained:
        evidence.append(observe(loaded(fresh, network, "an oracle"), split, engine))
        if not evidence[-1].finite:
            raise errors.Diverged(
                f"oracle {len(evidence)} of {len(trained)} gives logits that are not finite; train by a plan that converges"
            )
    return Oracles(trained, evidence)
