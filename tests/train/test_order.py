"""In which order rows come."""

from dataclasses import replace

import pytest
import torch

from excise.data import Rows
from excise.masks import Mask
from excise.train import Checkpoints, Hooks, Pass, TrainPlan, fit_
from excise.train.order import readings_of
from tests.cases import CASES
from tests.probes import engine_for
from tests.train.fitting import fit


def orders(
    *, num_rows=10, size=4, seed=0, epochs=3, shuffle=True, drop_last=False, network="mlp", others=None, **sizes
):
    """Give, for each epoch, the list of batches that were read, as lists of ids, by stream."""
    model = CASES[network].make()
    read = []

    def objective(step):
        read.append((step.epoch, {name: batch.ids.tolist() for name, batch in step.batches.items()}))
        return step.mean_loss("retain")

    inputs, labels = CASES[network].data(40)
    streams = {"retain": Rows.all_of((inputs, labels)).head(num_rows)}
    for name, count in (others or {}).items():
        streams[name] = Rows(streams["retain"].source, torch.arange(20, 20 + count))
    plan = TrainPlan(epochs=epochs, lr=0.01, batch_size=size, shuffle=shuffle, drop_last=drop_last)
    fit(model, streams, plan, objective=objective, engine=engine_for(model, seed=seed), batch_sizes=sizes or None)
    return [[batches for number, batches in read if number == epoch] for epoch in range(epochs)]


def flat(epoch, stream="retain"):
    return [row for batches in epoch for row in batches[stream]]


def test_every_epoch_reads_every_row_once_in_an_order_of_its_own():
    epochs = orders()
    assert all(sorted(flat(epoch)) == list(range(10)) for epoch in epochs)
    assert len({tuple(flat(epoch)) for epoch in epochs}) == 3
    assert [len(batches["retain"]) for batches in epochs[0]] == [4, 4, 2]


def test_the_order_is_a_pure_function_of_seed_and_epoch():
    assert orders() == orders()
    assert orders(epochs=5)[:3] == orders(epochs=3)
    assert [flat(epoch) for epoch in orders(size=3)] == [flat(epoch) for epoch in orders(size=4)]
    assert all(flat(one) != flat(other) for one, other in zip(orders(seed=0), orders(seed=1), strict=True))


def test_a_streams_order_does_not_depend_on_its_company():
    alone, together = orders(), orders(others={"forget": 3})
    assert [flat(epoch) for epoch in alone] == [flat(epoch) for epoch in together]


def test_two_streams_of_one_length_are_shuffled_each_in_its_own_way():
    for epoch in orders(others={"forget": 10}):
        assert [row - 20 for row in flat(epoch, "forget")] != flat(epoch)


def test_without_shuffling_rows_come_in_order_of_id():
    assert all(flat(epoch) == list(range(10)) for epoch in orders(shuffle=False))


def test_a_cycled_stream_gives_whole_rounds_one_after_another_each_in_its_own_order():
    epochs = orders(num_rows=15, size=2, others={"forget": 5})
    for epoch in epochs:
        given = flat(epoch, "forget")
        sizes = [len(batches["forget"]) for batches in epoch]
        assert sizes == [2, 2, 1, 2, 2, 1, 2, 2]  # eight retain batches; rounds of five rows
        assert all(sorted(given[start : start + 5]) == list(range(20, 25)) for start in (0, 5))
    rounds = [tuple(flat(epoch, "forget")[start : start + 5]) for epoch in epochs for start in (0, 5)]
    assert len(set(rounds)) > 3
    assert len({flat(epoch, "forget")[0] for epoch in orders(num_rows=2, epochs=9, others={"forget": 5})}) > 1


def test_a_stream_may_have_its_own_batch_size():
    (epoch,) = orders(num_rows=12, size=4, epochs=1, others={"forget": 7}, forget=3)
    assert [(len(batches["retain"]), len(batches["forget"])) for batches in epoch] == [(4, 3), (4, 3), (4, 1)]


@pytest.mark.parametrize(
    ("num_rows", "options", "sizes"),
    [
        (9, {}, [4, 4, 1]),
        (9, {"network": "batchnorm"}, [4, 5]),  # batch statistics need two rows
        (10, {"network": "batchnorm"}, [4, 4, 2]),
        (8, {"network": "batchnorm"}, [4, 4]),
        (1, {"network": "batchnorm"}, [1]),
        (9, {"drop_last": True}, [4, 4]),
        (9, {"drop_last": True, "network": "batchnorm"}, [4, 4]),
        (3, {"drop_last": True}, [3]),
    ],
)
def test_the_last_batch(num_rows, options, sizes):
    for epoch in orders(num_rows=num_rows, epochs=2, **options):
        assert [len(batches["retain"]) for batches in epoch] == sizes


