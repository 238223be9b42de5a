"""Train networks from scratch, by the user's plan or the user's own code, one after another or many at once.

With a bank, a network is found again by the hash of all it depends on (`excise.oracles.keys`), and each is kept as soon as
it, or the chunk that it is trained with, is done: after a kill, the same call trains only what is missing. Where the
engine has checkpoints, a network trained alone goes on where it was: they lie in the bank, under `.training-` and the
network's key, until the network does.

Those that are trained one at a time may be trained by a fleet of workers (`excise.cluster`). Each worker keeps its network
in the bank as soon as it is done, under the key that was computed here; a worker that would come to another key refuses
(`excise.oracles.away`). So networks are the same to the bit wherever they were trained, and if this process dies, the same call
finds what was done, and has lost what was under way.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from torch import nn

from excise import errors, params, seeds
from excise.cluster import Fleet, Here, require_fleet
from excise.data.rows import Rows
from excise.oracles import away, keys
from excise.oracles.alone import Alone, Missing, Retold, TrainFunction, Wanted, train_here
from excise.oracles.bank import Bank, Kind, Trained, require_kind
from excise.train.engine import Engine
from excise.train.plan import TrainPlan
from excise.train.task import Task
from excise.train.together import fit_together_, networks_at_once, why_not_together, why_slower_together

__all__ = ["TrainFunction", "retrain"]

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
    fleet: Fleet | None = None,
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
        fleet: who trains those that are trained one at a time; this process if None. With another, `together=None` means one
            at a time; rows, network and the user's own code must be such that they can be sent to another process, and the
            bank a directory that all machines share under one path, or a URL. Of progress there is one step a network.

    Raises:
        errors.Diverged: a training did; what was done before it is in the bank.
        errors.BadRequest: the user's code gave no network, or another architecture, or the same object twice; not one set
            of rows a seed; or networks are to be trained together (True) that cannot be, with the reason.
        errors.DiskError: a network is missing and the bank may not be written; before it is trained.
        errors.Corrupt: a network in the bank is not what was put there.
        errors.ClusterError: a worker has another version, number of threads, device or arithmetic, or other data, than this
            process; or what `excise.cluster.OnRay` says.
    """
    each = [rows] * len(train_seeds) if isinstance(rows, Rows) else list(rows)
    if len(each) != len(train_seeds):
        raise errors.BadRequest(
            f"rows: expected one set of rows for each of {len(train_seeds)} seeds, found {len(each)}; give as many, or one"
        )
    require_kind(kind)
    require_fleet(fleet)
    if not isinstance(plan, TrainPlan) or engine.task != Task():
        _tell_of_own_code(bank, engine, stage, together=together)
        bank, together = None, False
    alone = Alone(
        plan, replace(engine, slow=None, trace=[], checkpoints=None), engine.checkpoints, stage, each, bank, kind
    )
    run = _Run(alone, Here() if fleet is None or together else fleet, together=together)
    return run.all_of(_wanted(fresh, train_seeds, each, keys.fingerprints(each) if bank is not None else None))


def _wanted(
    fresh: Callable[[], nn.Module], train_seeds: Sequence[int], each: Sequence[Rows], printed: Sequence[str] | None
) -> Iterator[Wanted]:
    """Build one untrained network after another, each when it is asked for."""
    before: nn.Module | None = None
    for number, seed in enumerate(train_seeds):
        with seeds.isolated(seed, "fresh"):
            model = fresh()
        _require_new(model, before)
        before = model
        yield Wanted(number, seed, model, each[number], printed[number] if printed is not None else "")


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
        engine.hooks.on_note(f"{stage}: trained one at a time and not kept in {bank.place}, since {_OWN_CODE}")
    elif together is None:
        engine.hooks.on_note(f"{stage}: trained one at a time, since {_OWN_CODE}")


_OWN_CODE = (
    "networks trained by code of your own (plan, forward or loss) can neither be stacked nor be told apart later, because "
    "code cannot be hashed"
)


