"""Influence: one step that says by the curvature what the network would be without the forget rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from excise import checks, errors, seeds
from excise.curvature import (
    conjugate_gradient,
    example_gradients,
    fisher_product,
    flat,
    num_chunks,
    published_woodfisher,
    resting,
    summed_gradient,
    trainable,
)
from excise.data.batches import num_batches
from excise.data.rows import Rows
from excise.data.split import Split
from excise.masks import Mask
from excise.methods.base import Need, OneShot
from excise.train.engine import Engine

MODES = ("exact", "reference")


@dataclass(frozen=True, kw_only=True)
class Influence(OneShot):
    """theta <- theta + alpha * F^-1 v, with v = (1/N) sum over forget of g - n_f / (N n_r) * sum over retain of g.

    g is one example's gradient in eval mode, N = n_f + n_r, and F the mean of g g^T over retain rows. At a minimum of the mean
    loss over all rows v is minus the gradient of the mean loss over retain, and alpha 1 is Newton's step on that loss, with
    F in the place of its Hessian.

    - `exact` solves (F + damping I) x = v by conjugate gradients on products with F. F is never formed. It stands for the
      Hessian where the network's probabilities are those of the data; on a network that has learnt its rows by heart,
      gradients vanish, and F with them faster than the Hessian.
    - `reference` is what the published codes compute. Their recursion, meant for (I + F)^-1 v, gives v - c g_0, g_0 the
      gradient of the first retain row (see `excise.curvature.published_woodfisher`): in effect alpha times a plain gradient
      step, which is why their alphas are in the thousands.

    Damping 1 is what their recursion starts from. The less of it, the longer the step where rows say little, and the more
    iterations: at 1 a handful, at 0.01 ten times as many, and then the solve costs what a retraining does.

    The solve goes over all trainable parameters, whatever the mask, and what lies outside is dropped, as in those codes.

    Reads both. Outside the mask nothing moves, buffers nowhere. Cost: one pass forward and backward over forget and retain,
    and for `exact` one over `num_rows` rows an iteration, for `reference` one over `num_rows` + 2. Memory: the solve's
    five vectors and an example's gradient in three forms, or a chunk of examples' where several fit: some eight copies of a
    ResNet-18.

    References:
        Koh, Liang, "Understanding Black-box Predictions via Influence Functions", ICML 2017; Izzo, Smart, Chaudhuri, Zou,
        "Approximate Data Deletion from Machine Learning Models", AISTATS 2021; Jia et al., "Model Sparsity Can Simplify
        Machine Unlearning", NeurIPS 2023 (as IU).

    Args:
        alpha: length of the step.
        mode: `exact` or `reference`.
        damping: added to F's diagonal, for `exact`.
        num_rows: retain rows that F is made of; None for all. `exact` draws them from the run's seed, `reference` takes the
            first `num_rows` + 2, as the published codes do with 1000.
        tolerance: of the solve, relative, for `exact`.
        max_iterations: of the solve, for `exact`.
        batch_size: rows a batch for the two mean gradients, which do not depend on it.
        examples_at_once: gradients held at once; None to fit the network's size.
    """

    alpha: float
    mode: Literal["exact", "reference"] = "exact"
    damping: float = 1.0
    num_rows: int | None = 1000
    tolerance: float = 1e-3
    max_iterations: int = 100
    batch_size: int = 128
    examples_at_once: int | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        if self.mode not in MODES:
            raise errors.BadRequest(f"mode: expected one of {', '.join(MODES)}, found {self.mode!r}")
        for name in ("alpha", "damping", "tolerance"):
            checks.require_finite(name, getattr(self, name))
        for name in ("num_rows", "max_iterations", "batch_size", "examples_at_once"):
            if (count := getattr(self, name)) is not None:
                checks.require_positive_int(name, count)

    @property
    def needs(self) -> frozenset[Need]:
        """Forget and retain rows."""
        return frozenset({"forget", "retain"})

    @torch.no_grad()
    def edit(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> Mapping[str, Tensor]:
        """Give the weights after the step."""
        own = trainable(model)
        pull = self._pull(model, split, engine)
        found = (self._solved if self.mode == "exact" else self._published)(model, split.retain, engine, pull)
        parts = torch.split(self.alpha * found, [value.numel() for value in own.values()])
        return {name: value + part.reshape(value.shape) for (name, value), part in zip(own.items(), parts, strict=True)}

    def _pull(self, model: nn.Module, split: Split, engine: Engine) -> Tensor:
        """Give v, `[params]`: n_f / N times the difference of the two mean gradients."""
        sets = (split.forget, split.retain)
        engine.hooks.on_stage("Influence: gradients", sum(num_batches(len(rows), self.batch_size) for rows in sets))
        forget, retain = (flat(summed_gradient(model, rows, engine, batch_size=self.batch_size)) for rows in sets)
        engine.hooks.on_stage_end("Influence: gradients")
        return (forget - retain) * (len(split.forget) / (len(split.forget) + len(split.retain)))

    def _solved(self, model: nn.Module, retain: Rows, engine: Engine, pull: Tensor) -> Tensor:
        """Give (F + damping I)^-1 v."""
        rows = retain
        if self.num_rows is not None and self.num_rows < len(retain):
            order = torch.randperm(len(retain), generator=seeds.generator(engine.seed, "influence"))
            rows = Rows(retain.source, retain.ids[order[: self.num_rows]].sort().values)
        steps = self.max_iterations * num_chunks(model, rows, self.examples_at_once)
        engine.hooks.on_stage("Influence: solve", steps)
        found = conjugate_gradient(
            lambda vector: fisher_product(model, rows, engine, vector, examples_at_once=self.examples_at_once),
            pull,
            damping=self.damping,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
        )
        engine.hooks.on_stage_end("Influence: solve")
        return found

    def _published(self, model: nn.Module, retain: Rows, engine: Engine, pull: Tensor) -> Tensor:
        """Give v - c g_0."""
        count = self.num_rows or len(retain)
        rows = retain.head(count + 2)
        engine.hooks.on_stage("Influence: recursion", num_chunks(model, rows, self.examples_at_once))
        with resting(model):
            stacks = example_gradients(model, rows, engine, self.examples_at_once)
            vectors = (vector for stack in stacks for vector in flat(stack, stacked=True).detach())
            found = published_woodfisher(vectors, pull, count)
        engine.hooks.on_stage_end("Influence: recursion")
        return found
