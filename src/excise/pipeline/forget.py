"""The walk of one forget request: check, localize, select, unlearn inside the mask, prove that nothing else moved."""

from __future__ import annotations

import functools
import hashlib
import inspect
import resource
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import CodeType
from typing import Any

import msgspec
from torch import Tensor, nn

from excise import errors, params, seeds, store
from excise.data.placing import placed
from excise.data.rows import Rows
from excise.data.split import Split
from excise.distributed import Processes, require_shardable
from excise.masks import Mask
from excise.methods.base import Method
from excise.methods.function import FromFunction, UnlearnFunction
from excise.patch import Patch
from excise.pipeline import agreeing
from excise.pipeline.fresh import fresh_builder
from excise.pipeline.unlearned import Unlearned
from excise.recipes import RECIPES, Recipe, without_retain
from excise.train.checkpoints import Checkpoints
from excise.train.engine import KEPT, Engine, Kept, Spent
from excise.train.hooks import Hooks
from excise.train.machine import Machine, require_machine
from excise.train.masked import effective, frozen_digest
from excise.train.plan import TrainPlan
from excise.train.running import without_autocast
from excise.train.statistics import recompute_statistics_, running_statistics
from excise.train.task import Forward, Loss, Task, cross_entropy, device_of, forward_pair