class _Run:
    """Takes wanted networks one after another and has those trained that are missing, as soon as there are enough of them."""

    def __init__(self, alone: Alone, fleet: Fleet, *, together: bool | None) -> None:
        self._alone, self._fleet, self._asked = alone, fleet, together
        self._plan, self._engine, self._stage, self._rows = alone.plan, alone.engine, alone.stage, alone.rows
        self._bank = alone.bank
        self._alike = Counter(len(some) for some in self._rows)
        self._at_once = 0 if together is False else None  # 0 for one at a time, None until it has to be decided
        self._missing: dict[int, list[Missing]] = {size: [] for size in self._alike}
        self._found: dict[int, Trained] = {}
        if together is None and not fleet.here:
            self._at_once = 0
            self._tell_alone("each goes to a worker by itself")
        elif together is None and len(self._rows) >= WORTH_IT and max(self._alike.values()) < WORTH_IT:
            self._tell_alone(f"fewer than {WORTH_IT} of them have equally many rows")

    def all_of(self, wanted: Iterable[Wanted]) -> list[Trained]:
        """Give all networks in the order in which they are wanted."""
        numbers: list[int] = []

        def missing() -> Iterator[Missing]:
            for one, told in self._to_train(wanted):
                numbers.append(one.number)
                yield one, told

        if self._fleet.here:
            for place, trained in self._fleet.run(train_here, self._alone, missing()):
                self._found[numbers[place]] = trained
        else:
            self._found |= away.train(self._fleet, self._alone, missing())
        return [self._found[number] for number in range(len(self._rows))]

    def _to_train(self, wanted: Iterable[Wanted]) -> Iterator[Missing]:
        """Give the networks that are to be trained one at a time; find the others in the bank, or train them together."""
        for one in wanted:
            told = self._told(one)
            if self._bank is not None and self._find(one, told):
                continue
            size = len(one.rows)
            missing = self._missing[size]
            missing.append((one, told))
            if self._asked is not True and self._alike[size] < WORTH_IT:
                yield from _drained(missing)
                continue
            if self._at_once is None and len(missing) == (1 if self._asked else WORTH_IT):
                self._at_once = self._decided(one)
            if self._at_once == 0:
                yield from _drained(missing)
            elif self._at_once is not None and len(missing) == self._chunk(size, self._at_once):
                self._train_together(missing)
                yield from _drained(missing)
        for missing in self._missing.values():
            if self._at_once and missing and (self._asked or len(missing) >= WORTH_IT):
                self._train_together(missing)
            yield from _drained(missing)

    def _told(self, one: Wanted) -> Mapping[str, str]:
        """Give what a network's key is the hash of; nothing without a bank."""
        if self._bank is None:
            return {}
        assert isinstance(self._plan, TrainPlan)
        own = (one.model, one.rows, one.fingerprint, self._plan, one.seed, self._engine)
        return keys.facts(*own, kind=self._alone.kind)

    def _find(self, one: Wanted, told: Mapping[str, str]) -> bool:
        """Look for a network in the bank; where it is not, require that it can be kept there."""
        assert self._bank is not None
        for way in (False, True) if self._asked is None else (self._asked,):
            kept = self._bank.find(keys.key(told, together=way))
            if kept is not None:
                self._found[one.number] = kept
                self._alone.put_away(told)
                return True
        self._bank.require_writable()
        return False

    def _chunk(self, size: int, at_once: int) -> int:
        """Give how many networks of a size make a chunk, at most `at_once` where that is not too few to pay, nearly equal."""
        count = self._alike[size]
        return max(WORTH_IT, -(-count // -(-count // at_once)))

    def _decided(self, one: Wanted) -> int:
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

    def _train_together(self, missing: list[Missing]) -> None:
        """Train networks on equally many rows as one, and share out what that took.

        Those that turn out to differ from what they are alone, on their own first rows, stay missing where the choice is free.
        """
        assert isinstance(self._plan, TrainPlan)
        wanted = [one for one, _ in missing]
        name = f"{self._stage} {wanted[0].number + 1}-{wanted[-1].number + 1}/{len(self._rows)}"
        own = replace(self._engine, hooks=Retold(self._engine.hooks, name))
        started, before = time.perf_counter(), own.cost.trained_rows
        models, rows, chosen = [one.model for one in wanted], [one.rows for one in wanted], [one.seed for one in wanted]
        try:
            fit_together_(models, rows, self._plan, chosen, own, stage="train")
        except errors.BadRequest as error:  # raised before any step
            if self._asked:
                raise
            self._tell_alone(f"of {len(wanted)} of them it was found that {error}")
            return
        seconds = (time.perf_counter() - started) / len(wanted)
        passed = (own.cost.trained_rows - before) // len(wanted)
        for one, told in missing:
            self._found[one.number] = trained = Trained(one.seed, params.state_of(one.model), seconds, passed)
            self._alone.keep((one, told), trained, together=True)
        missing.clear()


def _drained(missing: list[Missing]) -> Iterator[Missing]:
    """Give the first of a list until it is empty."""
    while missing:
        yield missing.pop(0)
