"""Project: lower the network's confidence in the forget rows by steps that the retained rows' inputs cannot feel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from excise import checks, errors
from excise.curvature import Moments, layers_of, second_moments, weights_of
from excise.data.split import Split
from excise.masks import Mask
from excise.methods.base import Iterative, Method, Need, answers
from excise.methods.distill import require_classes
from excise.train.engine import Engine
from excise.train.masked import Statistics, effective
from excise.train.plan import TrainPlan
from excise.train.projection import Directions, Projection
from excise.train.step import Step
from excise.train.task import device_of, require_class_targets

Criterion = Literal["energy", "published", "published-plus-one", "published-below"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
NOT_AMONG = 1e-8
"""Share of the largest eigenvalue below zero from which on rows that were taken out cannot have been in."""


@dataclass(frozen=True, kw_only=True)
class Project(Iterative):
    """Minimise w1 mean(-log(1 - p_y + offset)) + w2 mean(sum_c p_c log p_c) over the forget rows, off the retained subspace.

    p is the softmax of a row's logits: the first term lowers the probability of the row's class, the second raises the
    entropy. Of each linear or convolutional layer, C = sum r r^T over the inputs r that the retained rows give it; M are
    the leading eigenvectors of C that `gamma` asks for; and no row of the layer's weight moves in M (`excise.train.projection`:
    it is the update that is projected, so that decay, momentum and Adam cannot lead back in). What the layer gives for inputs
    inside the span of M stays as it was. That is a linear statement about one layer's inputs. The inputs of deeper layers
    move where the layers before give something else for what lies outside of M, so that retained outputs barely move, and are
    not promised not to; with one layer and all of the rank they are.

    Only weights of those layers change. Biases, normalisation, embeddings, attention's packed weights and whatever else is no
    such layer stay, as do all buffers; dropout is active. A mask by rows, or by single weights, restricts further: what is
    left to a row is the part of its free weights' space that is orthogonal to M.

    Reads forget only, if `moments` of the training rows are given: the forget rows' own are subtracted, and no retained row
    is needed (`needs`). Without, it reads the retain rows once. Outside the mask nothing moves. Cost: `plan.epochs` passes
    forward and backward over forget, and one forward over forget, or over retain without moments; and an eigendecomposition of
    each layer, some 10 d^3 operations: at d = 4608 (a 3 x 3 convolution of 512 channels) about a minute, at 8192 several.
    Memory: two copies of the matrices, a basis of each (d times the smaller of k and d - k), a copy of the weights.

    Departs from the published code, which counts by singular values and not by energy (`criterion`), unfolds patches
    with stride 1 whatever the layer's, takes its sums with active dropout, and the forget rows' without augmentation but the
    others' with: their difference may be no sum of squares, and is taken apart as if it were. Here one way of reading holds
    for both; a negative eigenvalue is put to 0, and told of where it is more than rounding. Its first epoch takes no step.

    References:
        Hoang, Rana, Gupta, Venkatesh, "Learn to Unlearn for Deep Neural Networks: Minimizing Unlearning Interference with
        Gradient Projection", WACV 2024, arXiv:2312.04095. Saha, Garg, Roy, "Gradient Projection Memory for Continual
        Learning", ICLR 2021 (the energy criterion).

    Args:
        plan: epochs, optimizer, schedule, batches; the paper's code takes plain SGD.
        moments: of the training rows, forget rows included, on this very network; or the path of their file, which is read
            at once. None to compute the retained rows' from the retain rows.
        gamma: share of what the retained rows' inputs hold that M is to hold, from 0, where nothing is taken, to 1.
        criterion: `energy` for the fewest eigenvectors whose eigenvalues come to `gamma` of their sum, at 1 all that are not
            0 but for rounding; or, of the singular values, their roots, the number of cumulated shares at most `gamma`
            (`published`), that and one more (`published-plus-one`), or below `gamma` (`published-below`), where 1 freezes.
        gammas: `gamma` of single layers, by name.
        frozen: names of layers that stay.
        w1: weight of the first term.
        w2: weight of the second; negative to lower the entropy.
        offset: keeps the first term's slope at p_y = 1 at 1 / offset, above 0.
        forget_batch_size: forget rows a step, the plan's batch size if None.

    Raises:
        errors.BadRequest: options out of range; before any work, moments of another network, a layer that is not there, or
            parameters that are sharded (fsdp).
        errors.UnsupportedModel: before any work, a network without such a layer, or with logits of a single class.
        errors.BadData: a file that holds no moments; before any work, targets that are no classes.
    """

    plan: TrainPlan
    moments: Moments | str | Path | None = None
    gamma: float = 0.95
    criterion: Criterion = "energy"
    gammas: Mapping[str, float] | None = None
    frozen: tuple[str, ...] = ()
    w1: float = 1.0
    w2: float = 0.2
    offset: float = 0.05
    forget_batch_size: int | None = None
    streams: ClassVar[tuple[Need, ...]] = ("forget",)

    def __post_init__(self) -> None:
        """Check the options."""
        if isinstance(self.moments, str | Path):
            object.__setattr__(self, "moments", Moments.of(self.moments))
        given: object = self.moments
        if not (given is None or isinstance(given, Moments)):
            raise errors.BadRequest(
                f"moments: expected Moments, such as second_moments(model, rows), the path of a file of them, or None; found "
                f"{type(given).__name__}"
            )
        for name, value in {
            "gamma": self.gamma,
            **{f"gammas[{key!r}]": one for key, one in self._gammas.items()},
        }.items():
            checks.require_fraction(name, value)
        if self.criterion not in CRITERIA:
            raise errors.BadRequest(f"criterion: expected one of {', '.join(CRITERIA)}, found {self.criterion!r}")
        checks.require_finite("w1", self.w1)
        checks.require_finite("w2", self.w2, at_least=-float("inf"))
        if checks.require_finite("offset", self.offset) == 0:
            raise errors.BadRequest("offset: expected a number above 0, found 0: at p_y = 1 the loss would be infinite")
        if self.forget_batch_size is not None:
            checks.require_positive_int("forget_batch_size", self.forget_batch_size)

    @property
    def _gammas(self) -> Mapping[str, float]:
        return self.gammas or {}

    @property
    def needs(self) -> frozenset[Need]:
        """Forget rows; retain rows too if there are no moments."""
        return frozenset({"forget"} if self.moments is not None else {"forget", "retain"})

    @property
    def statistics(self) -> Statistics:
        """No buffer moves."""
        return "hold"

    def require(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Refuse moments of another network, unknown layers, sharded parameters, and logits or targets that are no classes'."""
        super().require(model, split, mask, engine)
        self._require_place(model, engine)
        if isinstance(self.moments, Moments):
            self.moments.require_fit(model)
        logits, targets = answers(model, split.forget, engine)
        require_classes("Project", logits)
        require_class_targets(targets, logits, "Project", remedy="there is no probability of a row's class to lower")

    def for_network(self, model: nn.Module, split: Split, engine: Engine) -> Method:
        """Give the same with moments of that network over the training rows, if it was given any. One pass forward."""
        if not isinstance(self.moments, Moments):
            return self
        layers = self.moments.matrices
        found = second_moments(model, split.train, engine, layers=layers, batch_size=self.plan.batch_size)
        return replace(self, moments=found)

    def _require_place(self, model: nn.Module, engine: Engine) -> None:
        known = layers_of(model)
        if not known:
            raise errors.UnsupportedModel(
                f"Project: expected a linear or convolutional layer of torch's own, found none in {type(model).__name__}"
            )
        weights_of(known, [*self._gammas, *self.frozen], "Project")
        if engine.processes.sharded:
            raise errors.BadRequest(
                "Project: a projection needs whole weights, and fsdp divides them; use the strategy ddp"
            )

    def confined(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> tuple[Mask, Projection]:
        """Give the weights of layers that have a direction left, and the directions of the retained inputs."""
        self._require_place(model, engine)
        known = layers_of(model)
        frozen = weights_of(known, self.frozen, "Project").values()
        gammas = {weight: self._gammas[name] for name, weight in weights_of(known, self._gammas, "Project").items()}
        allowed = effective(mask, model)
        retained = self._retained(
            model, split, [name for name in known if allowed.count(name) and name not in frozen], engine
        )
        projection = {}
        for name in retained.matrices:
            values, vectors, negative = retained.spectrum(name)
            if negative > NOT_AMONG:
                engine.hooks.on_note(
                    f"Project: without the forget rows, moments of {name!r} are negative by {negative:.1e} of the largest; "
                    "the forget rows were not among those of the moments, or are read otherwise now"
                )
            ranks = [num_directions(one, gammas.get(name, self.gamma), self.criterion) for one in values]
            projection[name] = Directions.first(vectors, ranks)
        moving = {name: one for name, one in projection.items() if not one.everything}
        engine.processes.require_same(
            {f"directions taken of {name!r}": str(one.ranks) for name, one in projection.items()},
            "machines must compute alike; use one process",
            errors.BadRequest,
        )
        moving = {name: _of_first(one, model, engine) for name, one in moving.items()}
        _tell(projection, engine, still=not moving)
        return allowed & Mask.where(model, lambda name: name in moving), moving

    def _retained(self, model: nn.Module, split: Split, names: list[str], engine: Engine) -> Moments:
        """Give the moments of the retained rows, of layers that those rows run through."""
        size = self.plan.batch_size
        if isinstance(self.moments, Moments):
            self.moments.require_fit(model)
            own = self.moments.of_layers(name for name in names if name in self.moments.matrices)
            found = own.minus(second_moments(model, split.forget, engine, layers=own.matrices, batch_size=size))
        else:
            found = second_moments(model, split.retain, engine, layers=names, batch_size=size)
        return found.of_layers(name for name, matrix in found.matrices.items() if bool(matrix.any()))

    def objective(self, step: Step) -> Tensor:
        """The weighted sum of the two terms on the forget batch."""
        logits, targets = step.outputs("forget")
        each = self.w1 * low_confidence(logits, targets, self.offset) + self.w2 * negative_entropy(logits)
        return step.mean(each, "forget")


def _of_first(directions: Directions, model: nn.Module, engine: Engine) -> Directions:
    """Give the first process's directions, which in others may differ in the last bits."""
    if not engine.processes.several:
        return directions
    basis = directions.basis.to(device_of(model), copy=True)
    engine.processes.copy_from_first_([basis])
    return replace(directions, basis=basis)


def _tell(projection: Projection, engine: Engine, *, still: bool) -> None:
    taken = sum(sum(one.ranks) for one in projection.values())
    every = sum(len(one.ranks) * one.basis.shape[1] for one in projection.values())
    engine.hooks.on_note(
        f"Project: the retained rows take {taken:,} of {every:,} directions in {len(projection)} layers"
        + ("; none is left, and no weight will move: lower gamma" if still else "")
    )


def low_confidence(logits: Tensor, targets: Tensor, offset: float) -> Tensor:
    """Give -log(1 - p_y + offset), `[batch]`, of logits `[batch, classes]`: from -log(1 + offset) up to -log(offset)."""
    of_class = logits.log_softmax(1).gather(1, targets[:, None]).squeeze(1)
    return -(offset - of_class.expm1()).log()


def negative_entropy(logits: Tensor) -> Tensor:
    """Give sum_c p_c log p_c, `[batch]`, of logits `[batch, classes]`: from -log(classes) up to 0."""
    logs = logits.log_softmax(1)
    return (logs.exp() * logs).sum(1)


def num_directions(values: Tensor, gamma: float, criterion: Criterion) -> int:
    """Give how many leading eigenvectors to take.

    Args:
        values: float64 `[d]`, eigenvalues, descending, none negative: squares of singular values.
        gamma: as `Project` takes it.
        criterion: as `Project` takes it.
    """
    width = len(values)
    if gamma == 0 or not bool(values[0] > 0):
        return 0
    if criterion == "energy":
        if gamma == 1:
            return int((values > width * torch.finfo(values.dtype).eps * values[0]).sum())
        return min(int((values.cumsum(0) < gamma * values.sum()).sum()) + 1, width)
    if gamma == 1:
        return width
    singular = values.sqrt()
    shares = singular.cumsum(0) / singular.sum()
    count = int((shares < gamma if criterion == "published-below" else shares <= gamma).sum())
    return min(count + (criterion == "published-plus-one"), width)
