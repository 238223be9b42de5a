"""Kept activations change the cost of a run and nothing else: every run is made with and without them, to the bit."""

import tempfile
from dataclasses import replace

import pytest
import torch
from torch import nn

import excise
from excise.data import Rows
from excise.data.rows import ArraySource
from excise.masks import Mask
from excise.methods import Finetune
from excise.networks import tiny_resnet
from excise.train import Hooks, Kept, Pass, Task, TrainPlan, fit_, forward_pair
from excise.train.activations import Activations, _proven
from excise.train.checkpoints import Checkpoints
from excise.train.masked import enforced
from excise.train.order import readings_of
from excise.train.prefix import Prefix, cut
from tests.cases import CASES
from tests.probes import engine_for, same_bytes, snapshot
from tests.train.fitting import fit, on

ALWAYS = Kept(least_products=0)
PLAN = TrainPlan(epochs=3, lr=0.05, batch_size=4, weight_decay=1e-3)


class Ear(Hooks):
    def __init__(self):
        self.notes = []

    def on_note(self, text):
        self.notes.append(text)


def residual():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return tiny_resnet(4, width=4).double()


def images(num_rows):
    draws = torch.Generator().manual_seed(2)
    return torch.randn(num_rows, 1, 8, 8, generator=draws, dtype=torch.float64), torch.arange(num_rows) % 4


NETWORKS = {
    "mlp": (CASES["mlp"].make, ["4"], CASES["mlp"].data),
    "convolution": (CASES["separable"].make, ["2", "3", "7"], CASES["separable"].data),
    "depthwise": (CASES["separable"].make, ["3", "7"], CASES["separable"].data),
    "residual": (residual, ["layer3", "fc"], images),
}


def run(name, *, keep, plan=PLAN, num_rows=18, rows=None, mask=None, make=None, task=None, **options):
    """Train a network; give it, what the hooks were told, and what it cost."""
    own, modules, data = NETWORKS[name]
    model, ear = (make or own)(), Ear()
    engine = replace(engine_for(model, hooks=ear, task=task), keep=keep)
    source = Rows.all_of(data(num_rows)) if rows is None else rows
    fit(model, source, plan, mask=mask or Mask.of_modules(model, modules), engine=engine, **options)
    return model, ear.notes, engine.cost


def both(name, **options):
    """Train with and without; require equal bits; give what the hooks were told and the two costs."""
    one, notes, cost = run(name, keep=options.pop("keep", ALWAYS), **options)
    other, silence, plain = run(name, keep=None, **options)
    assert same_bytes(snapshot(one), snapshot(other))
    assert silence == []
    assert cost.trained_rows == plain.trained_rows
    return notes, cost.forward_rows - plain.forward_rows


# --- the same bits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("options", [{}, {"optimizer": "adamw", "drop_last": True}, {"shuffle": False}], ids=str)
def test_a_run_ends_with_the_same_bits(name, options):
    plan = TrainPlan(epochs=3, lr=0.05, batch_size=4, **options)
    notes, forward = both(name, plan=plan)
    assert len(notes) == 1
    if name != "depthwise":  # whose rows have other last digits in other places, on some machines
        assert notes[0].startswith("Test: kept ")
        sizes = [4] if "drop_last" in options else [4, 2]
        assert forward >= 20 + 4 + 2 * sum(sizes)  # 18 rows in whole batches of 4, and those that it was tried on


@pytest.mark.parametrize("num_rows", [1, 3, 5, 9])
def test_odd_last_batches_and_less_than_a_batch_have_the_same_bits(num_rows):
    for name in ("mlp", "residual"):
        notes, _ = both(name, num_rows=num_rows, plan=TrainPlan(epochs=7, lr=0.05, batch_size=4))
        assert f"of activations of {num_rows} retain rows" in notes[0]


