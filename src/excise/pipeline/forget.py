"""The walk of one forget request: check, localize, select, unlearn inside the mask, prove that nothing else moved."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable

from torch import nn

from excise import errors, params, seeds
from excise.data.rows import Rows
from excise.data.split import Split
from excise.localize.head import head_mask
from excise.masks import Mask
from excise.methods.base import Method
from excise.methods.function import FromFunction, UnlearnFunction
from excise.patch import Patch
from excise.pipeline.fresh import fresh_builder
from excise.pipeline.unlearned import Unlearned
from excise.recipes import Recipe
from excise.train.engine import Engine
from excise.train.hooks import Hooks
from excise.train.masked import effective, frozen_digest
from excise.train.plan import TrainPlan
from excise.train.task import Forward, Loss, Task, cross_entropy, forward_pair


def unlearn(
    model: nn.Module,
    split: Split,
    recipe: Recipe | Method | UnlearnFunction,
    *,
    mask: Mask | None = None,
    fresh: Callable[[], nn.Module] | None = None,
    seed: int = 0,
    plan: object = None,
    forward: Forward = forward_pair,
    loss: Loss = cross_entropy,
    hooks: Hooks | None = None,
) -> Unlearned:
    """Make a network forget rows.

    Args:
        model: any module that maps a batch of inputs to logits `[batch, classes]`. It is never changed.
        split: which rows to forget and which to retain.
        recipe: from `excise.recipes`, a method, or a plain function `unlearn(net, retain, forget, validation) -> net`.
        mask: where change is allowed, a promise that holds for every recipe; None to let the recipe localize.
        fresh: builds the untrained network, for recipes that reset. Without it a copy is re-initialised through every
            module's own `reset_parameters`.
        seed: all randomness follows from it; the caller's random state is left as it was.
        plan: the `TrainPlan` the network was trained by, if known, to say what share of a retraining this cost.
        forward: `(model, batch) -> logits, targets`, for other examples than `(input, label)`.
        loss: `(logits, targets) -> [batch]`, for other losses than cross-entropy.
        hooks: who watches.

    Not for two threads at once: torch's global generator is lent to the run and put back afterwards.

    Returns:
        The new network with its mask, patch, trace, cost and proof.

    Raises:
        errors.BadRequest: rows, network, mask and recipe that do not go together; before any work.
        errors.Diverged: the loss or a weight stopped being finite; carries the last finite state.
        errors.Refused: something outside the mask moved (a method wrote where it must not); there is no result then.
    """
    _require_kinds(model, split, mask)
    how = _as_recipe(recipe)
    task = Task(forward, loss)
    with seeds.isolated(seed, "unlearn"):
        started, held = time.perf_counter(), _peak_bytes()
        task.require_fit(model, _rows_read(how, split))
        if mask is not None:
            mask.require_fit(model)
        builder = fresh_builder(model, fresh, seed)
        if "fresh" in how.method.needs:
            builder()
        head = _head(how, model, split, task) if mask is None else Mask.empty(model)
        engine = Engine(task, seed, head, builder, hooks or Hooks())
        localized = effective(_localized(how, model, split, engine) if mask is None else mask, model)
        allowed = effective(localized | head, model)
        work = params.clone_model(model)
        before = frozen_digest(model, allowed, how.method.statistics)
        how.method.unlearn_(work, split, localized, engine)
        after = _require_kept(model, work, allowed, how, before)
    engine.cost.seconds = time.perf_counter() - started
    engine.cost.peak_bytes = _peak_bytes() - held
    if isinstance(plan, TrainPlan):
        engine.cost.retraining_share = engine.cost.trained_rows / (plan.epochs * len(split.retain))
    return Unlearned(
        model=work,
        recipe=how.name,
        mask=allowed,
        localized=localized,
        frozen_digest=after,
        frozen_digest_before=before,
        patch=Patch.between(model, work),
        trace=tuple(engine.trace),
        cost=engine.cost,
        seed=seed,
    )


def _require_kinds(model: object, split: object, mask: object) -> None:
    for name, value, kind in (("model", model, nn.Module), ("split", split, Split), ("mask", mask, Mask)):
        if not (isinstance(value, kind) or (value is None and name == "mask")):
            raise errors.BadRequest(
                f"{name}: expected a {kind.__name__}, found {type(value).__name__}; "
                "call unlearn(model, split, recipe, mask=...)"
            )


def _as_recipe(recipe: Recipe | Method | UnlearnFunction) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    method = recipe if isinstance(recipe, Method) else FromFunction(recipe) if callable(recipe) else None
    if method is None:
        raise errors.BadRequest(
            "recipe: expected a recipe such as excise.recipes.DEL(), a method from excise.methods, or a function "
            f"unlearn(net, retain, forget, validation) -> net; found {type(recipe).__name__}"
        )
    name = getattr(recipe, "__name__", type(recipe).__name__)
    return Recipe(name=name, paper="(the caller's)", year=0, method=method)


def _rows_read(how: Recipe, split: Split) -> dict[str, Rows]:
    """Give the rows to check before any work: those to forget, and the retained ones where the recipe reads them at all."""
    localizer_reads = how.localizer is not None and how.localizer.reads_retain
    retain = {"retain": split.retain} if localizer_reads or "retain" in how.method.needs else {}
    return {"forget": split.forget, **retain}


def _localized(how: Recipe, model: nn.Module, split: Split, engine: Engine) -> Mask:
    if how.localizer is None:
        return Mask.full(model)
    scores = how.localizer.score(model, split, engine)
    return scores.select(budget_fraction=how.budget_fraction, granularity=how.granularity, reduction=how.reduction)


def _head(how: Recipe, model: nn.Module, split: Split, task: Task) -> Mask:
    if not how.method.trains_head:
        return Mask.empty(model)
    return head_mask(model, split.forget, task) if how.head is None else Mask.of_modules(model, [how.head])


def _require_kept(model: nn.Module, work: nn.Module, allowed: Mask, how: Recipe, before: str) -> str:
    after = frozen_digest(work, allowed, how.method.statistics)
    if after != before:
        raise errors.Refused(
            f"{how.name} moved something outside its mask (frozen digest {before[:12]}… became {after[:12]}…); "
            "the result was dropped. A module that writes to its own parameters or buffers in eval mode does this"
        )
    held = model.state_dict()  # a causal mask may be a buffer of -inf: what the user's network held, it may hold
    broken = [
        name for name, value in work.state_dict().items() if bool((held[name].isfinite() & ~value.isfinite()).any())
    ]
    if broken:
        raise errors.Diverged(
            f"{how.name}: {broken[0]!r} holds values that are not finite; the original is untouched",
            params.state_of(model),
        )
    return after


def _peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