@without_autocast()
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
    recompute: bool = True,
    checkpoints: str | Path | Checkpoints | None = None,
    checkpoint_seconds: float = 30.0,
    machine: Machine = Machine(),  # noqa: B008 - a frozen value
    keep: Kept | None = KEPT,
    processes: Processes = Processes.alone(),  # noqa: B008 - frozen
) -> Unlearned:
    """Make a network forget rows.

    Args:
        model: any module that maps a batch of inputs to logits `[batch, classes]`. It is never changed.
        split: which rows to forget and which to retain; `Split.of_forget(rows)` where those to forget are all there are.
        recipe: from `excise.recipes`, a method, or a plain function `unlearn(net, retain, forget, validation) -> net`.
        mask: where change is allowed, a promise that holds for every recipe; None to let the recipe localize.
        fresh: builds the untrained network, for recipes that reset. Without it a copy is re-initialised through every
            module's own `reset_parameters`.
        seed: all randomness follows from it; the caller's random state is left as it was.
        plan: the `TrainPlan` the network was trained by, if known, to say what share of a retraining this cost.
        forward: `(model, batch) -> logits, targets`, for other examples than `(input, label)`.
        loss: `(logits, targets) -> [batch]`, for other losses than cross-entropy.
        hooks: who watches.
        recompute: recompute the running statistics of batch normalisation from the retain rows at the end, frozen modules'
            included: those of the original were computed with the forget rows among the others, and tell of them. Not done
            by methods that read no retain row, nor under an empty mask. False leaves them to the method's own rule.
        checkpoints: a directory of this request's own, where the work of gradient steps is kept as it is done. If the
            process is killed, the same call on the same data goes on from there and ends with the same bits. They hold
            weights and optimizer states that lead from the old network to the new: once the result is saved, remove them
            by `excise.store.Generations(directory).clear()`. None keeps nothing. See `excise.train.checkpoints`.
        checkpoint_seconds: as much work is lost at most; 0 keeps every step.
        machine: how the work is done (precision, layout, compilation, workers); on a CPU the default is plain PyTorch.
        keep: how much memory and disk may hold activations that are the same in every step, see `excise.train.activations`;
            None to compute them in every step. The result is the same to the bit.
        processes: who calls this, each with the same arguments, to share the rows of every batch (`Processes.joined()`,
            see `excise.distributed`). All get the same result, which is that of one process up to rounding, but for what
            layers (dropout) or data sets draw while training. Only the first is heard by `hooks`, and writes checkpoints,
            which under `fsdp` are not kept.

    Not for two threads at once: torch's global generator is lent to the run and put back afterwards.

    Returns:
        The new network with its mask, patch, trace, cost and proof.

    Raises:
        errors.BadRequest: rows, network, mask and recipe that do not go together; before any work.
        errors.Diverged: the loss or a weight stopped being finite; carries the last finite state.
        errors.Refused: something outside the mask moved (a method wrote where it must not), or processes came to different
            results; there is no result then.
    """
    _require_kinds({"model": model, "split": split, "mask": mask, "keep": keep, "processes": processes})
    require_machine(machine)
    how = _as_recipe(recipe)
    _require_retain(how, split, mask)
    task = Task(forward, loss)
    params.require_parameters(model)
    own = params.unwrapped(model)
    agreeing.require_possible(processes, machine)
    require_shardable(own, processes)
    split = placed(split, device_of(own), on_device=machine.on_device, workers=machine.workers)
    machine.way(own)  # refuses what it cannot do
    with seeds.isolated(seed, "unlearn"):
        started, held = time.perf_counter(), _peak_bytes()
        seen = params.shadow_of(own, trainable=True)  # what is run to look at, so that nothing happens to `own`
        task.require_fit(seen, _rows_read(how, split), labelled=_reads_labels(how))
        if mask is not None:
            mask.require_fit(own)
        builder = fresh_builder(own, fresh, seed)
        if "fresh" in how.method.needs:
            builder()
        _require_rows(how, split, own, recompute=recompute)
        asked = f"{how.name} {_words([how, mask, task.forward, task.loss, seed])}"
        agreeing.require_one_request(processes, own, split, asked)
        told = hooks if hooks is not None and processes.is_first else Hooks()
        engine = Engine(
            task, seed, Mask.empty(own), builder, own, hooks=told, machine=machine, keep=keep, processes=processes
        )
        agreeing.tell(processes, own, told, checkpoints=checkpoints is not None)
        if checkpoints is not None and not processes.sharded:
            engine = replace(engine, checkpoints=_begun(checkpoints, checkpoint_seconds, how, split, engine))
        if mask is None and how.besides is not None:
            engine = replace(engine, besides=how.besides.locate(seen, split, engine))
        with counted(engine, "localize"):
            localized = effective(how.where.locate(seen, split, engine) if mask is None else mask, own)
        how.method.require(seen, split, localized, engine)
        allowed = effective(localized | engine.besides, own)
        processes.require_same({"mask": allowed.digest}, agreeing.ALIKE, errors.Refused)
        work = params.clone_model(own)
        anew = recompute and _recomputes(how, allowed, own)
        before = frozen_digest(own, allowed, how.method.statistics, leaving_out=running_statistics(own) if anew else ())
        with counted(engine, "unlearn"):
            how.method.unlearn_(work, split, localized, engine)
            if anew:
                recompute_statistics_(work, split.retain, engine)
                processes.copy_from_first_([work.get_buffer(name) for name in running_statistics(work)])
        params.drop_graphs_(work)
        agreeing.require_one_result(processes, work)
        after = _require_kept(own, work, allowed, how, before, anew=anew)
    engine.cost.seconds += time.perf_counter() - started
    engine.cost.peak_bytes = _peak_bytes() - held
    if isinstance(plan, TrainPlan) and len(
        split.retain
    ):  # of a retraining on rows that are not at hand nothing is known
        engine.cost.retraining_share = engine.cost.trained_rows / (plan.epochs * len(split.retain))
    return Unlearned(
        model=params.rewrapped(model, work),
        recipe=how.name,
        mask=allowed,
        localized=localized,
        frozen_digest=after,
        frozen_digest_before=before,
        patch=Patch.between(own, work),
        trace=tuple(engine.trace),
        cost=engine.cost,
        seed=seed,
        recomputed=anew,
        how=how,
        by_hand=mask,
        rows_digest=rows_digest(split),
    )


