"""In which order rows come."""

import pytest
import torch

from excise.data import Rows
from excise.train import TrainPlan
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
