"""A network through torch.compile: the same weights, another way to run."""

import dataclasses

import pytest
import torch
from torch import nn

from excise.data import Rows
from excise.train import Hooks, Machine, TrainPlan
from excise.train.compiling import Compiled, compiled
from excise.train.machine import Way
from tests.cases import CASES
from tests.probes import engine_for, same_bytes, snapshot
from tests.train.fitting import fit


class Told(Hooks):
    def __init__(self):
        self.notes = []

    def on_note(self, text):
        self.notes.append(text)


def sizes_compiled(counts):
    """A backend that runs what it is given as it is, and writes down for which sizes of batch it was asked."""

    def backend(graph, inputs):
        counts.append(
            next(value.shape[0] for value in inputs if value.ndim == 2 and not isinstance(value, nn.Parameter))
        )
        return graph.forward

    return backend


def test_batches_of_the_usual_size_are_compiled_once_and_others_run_as_they_are():
    model, counts = CASES["mlp"].make(), []
    made = Compiled(model, {8}, Told(), "Test", backend=sizes_compiled(counts))
    inputs, _ = CASES["mlp"].data(8)
    for size in (8, 8, 3, 2, 8):
        found = made.run(size, lambda network, size=size: network(inputs[:size]))
        assert torch.equal(found, model(inputs[:size]))
    assert counts == [8]
    assert list(dict(model.named_modules())) == list(dict(CASES["mlp"].make().named_modules()))
    with torch.no_grad():
        model[4].bias += 1.0  # the compiled form shares the weights
    assert torch.equal(made.run(8, lambda network: network(inputs)), model(inputs))


def test_what_does_not_compile_runs_as_it_is_with_one_note():
    def backend(graph, inputs):
        raise RuntimeError("no compiler\nhere")

    model, hooks = nn.Linear(2, 3), Told()
    made = Compiled(model, {4}, hooks, "Finetune", backend=backend)
    inputs = torch.randn(4, 2)
    for _ in range(2):
        assert torch.equal(made.run(4, lambda network: network(inputs)), model(inputs))
    (note,) = hooks.notes
    assert note.startswith("Finetune: runs without torch.compile, which failed (")
    assert note.endswith("RuntimeError: no compiler)")


def test_an_error_of_the_network_s_own_is_not_taken_for_the_compiler_s():
    made = Compiled(nn.Linear(2, 3), {4}, Told(), "Test", backend="eager")

    def work(network):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        made.run(4, work)


def test_nothing_is_compiled_unasked():
    assert compiled(nn.Linear(1, 1), Way(), {4}, Hooks(), "Test") is None


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # torch says it of itself
@pytest.mark.slow  # a compilation takes some ten seconds
def test_a_compiled_training_is_the_plain_one_within_rounding():
    rows, plan = Rows.all_of(CASES["mlp"].data(19)), TrainPlan(epochs=3, lr=0.1, batch_size=8)
    plain, ours, hooks = CASES["mlp"].make(), CASES["mlp"].make(), Told()
    fit(plain, rows, plan)
    engine = dataclasses.replace(engine_for(ours, hooks=hooks), machine=Machine(compiled="always"))
    fit(ours, rows, plan, engine=engine)
    assert hooks.notes == []
    for name, value in snapshot(plain).items():
        torch.testing.assert_close(snapshot(ours)[name], value, rtol=1e-10, atol=1e-12)
    assert list(snapshot(ours)) == list(snapshot(plain))
    again = CASES["mlp"].make()
    fit(again, rows, plan, engine=dataclasses.replace(engine_for(again), machine=Machine(compiled="never")))
    assert same_bytes(snapshot(again), snapshot(plain))
