"""Train networks from scratch, by the user's plan or the user's own code, one after another or many at once.

With a bank, a network is found again by the hash of all it depends on (`excise.oracles.keys`), and each is kept as soon as
it, or the chunk that it is trained with, is done: after a kill, the same call trains only what is missing. Where the
engine has checkpoints, a network trained alone goes on where it was: they lie in the bank, under `.training-` and the
network's key, until the network does.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from excise import errors, params, seeds, store
from excise.data.rows import Rows
from excise.masks import Mask
from excise.oracles import keys
from excise.oracles.bank import TRAINING, Bank, Kind, Trained, require_kind
from excise.train.checkpoints import Checkpoints
from excise.train.engine import Engine
from excise.train.hooks import EpochTrace, Hooks
from excise.train.loop import fit_
from excise.train.plan import TrainPlan
from excise.train.step import Pass
from excise.train.task import Task
from excise.train.together import fit_together_, networks_at_once, why_not_together, why_slower_together

TrainFunction = Callable[[nn.Module, Dataset[Any], int], nn.Module]

WORTH_IT = 4
"""Missing networks, on equally many rows, from which on training together is tried where the choice is free."""


def retrain(
    fresh: Callable[[], nn.Module],
    rows: Rows | Sequence[Rows],
    plan: TrainPlan | TrainFunction,
    train_seeds: Sequence[int],
    engine: Engine,
    *,
    stage: str = "oracle",
    bank: Bank | None = None,
    together: bool | None = False,
    kind: Kind = "oracle",
) -> list[Trained]:
    """Train one network a seed on `rows`, from fresh weights.

    Args:
        fresh: builds an untrained network, a new one at each call; called with global random numbers seeded from each seed.
        rows: what to train on; or one set of rows a seed.
        plan: a `TrainPlan`, or `train(model, dataset, seed) -> model`.
        train_seeds: one network each.
        engine: task and hooks; its cost counts what is trained; its checkpoints say how often one is kept in the bank.
        stage: name for progress.
        bank: to find networks in and keep them. Networks trained by the user's own code (plan, forward or loss) are not
            kept, since code cannot be hashed; a note says so.
        together: False, one at a time. True, all that are missing and have equally many rows at once, by
            `excise.train.together`, in chunks as large as it takes at a time; each chunk is kept when it is done. The same
            steps, in another order of floating-point sums. None chooses: together where that can be done, is found faster
            by timing a few steps, and `WORTH_IT` or more are missing; else one at a time, with the reason in a note. It
            takes what a bank holds of either kind, and without a bank may choose otherwise in another run.
        kind: what `rows` are, see `excise.oracles.bank.Kind`.

    Raises:
        errors.Diverged: a training did; what was done before it is in the bank.
        errors.BadRequest: the user's code gave no network, or another architecture, or the same object twice; not one set
            of rows a seed; or networks are to be trained together (True) that cannot be, with the reason.
        errors.DiskError: a network is missing and the bank may not be written; before it is trained.
        errors.Corrupt: a network in the bank is not what was put there.
    """
    each = [rows] * len(train_seeds) if isinstance(rows, Rows) else list(rows)
    if len(each) != len(train_seeds):
        raise errors.BadRequest(
            f"rows: expected one set of rows for each of {len(train_seeds)} seeds, found {len(each)}; give as many, or one"
        )
    require_kind(kind)
    if not isinstance(plan, TrainPlan) or engine.task != Task():
        _tell_of_own_code(bank, engine, stage, together=together)
        bank, together = None, False
    run = _Run(
        plan,
        replace(engine, slow=None, trace=[], checkpoints=None),
        engine.checkpoints,
        stage,
        each,
        bank,
        kind,
        together=together,
    )
    printed = keys.fingerprints(each) if bank is not None else [""] * len(each)
    before: nn.Module | None = None
    for number, seed in enumerate(train_seeds):
        with seeds.isolated(seed, "fresh"):
            model = fresh()
        _require_new(model, before)
        before = model
        run.take(_Wanted(number, seed, model, each[number], printed[number]))
    return run.finish()


def _require_new(model: nn.Module, before: nn.Module | None) -> None:
    """Refuse a network that is, or shares weights with, the one before it, which training changes."""
    same = "the same object twice" if model is before else "two networks that share weights"
    known = {id(value) for value in before.parameters()} if before is not None else set()
    if model is before or any(id(value) in known and value.requires_grad for value in model.parameters()):
        raise errors.BadRequest(
            f"fresh: expected a new untrained network at each call, it gave {same}, trained by then; build the network "
            "inside the callable"
        )


def _tell_of_own_code(bank: Bank | None, engine: Engine, stage: str, *, together: bool | None) -> None:
    """Say that the user's own code trains: one network at a time, none of them kept."""
    if together:
        raise errors.BadRequest(f"together: {_OWN_CODE}; leave it False, or None to have it chosen")
    if bank is not None:
        engine.hooks.on_note(f"{stage}: trained one at a time and not kept in {bank.directory}, since {_OWN_CODE}")
    elif together is None:
        engine.hooks.on_note(f"{stage}: trained one at a time, since {_OWN_CODE}")


