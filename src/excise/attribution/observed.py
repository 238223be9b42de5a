"""`Observed`: what networks trained on random halves say of rows, from which a datamodel is estimated and judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from excise import checks, errors, params, seeds
from excise.attribution.origin import row_digests
from excise.attribution.parts import TRAIN
from excise.data.rows import Rows
from excise.measure import margins
from excise.observe import Outputs, collect
from excise.oracles import Halves, Trained
from excise.train.engine import Engine


@dataclass(frozen=True, eq=False)
class Answers:
    """What several networks say of some rows.

    Attributes:
        ids: int64 `[rows]`, ascending.
        logits: float32 `[rows, models, classes]`.
        margins: float32 `[rows, models]`, ln(p / (1 - p)) of each row's label; None where targets are no classes.
        content: `row_digests` of the rows; None where they were not read for it.
    """

    ids: Tensor
    logits: Tensor
    margins: Tensor | None = None
    content: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Observed:
    """Networks on halves of some rows, by what each was trained on and what it says.

    Attributes:
        keep: bool `[models, train]`, True where the network was trained on the row.
        answers: by name of a part of rows; the rows of `train` are those of `keep`.
        seconds: what the trainings took.
        trained_rows: examples passed forward and backward in them.
        forward_rows: examples passed forward to observe.
        data: keyed digest of the training rows (`data.content`), where a bank keeps networks of them; else empty.
    """

    keep: Tensor
    answers: Mapping[str, Answers]
    seconds: float = 0.0
    trained_rows: int = 0
    forward_rows: int = 0
    data: str = ""

    @property
    def num_models(self) -> int:
        """How many networks."""
        return len(self.keep)

    def first(self, num_models: int) -> Observed:
        """Give the first of the networks, as if the others had not been trained.

        Raises:
            errors.BadRequest: there are fewer.
        """
        if checks.require_positive_int("num_models", num_models) > self.num_models:
            raise errors.BadRequest(f"num_models: expected at most the {self.num_models} there are, found {num_models}")
        share = num_models / self.num_models
        return Observed(
            self.keep[:num_models],
            {
                name: replace(
                    one,
                    logits=one.logits[:, :num_models],
                    margins=None if one.margins is None else one.margins[:, :num_models],
                )
                for name, one in self.answers.items()
            },
            self.seconds * share,
            round(self.trained_rows * share),
            round(self.forward_rows * share),
            self.data,
        )


def observe(
    fresh: Callable[[], nn.Module],
    halves: Halves,
    parts: Mapping[str, Rows],
    engine: Engine,
) -> Observed:
    """Ask every network of every row, in eval mode.

    Cost: a forward pass over the rows for each network, and one reading of every row for its digest. Memory: 4 bytes for
    every row, network and class, and a copy of one network.

    Args:
        fresh: builds the untrained network.
        halves: of the rows of `train`.
        parts: rows by name; `train` is one of them.
        engine: task and hooks; its cost counts the passes.

    Raises:
        errors.UnsupportedModel: logits that are not `[rows, classes]`.
        errors.Diverged: logits that are not finite.
    """
    before = engine.cost.forward_rows
    logits: dict[str, list[np.ndarray]] = {name: [] for name in parts}
    sure: dict[str, list[np.ndarray]] = {name: [] for name in parts}
    model = None
    engine.hooks.on_stage("observe", len(halves.trained))
    for number, trained in enumerate(halves.trained, 1):
        model = _loaded(fresh, trained, model)
        for name, rows in parts.items():
            found = collect(model, rows, engine)
            _require_sound(found, name, number)
            logits[name].append(found.logits.astype(np.float32))
            if _of_classes(found):
                sure[name].append(margins(found.logits, found.targets).astype(np.float32))
        engine.hooks.on_step()
    engine.hooks.on_stage_end("observe")
    answers = {
        name: Answers(
            rows.ids,
            torch.from_numpy(np.stack(logits.pop(name), axis=1)),
            torch.from_numpy(np.stack(sure[name], axis=1)) if sure[name] else None,
            row_digests(rows),
        )
        for name, rows in parts.items()
    }
    return Observed(
        torch.from_numpy(halves.keep),
        answers,
        sum(one.seconds for one in halves.trained),
        sum(one.trained_rows or 0 for one in halves.trained),
        engine.cost.forward_rows - before,
    )


def _loaded(fresh: Callable[[], nn.Module], trained: Trained, model: nn.Module | None) -> nn.Module:
    if model is None:
        with seeds.isolated(trained.seed, "fresh"):
            model = fresh()
    params.load_strictly_(model, trained.state, "a network on a half")
    return model


def _require_sound(found: Outputs, name: str, number: int) -> None:
    if found.logits.ndim != 2:
        raise errors.UnsupportedModel(
            f"datamodel: expected logits [rows, classes], found {list(found.logits.shape)} on {name!r}; give forward= that "
            "makes one row of numbers an example"
        )
    if not np.isfinite(found.logits).all():
        raise errors.Diverged(
            f"network {number} on a half of the rows gives logits that are not finite on {name!r}; train by a plan that "
            "converges"
        )


def _of_classes(found: Outputs) -> bool:
    targets, num_classes = found.targets, found.logits.shape[1]
    whole = targets.ndim == 1 and np.issubdtype(targets.dtype, np.integer) and num_classes > 1
    return bool(whole and len(targets) and targets.min() >= 0 and targets.max() < num_classes)


def parts_of(given: object) -> dict[str, Rows]:
    """Give the rows of a split, or of training rows alone, by name: what a datamodel is asked of.

    Raises:
        errors.BadRequest: neither a split, rows, nor a mapping of rows with the part `train`.
    """
    if isinstance(given, Rows):
        given = {TRAIN: given}
    if isinstance(given, Mapping) and all(isinstance(one, Rows) for one in given.values()) and TRAIN in given:
        if len(given[TRAIN]) == 0:
            raise errors.BadRequest("rows: expected training rows, found none; give the rows of the training")
        return {str(name): one for name, one in given.items() if len(one)}
    named = {name: getattr(given, name, None) for name in (TRAIN, "test", "holdout")}
    if not isinstance(named[TRAIN], Rows):
        raise errors.BadRequest(
            f"rows: expected a Split, Rows, or Rows by name with 'train' among them, found {type(given).__name__}"
        )
    return {name: one for name, one in named.items() if isinstance(one, Rows)}