def again(
    done: Unlearned, model: nn.Module, split: Split, fresh: Callable[[], nn.Module], engine: Engine, number: int
) -> nn.Module:
    """Put the recipe of one unlearning to another network, and give what forgot; counted in the engine's cost.

    Args:
        done: whose recipe, and whose mask if it was given by hand.
        model: another network of the same architecture.
        split: what it is to forget.
        fresh: builds the untrained network.
        engine: task and seed.
        number: of the network, for a seed of its own.

    Raises:
        errors.Diverged: as `unlearn`.
    """
    assert done.how is not None
    how = replace(done.how, method=done.how.method.for_network(params.unwrapped(model), split, engine))
    found = unlearn(
        model,
        split,
        how,
        mask=done.by_hand,
        fresh=fresh,
        seed=seeds.derive(engine.seed, "unlearning", number),
        forward=engine.task.forward,
        loss=engine.task.loss,
        recompute=done.recomputed,
        machine=engine.machine,
        keep=engine.keep,
    )
    engine.cost.count(trained=found.cost.trained_rows, forward=found.cost.forward_rows)
    return found.model


def rows_digest(split: Split) -> str:
    """Give the SHA-256 of a split's forget and retain ids."""
    return params.digest({"forget": split.forget.ids, "retain": split.retain.ids})


@contextmanager
def counted(engine: Engine, part: str, parts: dict[str, Spent] | None = None) -> Iterator[None]:
    """Note what the block spends: in `parts`, or else in the engine's cost."""
    cost, started, held = engine.cost, time.perf_counter(), _peak_bytes()
    seconds, trained, forward = cost.seconds, cost.trained_rows, cost.forward_rows
    yield
    (cost.parts if parts is None else parts)[part] = Spent(
        time.perf_counter() - started + cost.seconds - seconds,
        cost.trained_rows - trained,
        cost.forward_rows - forward,
        _peak_bytes() - held,
    )


def _require_kinds(given: Mapping[str, object]) -> None:
    kinds = {"model": nn.Module, "split": Split, "mask": Mask, "keep": Kept, "processes": Processes}
    for name, value in given.items():
        if not (isinstance(value, kinds[name]) or (value is None and name in ("mask", "keep"))):
            wanted = kinds[name].__name__
            raise errors.BadRequest(
                f"{name}: expected {'' if wanted == 'Processes' else 'a '}{wanted}, found {type(value).__name__}; "
                "call unlearn(model, split, recipe, mask=..., keep=Kept(...), processes=Processes.joined())"
            )


def _as_recipe(recipe: Recipe | Method | UnlearnFunction) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    made: tuple[object, ...] = (*RECIPES.values(),)
    if recipe in made or inspect.isclass(recipe):
        name = getattr(recipe, "__name__", "it")
        raise errors.BadRequest(
            f"recipe: expected a recipe, found the function or class that makes one; call it: {name}(...)"
        )
    method = recipe if isinstance(recipe, Method) else FromFunction(recipe) if callable(recipe) else None
    if method is None:
        raise errors.BadRequest(
            "recipe: expected a recipe such as excise.recipes.DEL(), a method from excise.methods, or a function "
            f"unlearn(net, retain, forget, validation) -> net; found {type(recipe).__name__}"
        )
    name = getattr(recipe, "__name__", type(recipe).__name__)
    return Recipe(name=name, paper="(the caller's)", year=0, method=method)


def _begun(given: str | Path | Checkpoints, seconds: float, how: Recipe, split: Split, engine: Engine) -> Checkpoints:
    """Give the checkpoints of a run that begins now, for this recipe and these rows alone."""
    found = given if isinstance(given, Checkpoints) else Checkpoints(given, seconds)
    parts = (split.forget, split.retain, split.holdout)
    rows = [None if some is None else store.commitment(some.ids) for some in parts]  # a plain hash of ids can be undone
    about = _words([how, rows, engine.task.forward, engine.task.loss]) or secrets.token_hex(16)
    if engine.processes.several:  # each machine hides ids under a key of its own
        about = engine.processes.digest_from_first(hashlib.sha256(about.encode()).hexdigest())
    found.begin(about)
    return found