def test_several_streams_with_batches_of_their_own_and_forward_passes_besides():
    def objective(step):
        step.observe("retain")
        return step.mean_loss("retain") - 0.1 * step.outputs("forget")[0].square().mean()

    inputs = NETWORKS["residual"][2](20)
    every = Rows.all_of(inputs)
    rows = {"retain": every.head(14), "forget": Rows(every.source, torch.tensor([15, 17, 19]))}
    notes, _ = both("residual", rows=rows, objective=objective, batch_sizes={"forget": 2})
    assert [note.split(" of activations of ")[1] for note in notes] == ["14 retain rows", "3 forget rows"]


def test_a_teacher_sees_the_inputs_themselves():
    teacher = CASES["mlp"].make().eval()
    seen = []

    def objective(step):
        wanted = step.outputs_of(teacher, "retain")
        seen.append(torch.equal(wanted, teacher(step.batches["retain"].content[0])))
        return (step.outputs("retain")[0] - wanted).square().mean()

    both("mlp", objective=objective)
    assert all(seen)


def test_dropout_behind_the_cut_draws_what_it_would_have_drawn():
    def make():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 6), nn.Linear(6, 4)).double()

    notes, _ = both("mlp", make=make)
    assert "kept" in notes[0]


def test_a_run_that_was_killed_goes_on_to_the_same_bits_and_the_same_cost(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    class Killed(BaseException):
        pass

    class Killing(Ear):
        def on_epoch(self, trace):
            if trace.epoch == 1:
                raise Killed

    def go(hooks):
        model = CASES["mlp"].make()
        kept = Checkpoints(tmp_path / "kept", 0)
        engine = replace(engine_for(model, hooks=hooks), keep=ALWAYS, checkpoints=kept)
        kept.begin("this")
        fit(model, Rows.all_of(CASES["mlp"].data(18)), PLAN, mask=Mask.of_modules(model, ["4"]), engine=engine)
        return model, engine.cost

    with pytest.raises(Killed):
        go(Killing())
    ear = Ear()
    model, cost = go(ear)
    straight, _, plain = run("mlp", keep=ALWAYS)
    assert "goes on" in ear.notes[0] and "kept" in ear.notes[1]  # and fills again
    assert same_bytes(snapshot(model), snapshot(straight))
    assert (cost.trained_rows, cost.forward_rows) == (plain.trained_rows, plain.forward_rows)


# --- what is kept, and where ------------------------------------------------------------------------------------------


class Counting(ArraySource):
    """Arrays that count how many rows are read."""

    num_read = 0

    def read(self, ids):
        object.__setattr__(self, "num_read", self.num_read + len(ids))
        return super().read(ids)


def test_inputs_are_read_to_fill_and_to_try_and_never_again():
    source = Counting(CASES["mlp"].data(18))
    _, _, cost = run("mlp", keep=ALWAYS, rows=Rows.all_of(source))
    few, read_once_and_run_twice = 3, 4 + 2  # of each size of batch the last try
    assert source.num_read == few + cost.forward_rows - read_once_and_run_twice


def test_beyond_the_memory_they_lie_on_disk_under_no_name_and_beyond_the_disk_they_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen = []

    def objective(step):
        seen.append((list(tmp_path.iterdir()), step.kept["retain"].on_disk if step.kept else None))
        return step.mean_loss("retain")

    taken = 18 * 8 * 8  # rows of 8 doubles
    for memory, disk, on_disk, told in (
        (taken, 0, False, "kept 0.00115 MB of activations of 18 retain rows"),
        (taken - 1, taken, True, "kept 0.00115 MB of activations of 18 retain rows on disk"),
        (
            taken - 1,
            taken - 1,
            None,
            "activations of retain rows are not kept: they take 0.00115 MB, and 0.00115 MB of",
        ),
    ):
        seen.clear()
        notes, _ = both("mlp", keep=Kept(memory, disk, least_products=0), objective=objective)
        assert notes[0].startswith(f"Test: {told}")
        assert seen[0] == ([], on_disk)


def test_bounds_hold_for_all_streams_together():
    every = Rows.all_of(CASES["mlp"].data(20))
    rows = {"retain": every.head(14), "forget": Rows(every.source, torch.tensor([15, 17, 19]))}

    def objective(step):
        return step.mean_loss("retain") - 0.1 * step.mean_loss("forget")

    bounds = Kept(memory_bytes=14 * 64 + 100, disk_bytes=0, least_products=0)
    notes, _ = both("mlp", rows=rows, objective=objective, keep=bounds)
    assert "14 retain rows" in notes[0] and "forget rows are not kept: they take" in notes[1]


# --- when it is not used ----------------------------------------------------------------------------------------------


class Centred(nn.Module):
    """A frozen layer whose value for a row depends on its batch, which no table can know."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, inputs):
        hidden = self.first(inputs)
        return self.last(hidden - hidden.mean(0))


def test_activations_that_depend_on_the_batch_are_found_out_and_not_used():
    notes, forward = both("mlp", make=lambda: Centred().double(), mask=Mask.of_modules(Centred(), ["last"]))
    assert forward == 20  # what was filled in vain
    assert notes == [
        "Test: activations of retain rows are not kept: computed in another batch, a row's differ in a bit here"
    ]


class Highest(Centred):
    """Another, in any order of the batch's rows the same to the bit."""

    def forward(self, inputs):
        hidden = self.first(inputs)
        return self.last(hidden - hidden.amax(0))


@pytest.mark.parametrize("num_rows", [9, 15])
def test_they_are_found_out_where_a_batch_holds_most_of_the_rows(num_rows):
    plan = TrainPlan(epochs=6, lr=0.05, batch_size=8)
    made = {"make": lambda: Highest().double(), "mask": Mask.of_modules(Highest(), ["last"])}
    notes, _ = both("mlp", num_rows=num_rows, plan=plan, **made)
    assert "are not kept: computed in another batch" in notes[0]


class Counted(Centred):
    """A frozen layer whose value for a row depends on how many there are in its batch, as the last digits of a product may."""

    def forward(self, inputs):
        return self.last(self.first(inputs) * inputs.shape[0])


def test_a_size_of_batch_with_other_bits_is_computed_whole():
    calls = []

    def objective(step):
        calls.append((len(step.batches["retain"]), step.kept["retain"].sizes if step.kept else None))
        return step.mean_loss("retain")

    notes, _ = both(
        "mlp", make=lambda: Counted().double(), mask=Mask.of_modules(Counted(), ["last"]), objective=objective
    )
    assert notes == [
        "Test: kept 0.00115 MB of activations of 18 retain rows; batches of 2 are computed whole, since their bits differ"
    ]
    assert (4, {4}) in calls and (2, {4}) in calls


def test_products_of_few_rows_have_other_last_digits_and_the_run_the_same_bits():
    def make():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(nn.Linear(6, 300), nn.ReLU(), nn.Linear(300, 100), nn.Linear(100, 4)).double()

    plan = TrainPlan(epochs=5, lr=0.1, batch_size=32)
    for num_rows in (33, 37):
        notes, _ = both("mlp", make=make, mask=Mask.of_modules(make(), ["3"]), num_rows=num_rows, plan=plan)
        assert len(notes) == 1


def test_a_single_wrong_bit_is_found():
    model, data = CASES["mlp"].make(), CASES["mlp"].data(16)
    rows = Rows.all_of(data)
    with enforced(model, Mask.of_modules(model, ["4"]), "follow-mask"):
        prefix = cut(model, data[0][:3])
        held = prefix.compute(data[0])[0].clone()
        kept = Activations(prefix, rows, (held,), ((0, 1),), torch.device("cpu"))
        assert _proven(model, kept, 16, 16, seed=0)
        held.view(torch.int64)[7, 3] ^= 1
        assert not _proven(model, kept, 16, 16, seed=0)
        held.view(torch.int64)[7, 3] ^= 1
        other = Prefix(prefix.compute, lambda kept: prefix.finish(kept) * (1 + 2**-52))
        assert not _proven(model, replace(kept, prefix=other), 16, 16, seed=0)


@pytest.mark.parametrize(
    "options",
    [
        {"plan": TrainPlan(epochs=1, lr=0.1, batch_size=4)},  # nothing is read again
        {"keep": Kept()},  # too little to be noticed
        {"rows": Rows.all_of([(x, int(y)) for x, y in zip(*CASES["mlp"].data(18), strict=True)])},  # may draw
        {"task": Task(forward=lambda model, content: forward_pair(model, content))},  # may do anything
        {"mask": Mask.full(CASES["mlp"].make())},
        {"mask": Mask.of_modules(CASES["mlp"].make(), ["0"])},
        {"mask": Mask.empty(CASES["mlp"].make())},
    ],
    ids=["one epoch", "tiny", "a dataset", "a forward of one's own", "no mask", "the first layer", "an empty mask"],
)
def test_nothing_is_kept_where_nothing_can_be_gained_and_nothing_is_said(options):
    assert both("mlp", **options) == ([], 0)


def test_a_network_that_cannot_be_cut_is_trained_as_ever_and_that_is_said():
    class Deciding(Centred):
        def forward(self, inputs):
            hidden = self.first(inputs)
            return self.last(hidden if hidden.sum() > 0 else -hidden)

    notes, forward = both("mlp", make=lambda: Deciding().double(), mask=Mask.of_modules(Centred(), ["last"]))
    assert forward == 0
    assert len(notes) == 1 and "computed in every step: its forward cannot be traced" in notes[0]


def test_the_front_door_keeps_by_default_and_can_be_told_not_to():
    model, ear = residual(), Ear()
    rows = images(40)
    plan = TrainPlan(epochs=4, lr=0.05, batch_size=16)
    found = [
        excise.unlearn(model, excise.Split(rows, forget=range(4)), Finetune(plan=plan), mask=mask, keep=keep, hooks=ear)
        for mask in [Mask.of_modules(model, ["fc"])]
        for keep in (ALWAYS, None)
    ]
    assert same_bytes(snapshot(found[0].model), snapshot(found[1].model))
    assert len(ear.notes) == 1 and ear.notes[0].endswith("of activations of 36 retain rows")
    assert found[0].cost.parts["unlearn"].forward_rows > found[1].cost.parts["unlearn"].forward_rows


def test_a_stream_that_no_pass_reads_twice_is_not_filled():
    model, ear = CASES["mlp"].make(), Ear()
    every = Rows.all_of(CASES["mlp"].data(20))
    rows = {"retain": every.head(12), "forget": Rows(every.source, torch.arange(12, 20)), "train": every}
    engine = replace(engine_for(model, hooks=ear), keep=ALWAYS)

    def passes(epoch):
        return (Pass(on("retain"), ("retain",)), *((Pass(on("forget"), ("forget",)),) if epoch == 0 else ()))

    fit_(model, passes, rows, PLAN, Mask.of_modules(model, ["4"]), engine, stage="Test")
    assert len(ear.notes) == 1 and "12 retain rows" in ear.notes[0]


def test_how_rows_will_be_read_is_counted_from_the_passes():
    every = Rows.all_of(CASES["mlp"].data(20))
    rows = {"retain": every.head(10), "forget": every.head(6)}
    plan = TrainPlan(epochs=2, lr=0.1, batch_size=4)
    parts = [[Pass(on("retain"), ("retain", "forget"))], [Pass(on("forget"), ("forget",))]]
    found = readings_of(rows, {"retain": 4, "forget": 2}, plan, parts, keep_single=True)
    assert (found["retain"].sizes, found["retain"].rounds) == ((4, 2), 1.0)
    assert (found["forget"].sizes, found["forget"].rounds) == ((2,), 2.0)  # 3 batches beside retain's 3, and 3 alone