_OWN_CODE = (
    "networks trained by code of your own (plan, forward or loss) can neither be stacked nor be told apart later, because "
    "code cannot be hashed"
)


@dataclass(frozen=True, eq=False)
class _Wanted:
    """A network to be found or trained: its place among those asked for, its seed, fresh weights, and rows."""

    number: int
    seed: int
    model: nn.Module
    rows: Rows
    fingerprint: str


_Missing = tuple[_Wanted, Mapping[str, str]]
"""A network that is to be trained, and what its key is the hash of."""


class _Run:
    """Takes wanted networks one after another and trains those that are missing, as soon as there are enough of them."""

    def __init__(
        self,
        plan: TrainPlan | TrainFunction,
        engine: Engine,
        checkpoints: Checkpoints | None,
        stage: str,
        rows: Sequence[Rows],
        bank: Bank | None,
        kind: Kind,
        *,
        together: bool | None,
    ) -> None:
        self._plan, self._engine, self._stage, self._rows = plan, engine, stage, rows
        self._bank, self._kind, self._asked = bank, kind, together
        self._checkpoints = checkpoints
        self._alike = Counter(len(some) for some in rows)
        self._at_once = 0 if together is False else None  # 0 for one at a time, None until it has to be decided
        self._missing: dict[int, list[_Missing]] = {size: [] for size in self._alike}
        self._found: dict[int, Trained] = {}
        if together is None and len(rows) >= WORTH_IT and max(self._alike.values()) < WORTH_IT:
            self._tell_alone(f"fewer than {WORTH_IT} of them have equally many rows")

    def take(self, one: _Wanted) -> None:
        """Find a network in the bank, or train it, now or with those that follow."""
        told: Mapping[str, str] = {}
        if self._bank is not None:
            assert isinstance(self._plan, TrainPlan)
            own = (one.model, one.rows, one.fingerprint, self._plan, one.seed, self._engine)
            told = keys.facts(*own, kind=self._kind)
            for way in (False, True) if self._asked is None else (self._asked,):
                kept = self._bank.find(keys.key(told, together=way))
                if kept is not None:
                    self._found[one.number] = kept
                    self._put_away(told)
                    return
            self._bank.require_writable()
        size = len(one.rows)
        missing = self._missing[size]
        missing.append((one, told))
        if self._asked is not True and self._alike[size] < WORTH_IT:
            self._train_alone(missing)
            return
        if self._at_once is None and len(missing) == (1 if self._asked else WORTH_IT):
            self._at_once = self._decided(one)
        if self._at_once == 0:
            self._train_alone(missing)
        elif self._at_once is not None and len(missing) == self._chunk(size, self._at_once):
            self._train_together(missing)

    def finish(self) -> list[Trained]:
        """Train what is still missing; give all networks in the order in which they were taken."""
        for missing in self._missing.values():
            if self._at_once and missing and (self._asked or len(missing) >= WORTH_IT):
                self._train_together(missing)
            self._train_alone(missing)
        return [self._found[number] for number in range(len(self._rows))]

    def _chunk(self, size: int, at_once: int) -> int:
        """Give how many networks of a size make a chunk, at most `at_once` where that is not too few to pay, nearly equal."""
        count = self._alike[size]
        return max(WORTH_IT, -(-count // -(-count // at_once)))

    def _decided(self, one: _Wanted) -> int:
        """Give how many networks may be trained at once; 0, with the reason told, if none but alone."""
        assert isinstance(self._plan, TrainPlan)
        reason = why_not_together(one.model, self._rows, self._plan, self._engine)
        if reason is not None and self._asked:
            raise errors.BadRequest(f"together: {reason}; leave it False, or None to have it chosen")
        if reason is None and not self._asked:
            count = self._alike[len(one.rows)]
            reason = why_slower_together(one.model, [one.rows], self._plan, self._engine, count)
        if reason is not None:
            self._tell_alone(reason)
            return 0
        return networks_at_once(one.model, one.rows, self._plan, self._engine)

    def _tell_alone(self, reason: str) -> None:
        self._engine.hooks.on_note(f"{self._stage}: trained one at a time, since {reason}")

    def _train_alone(self, missing: list[_Missing]) -> None:
        for one, told in missing:
            stage = f"{self._stage} {one.number + 1}/{len(self._rows)}"
            with self._resumable(told) as engine:
                trained = _train(one.model, one.rows, self._plan, one.seed, engine, stage)
                self._keep(one, told, trained, together=False)
        missing.clear()

    @contextmanager
    def _resumable(self, told: Mapping[str, str]) -> Iterator[Engine]:
        """Give the engine for one training, whose checkpoints are removed at the end of the block, when the network is kept."""
        if self._checkpoints is None or self._bank is None:
            yield self._engine
            return
        key = keys.key(told, together=False)
        place = self._bank.directory / f"{TRAINING}{key}"
        own = self._checkpoints.at(place, key, ends=False)
        with ExitStack() as held:
            try:
                held.enter_context(store.lock(place))
            except errors.InUse:  # another process trains this very network: each does so by itself
                yield self._engine
                return
            yield replace(self._engine, checkpoints=own)
            own.clear()
        store.remove_empty(place)  # now that its lock is gone

    def _put_away(self, told: Mapping[str, str]) -> None:
        """Remove the checkpoints of a training that was killed when its network had just been kept."""
        if self._bank is not None and (self._bank.directory / f"{TRAINING}{keys.key(told, together=False)}").exists():
            with self._resumable(told):
                pass

    def _train_together(self, missing: list[_Missing]) -> None:
        """Train networks on equally many rows as one, and share out what that took."""
        assert isinstance(self._plan, TrainPlan)
        wanted = [one for one, _ in missing]
        name = f"{self._stage} {wanted[0].number + 1}-{wanted[-1].number + 1}/{len(self._rows)}"
        own = replace(self._engine, hooks=_Retold(self._engine.hooks, name))
        started, before = time.perf_counter(), own.cost.trained_rows
        models, rows, chosen = [one.model for one in wanted], [one.rows for one in wanted], [one.seed for one in wanted]
        fit_together_(models, rows, self._plan, chosen, own, stage="train")
        seconds = (time.perf_counter() - started) / len(wanted)
        passed = (own.cost.trained_rows - before) // len(wanted)
        for one, told in missing:
            self._keep(one, told, Trained(one.seed, params.state_of(one.model), seconds, passed), together=True)
        missing.clear()

    def _keep(self, one: _Wanted, told: Mapping[str, str], trained: Trained, *, together: bool) -> None:
        self._found[one.number] = trained
        if self._bank is not None:
            self._bank.keep(
                keys.key(told, together=together),
                trained,
                kind=self._kind,
                architecture=type(params.unwrapped(one.model)).__name__,
                num_parameters=sum(value.numel() for value in one.model.parameters()),
                num_rows=len(one.rows),
                rows=one.rows.ids,
            )


def _train(
    model: nn.Module, rows: Rows, plan: TrainPlan | TrainFunction, seed: int, engine: Engine, stage: str
) -> Trained:
    started, before, earlier = time.perf_counter(), engine.cost.trained_rows, engine.cost.seconds
    if isinstance(plan, TrainPlan):
        own = replace(engine, seed=seed, trace=[], hooks=_Retold(engine.hooks, stage))
        fit_(model, _passes, {"retain": rows}, plan, Mask.full(model), own, stage="train", statistics="adapt")
        seconds = time.perf_counter() - started + engine.cost.seconds - earlier
        return Trained(seed, params.state_of(model), seconds, engine.cost.trained_rows - before)
    engine.hooks.on_stage(stage, 1)
    expected = {name: value.shape for name, value in model.state_dict().items()}
    with seeds.isolated(seed, "train"):
        trained = plan(model, rows.as_dataset(), seed)
    engine.hooks.on_stage_end(stage)
    if not isinstance(trained, nn.Module):
        raise errors.BadRequest(
            f"plan: expected train(model, dataset, seed) to return the network, found {type(trained).__name__}"
        )
    state = params.state_of(trained)
    if {name: value.shape for name, value in state.items()} != expected:
        raise errors.BadRequest("plan: train(model, dataset, seed) returned a network of another architecture")
    return Trained(seed, state, time.perf_counter() - started, None)


class _Retold(Hooks):
    """Tells of the one stage under a name that counts the networks. Random numbers depend on the stage and not on the count."""

    def __init__(self, inner: Hooks, stage: str) -> None:
        self._inner, self._stage = inner, stage

    def on_stage(self, name: str, num_steps: int) -> None:
        self._inner.on_stage(self._stage, num_steps)

    def on_step(self) -> None:
        self._inner.on_step()

    def on_epoch(self, trace: EpochTrace) -> None:
        self._inner.on_epoch(replace(trace, stage=self._stage))

    def on_note(self, text: str) -> None:
        self._inner.on_note(text)

    def on_stage_end(self, name: str) -> None:
        self._inner.on_stage_end(self._stage)


def _passes(_: int) -> tuple[Pass]:
    return (Pass(lambda step: step.mean_loss("retain"), ("retain",)),)