def _words(values: list[Any]) -> str | None:
    """Give values as text, the same in another process; None for objects of the caller's that cannot be told apart later."""
    try:
        return msgspec.json.encode(values, enc_hook=_told, order="deterministic").decode()
    except (RecursionError, TypeError, ValueError):
        return None


def _told(value: Any) -> Any:
    """Give what tells one object from another in another process: content, names, settings."""
    if isinstance(value, Mask):
        return value.digest
    if isinstance(value, Tensor):
        return params.digest({"": value})
    if isinstance(value, functools.partial):
        return ["functools.partial", value.func, value.args, value.keywords]
    if inspect.isfunction(value):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return [f"{value.__module__}.{value.__qualname__}", _code_digest(value.__code__), value.__defaults__, cells]
    kind = value if inspect.isroutine(value) or inspect.isclass(value) else type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(value, nn.Module):
        return [name, params.model_digest(value)]
    return name if kind is value else [name, dict(getattr(value, "__dict__", {}))]


def _code_digest(code: CodeType) -> str:
    """Give the SHA-256 of what a function does, names of variables and places in files left out."""
    inner = [_code_digest(one) if isinstance(one, CodeType) else repr(one) for one in code.co_consts]
    return hashlib.sha256("\0".join([code.co_code.hex(), *code.co_names, *inner]).encode()).hexdigest()


def _rows_read(how: Recipe, split: Split) -> dict[str, Rows]:
    """Give the rows to check before any work: those to forget, and the retained ones where the recipe reads them at all."""
    reads = how.where.reads_retain or "retain" in how.method.needs
    retain = {"retain": split.retain} if reads and len(split.retain) else {}
    unseen = {"holdout": split.holdout} if split.holdout is not None and "holdout" in how.method.needs else {}
    return {"forget": split.forget, **retain, **unseen}


def _require_retain(how: Recipe, split: Split, mask: Mask | None) -> None:
    """Refuse a recipe that reads retain rows where there are none; a mask given by hand spares it its place."""
    needed = "retain" in how.method.needs
    if needed or (mask is None and any(place.reads_retain for place in (how.where, how.besides) if place is not None)):
        part = how.name if needed else f"{how.name}'s place ({how.where})"
        split.require_retain(part, f"; recipes that read no row that stays: {', '.join(without_retain())}")


def _reads_labels(how: Recipe) -> bool:
    return how.method.reads_labels or how.where.reads_forget or how.where.reads_retain


def _require_rows(how: Recipe, split: Split, model: nn.Module, *, recompute: bool) -> None:
    if "holdout" in how.method.needs and split.holdout is None:
        raise errors.BadRequest(
            f"{how.name} needs rows that were never trained on, of the forget rows' classes, to know when to stop; "
            "give them as Split(..., holdout=...)"
        )
    if recompute and len(split.retain) < 2 and "retain" in how.method.needs and running_statistics(model):
        raise errors.BadRequest(
            "retain: expected two rows or more to recompute running statistics from, found one; "
            "pass recompute=False (--keep-statistics) to keep the statistics that the method leaves"
        )


def _recomputes(how: Recipe, allowed: Mask, model: nn.Module) -> bool:
    """Say whether running statistics are to be recomputed: something may change, and the method reads retain rows at all."""
    return "retain" in how.method.needs and allowed.num_selected > 0 and bool(running_statistics(model))


def _require_kept(model: nn.Module, work: nn.Module, allowed: Mask, how: Recipe, before: str, *, anew: bool) -> str:
    after = frozen_digest(work, allowed, how.method.statistics, leaving_out=running_statistics(work) if anew else ())
    if after != before:
        raise errors.Refused(
            f"{how.name} moved something outside its mask (frozen digest {before[:12]}… became {after[:12]}…); "
            "the result was dropped. Either the method wrote there, past the engine, or a module writes to its own "
            "parameters or buffers in eval mode"
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