def repeated(
    repeats, *, forget=5, retain=11, size=4, forget_size=2, epochs=2, network="mlp", hooks=None, **engine_options
):
    """Give each step's ids by stream, of a pass paced by forget whose batches are repeated, and the engine."""
    model, read = CASES[network].make(), []
    every = Rows.all_of(CASES[network].data(40))
    rows = {"forget": every.head(forget), "retain": Rows(every.source, torch.arange(20, 20 + retain))}

    def objective(step):
        read.append((step.epoch, step.index, *(tuple(step.ids(name).tolist()) for name in ("forget", "retain"))))
        return step.mean_loss("retain") + step.mean_loss("forget")

    plan, engine = (
        TrainPlan(epochs=epochs, lr=0.01, batch_size=size),
        replace(engine_for(model, hooks=hooks), **engine_options),
    )
    part = Pass(objective, ("forget", "retain"), repeats)
    sizes = {"forget": forget_size}
    fit_(model, lambda _: (part,), rows, plan, Mask.full(model), engine, stage="Test", batch_sizes=sizes)
    return read, engine


@pytest.mark.parametrize("repeats", [1, 2, 3, 7])
def test_a_repeated_batch_stands_beside_new_ones_of_the_others_as_often_as_these_have_any(repeats):
    """Five forget rows are batches of 2, 2 and 1; eleven retain rows of 4, 4 and 3."""

    class Counts(Hooks):
        steps, announced = 0, 0

        def on_stage(self, name, num_steps):
            self.announced = num_steps

        def on_step(self):
            self.steps += 1

    hooks = Counts()
    read, engine = repeated(repeats, hooks=hooks)
    times = min(repeats, 3)
    assert len(read) == hooks.steps == hooks.announced == 2 * 3 * times
    assert [trace.num_steps for trace in engine.trace] == [3 * times] * 2
    for epoch in range(2):
        steps = [one for one in read if one[0] == epoch]
        assert [index for _, index, *_ in steps] == list(range(3 * times))
        runs = [steps[start : start + times] for start in range(0, 3 * times, times)]
        assert all(len({forget for *_, forget, _ in some}) == 1 for some in runs)
        assert sorted(row for some in runs for row in some[0][2]) == list(range(5))
        retain = [ids for *_, ids in steps]
        for start in range(0, len(retain), 3):  # rounds, one after another, across the repeated batches
            seen = [row for ids in retain[start : start + 3] for row in ids]
            assert len(set(seen)) == len(seen)
    assert engine.cost.trained_rows == sum(len(forget) + len(retain) for *_, forget, retain in read)


def test_repeats_without_another_stream_repeat_the_batch():
    part = Pass(lambda step: None, ("forget",), 4)
    assert part.times({"forget": 3}) == 4 and part.num_steps({"forget": 3}) == 12
    both = Pass(lambda step: None, ("forget", "retain", "other"), 9)
    assert both.num_steps({"forget": 3, "retain": 5, "other": 2}) == 6


def test_killed_inside_the_repeats_of_a_batch_it_goes_on_with_the_next_one(tmp_path):
    whole, _ = repeated(3)

    class Ends(Hooks):
        def __init__(self, last):
            self.left = last

        def on_step(self):
            self.left -= 1
            if self.left < 0:
                raise InterruptedError

    for last in (1, 4, 11):
        with pytest.raises(InterruptedError):
            kept_by(tmp_path / str(last), Ends(last))
        rest, _ = kept_by(tmp_path / str(last), None)
        assert rest == whole[last:]


def kept_by(directory, hooks):
    """Run three repeats from the checkpoints of a directory."""
    return repeated(3, hooks=hooks, checkpoints=Checkpoints(directory, 0))


def test_how_often_rows_are_read_counts_the_repeats():
    every = Rows.all_of(CASES["mlp"].data(40))
    rows = {"forget": every.head(6), "retain": every.head(40)}
    plan = TrainPlan(epochs=1, lr=0.1, batch_size=2)
    parts = [[Pass(lambda step: None, ("forget", "retain"), 5)]]
    found = readings_of(rows, {"forget": 2, "retain": 4}, plan, parts, keep_single=True)
    assert (found["forget"].rounds, found["retain"].rounds) == (5.0, 1.5)
