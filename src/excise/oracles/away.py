"""One training on a worker of a fleet: what is sent there, what is checked there, and what comes back.

A network's key says all that its weights depend on. It is computed where networks are asked for, and once more where one is
trained, from what arrived there: a worker that comes to another key - another version of torch, other threads, other
arithmetic on the probe, a data set that reads other files - refuses before it trains. Without a bank there are no keys; then
versions and threads are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from excise import errors, store
from excise.cluster import Fleet
from excise.data.rows import Rows
from excise.oracles import keys
from excise.oracles.alone import Alone, Missing, TrainFunction, Wanted
from excise.oracles.bank import Bank, Kind, Trained
from excise.train.checkpoints import Checkpoints
from excise.train.engine import Cost, Engine
from excise.train.hooks import Hooks
from excise.train.plan import TrainPlan


@dataclass(frozen=True, eq=False)
class Shared:
    """What goes to the workers once.

    Attributes:
        plan: how networks are trained.
        engine: its task, seed and machine; it has no hooks, no networks and no places.
        seconds: between checkpoints; None for none.
        stage: name of the stage, as in progress.
        rows: of each network, in order.
        address: of the bank; None for none.
        data: what the bank keeps with each network.
        kind: what the rows are.
        surroundings: versions and threads where the networks are asked for.
    """

    plan: TrainPlan | TrainFunction
    engine: Engine
    seconds: float | None
    stage: str
    rows: Sequence[Rows]
    address: str | None
    data: str | None
    kind: Kind
    surroundings: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Sent:
    """What goes to a worker for one network.

    The network goes as it is before training, not as a function that builds it: so its first weights are the same bits
    wherever it is trained, whatever `fresh` does. It weighs what the trained one weighs that comes back.

    Attributes:
        number: place among those asked for.
        seed: of its batches.
        model: untrained.
        told: what its key is the hash of; empty without a bank.
        ids: digest of the ids of its rows, by the key of the machine that asks; None without a bank.
    """

    number: int
    seed: int
    model: nn.Module
    told: Mapping[str, str]
    ids: str | None


@dataclass(frozen=True, eq=False)
class Back:
    """What comes back.

    Attributes:
        trained: None where it was kept in a bank.
        cost: of the training.
        notes: what people should know.
    """

    trained: Trained | None
    cost: Cost
    notes: Sequence[str]


def train(fleet: Fleet, alone: Alone, missing: Iterator[Missing]) -> dict[int, Trained]:
    """Have a fleet train networks; give them by number. Costs and notes go to the engine.

    Raises:
        errors.DiskError: a worker kept a network where this process does not find it.
    """
    engine, bank = alone.engine, alone.bank
    sent: list[tuple[int, str]] = []

    def items() -> Iterator[Sent]:
        for one, told in missing:
            if not sent:
                engine.hooks.on_stage(stage, len(alone.rows))
            sent.append((one.number, keys.key(told, together=False) if bank is not None else ""))
            ids = store.commitment(one.rows.ids) if bank is not None else None
            yield Sent(one.number, one.seed, one.model, told, ids)

    found: dict[int, Trained] = {}
    stage = f"{alone.stage}, on workers"
    try:
        for place, back in fleet.run(train_there, _shared(alone), items()):
            number, key = sent[place]
            found[number] = _kept(bank, key) if back.trained is None else back.trained
            engine.cost.count(trained=back.cost.trained_rows, forward=back.cost.forward_rows)
            engine.cost.seconds += back.cost.seconds
            for note in back.notes:
                engine.hooks.on_note(note)
            engine.hooks.on_step()
    finally:
        if sent:
            engine.hooks.on_stage_end(stage)
    return found


def _shared(alone: Alone) -> Shared:
    own = alone.engine
    return Shared(
        alone.plan,
        Engine(own.task, own.seed, own.besides, machine=own.machine),
        None if alone.checkpoints is None else alone.checkpoints.seconds,
        alone.stage,
        alone.rows,
        None if alone.bank is None else alone.bank.address,
        None if alone.bank is None else alone.bank.data,
        alone.kind,
        keys.surroundings(),
    )


def _kept(bank: Bank | None, key: str) -> Trained:
    assert bank is not None
    found = bank.find(key)
    if found is None:
        raise errors.DiskError(
            f"expected the network that a worker kept in {bank.address}, found none there on this machine; have the bank in a "
            "directory that all machines share under one path, or at a URL"
        )
    return found


def train_there(shared: Shared, sent: Sent) -> Back:
    """On a worker: train a network and keep it in the bank, unless it is there by now.

    Raises:
        errors.ClusterError: the network would depend on something else than where it was asked for.
    """
    heard = Notes()
    engine = replace(shared.engine, hooks=heard)
    bank = None if shared.address is None else Bank(shared.address, data=shared.data)
    often = None if shared.seconds is None else Checkpoints(None, shared.seconds)
    alone = Alone(shared.plan, engine, often, shared.stage, shared.rows, bank, shared.kind)
    require_equal(shared.surroundings, keys.surroundings())
    one = Wanted(sent.number, sent.seed, sent.model, shared.rows[sent.number], "")
    if bank is None:
        return Back(alone.train((one, sent.told)), engine.cost, heard.notes)
    assert isinstance(shared.plan, TrainPlan)
    # of all sets, since what a transform draws depends on which rows are read before
    printed = keys.fingerprints(shared.rows)[sent.number]
    require_equal(sent.told, keys.facts(one.model, one.rows, printed, shared.plan, one.seed, engine, kind=shared.kind))
    key = keys.key(sent.told, together=False)
    if bank.find(key) is None:  # else kept by one that died, or by another call
        alone.train((one, sent.told), sent.ids)
    bank.release(key)
    return Back(None, engine.cost, heard.notes)


def require_equal(there: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Refuse a worker on which a network would be another."""
    other = [name for name in there if here.get(name) != there[name]]
    if other:
        shown = ", ".join(
            f"{name} {here.get(name)} here, {there[name]} there" if len(there[name]) < _SHOWN else name
            for name in other
        )
        raise errors.ClusterError(
            f"a worker would train another network than was asked for, since it differs in: {shown}; have machines of one "
            "kind, with one version of excise and torch, as many threads, and the same data"
        )


_SHOWN = 40
"""Characters of a fact that are shown; longer ones are digests and descriptions."""


class Notes(Hooks):
    """Keeps what people should know."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def on_note(self, text: str) -> None:
        """Keep the sentence."""
        self.notes.append(text)
