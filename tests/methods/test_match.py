"""The loop written out by hand, the list of rows by counting, and where the targets lead by algebra."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import excise
from excise import errors
from excise.data import Split
from excise.data.batches import Batch
from excise.masks import Mask
from excise.methods import Match, OracleMean, TargetProvider
from excise.train import Hooks, Kept, Step, TrainPlan
from excise.train.masked import STATISTICS
from tests.cases import CASES
from tests.probes import KINDS, LeftAlone, Watched, engine_for, moved, raw, same_bytes, snapshot, spelled_out, touched

every_case = pytest.mark.parametrize("name", CASES)
FORGET = [0, 3, 8, 11, 14]
PLAN = TrainPlan(epochs=2, lr=0.05, batch_size=4, weight_decay=0.01, schedule="exponential", final_lr_fraction=0.95**2)
ADAM = TrainPlan(epochs=3, lr=0.01, optimizer="adam", batch_size=4)


def other(name, seed=7):
    """The network of the case with other weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CASES[name].build().double()


def split_of(name, num_rows=20, **options):
    return Split(CASES[name].data(num_rows), forget=FORGET, **options)


def run(name, method, *, seed=0, data=None, mask=None, model=None, hooks=None, **options):
    model = model or CASES[name].make()
    split = Split(CASES[name].data(20) if data is None else data, forget=FORGET, **options)
    engine = engine_for(model, seed=seed, original=CASES[name].make(), hooks=hooks)
    method.unlearn_(model, split, mask or Mask.full(model), engine)
    return snapshot(model), engine


def naive(name, batches, oracle, *, loss="mse", anchor=0.0, hold=False):
    """Push the answers of each batch to the oracle's, row by row, by the definition of the loss."""
    (inputs, _), model = CASES[name].data(20), CASES[name].make().train()
    for module in model.modules():
        module.training = not (hold and isinstance(module, nn.BatchNorm2d))
    start = [value.detach().clone() for value in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    for epoch, of_epoch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = 0.05 * 0.95**epoch
        for rows in of_epoch:
            wanted = torch.stack([oracle(inputs[[row]])[0] for row in rows]).detach()
            found, total = model(inputs[rows]), 0.0
            for mine, its in zip(found, wanted, strict=True):
                squared = sum((one - two) ** 2 for one, two in zip(mine, its, strict=True)) / len(its)
                total = total + (squared if loss == "mse" else -(its.softmax(0) * mine.log_softmax(0)).sum())
            drift = sum(((value - old) ** 2).sum() for value, old in zip(model.parameters(), start, strict=True))
            optimizer.zero_grad()
            (total / len(rows) + anchor * drift).backward()
            optimizer.step()
    return snapshot(model)


@pytest.mark.parametrize(
    ("options", "twin"),
    [({"buffers": "adapt"}, {}), ({"loss": "ce", "anchor": 0.3}, {"loss": "ce", "anchor": 0.3, "hold": True})],
)
@every_case
def test_it_is_the_papers_loop_over_the_list(name, options, twin):
    watched, oracle = Watched(*CASES[name].data(20)), other(name).eval()
    method = Match(plan=PLAN, targets=OracleMean([oracle]), retain_multiplier=1.2, forget_multiplier=2.4, **options)
    ours, engine = run(name, method, data=watched)
    listed, seen = 2 * 5 + 2 + 6, len(set(watched.read))
    assert seen == 5 + 6
    looked, asked, read = watched.read[:5], watched.read[5 : 5 + seen], watched.read[5 + seen :]
    assert looked == FORGET and asked == sorted(set(watched.read))  # a look at the logits, then the targets
    epochs = [read[:listed], read[listed:]]
    for epoch in epochs:
        assert Counter(epoch) == {
            row: (3 if row in FORGET[:2] else 2) if row in FORGET else 1 for row in set(watched.read)
        }
    assert epochs[0] != epochs[1]
    batches = [[epoch[start : start + 4] for start in range(0, listed, 4)] for epoch in epochs]
    for key, value in naive(name, batches, oracle, **twin).items():
        torch.testing.assert_close(ours[key], value, rtol=1e-9, atol=1e-11)  # a row alone rounds otherwise
    assert (engine.cost.trained_rows, engine.cost.forward_rows) == (2 * listed, seen)


def listed(method, split, seed=0):
    return method.rows(split, engine_for(CASES["mlp"].make(), seed=seed))["matched"].ids


def test_the_list_of_the_paper():
    split = Split(CASES["mlp"].data(60), forget=range(10, 20))
    method = Match(plan=PLAN, targets=OracleMean([other("mlp")]), forget_multiplier=1.5, retain_multiplier=3)
    found = listed(method, split)
    counts = Counter(found.tolist())
    assert len(found) == 15 + 30
    assert {row: counts[row] for row in range(10, 20)} == {row: 2 if row < 15 else 1 for row in range(10, 20)}
    retained = set(counts) - set(range(10, 20))
    assert len(retained) == 30 and retained <= set(split.retain.ids.tolist())
    assert torch.equal(found, listed(method, split))
    assert set(listed(method, split, seed=1).tolist()) != set(counts)


@pytest.mark.parametrize(
    ("multiplier", "num_retain"), [(0, 0), (0.29, 29), (0.999, 99), (2.5, 250), (3, 300), (4, 300)]
)
def test_retain_rows_are_counted_down_to_whole_rows_and_no_more_than_there_are(multiplier, num_retain):
    split = Split(CASES["mlp"].data(400), forget=range(100))
    method = Match(plan=PLAN, targets=OracleMean([other("mlp")]), retain_multiplier=multiplier)
    found = listed(method, split)
    assert len(found) == len(found.unique()) == 100 + num_retain
    assert method.needs == ({"forget", "retain"} if multiplier else {"forget"})


class Hears(Hooks):
    """Keeps the notes."""

    def __init__(self):
        self.notes = []

    def on_note(self, text):
        self.notes.append(text)


@pytest.mark.parametrize(("multiplier", "notes"), [(3, []), (3.2, ["are 16 retain rows; all 15 that there are take"])])
def test_fewer_retain_rows_than_asked_for_all_take_part_and_it_is_said(multiplier, notes):
    ear = Hears()
    _, engine = run(
        "mlp", Match(plan=PLAN, targets=OracleMean([other("mlp")]), retain_multiplier=multiplier), hooks=ear
    )
    assert len(ear.notes) == len(notes) and all(one in ear.notes[0] for one in notes)
    assert engine.cost.trained_rows == 2 * 20


@pytest.mark.parametrize("loss", ["mse", "ce"])
@every_case
def test_where_the_oracle_is_the_network_itself_no_bit_moves_under_adam(name, loss):
    method = Match(plan=ADAM, targets=OracleMean([CASES[name].make()]), forget_multiplier=2, loss=loss, anchor=1.0)
    found, engine = run(name, method)
    assert same_bytes(found, snapshot(CASES[name].make()))
    most = 0.0 if loss == "mse" else 1e-14
    assert all(abs(trace.loss) <= most for trace in engine.trace)


def test_nor_in_single_precision_where_batches_of_other_sizes_round_otherwise():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wide = nn.Sequential(nn.Linear(1000, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 10))
        inputs = torch.randn(60, 1000)
        wide(inputs)
    split, before = Split((inputs, torch.arange(60) % 10), forget=range(15)), snapshot(wide)
    method = Match(plan=TrainPlan(epochs=2, lr=1e-2, optimizer="adam", batch_size=3), targets=OracleMean([wide]))
    done = excise.unlearn(wide, split, method, recompute=False)
    three, all_of_them = (wide.eval()(inputs[:size])[:3] for size in (3, 60))
    assert same_bytes(snapshot(done.model), before)
    assert not torch.equal(three, all_of_them)  # there was something to be careful about


@pytest.mark.parametrize("loss", ["mse", "ce"])
def test_one_linear_layer_on_data_of_full_rank_comes_to_the_oracles_outputs(loss):
    draws = torch.Generator().manual_seed(3)
    model, oracle = nn.Linear(6, 3).double(), nn.Linear(6, 3).double()
    with torch.no_grad():
        for value in (*model.parameters(), *oracle.parameters()):
            value.copy_(torch.randn(value.shape, generator=draws, dtype=torch.float64))
    inputs = torch.randn(24, 6, generator=draws, dtype=torch.float64)
    plan = TrainPlan(epochs=600, lr=0.5 if loss == "mse" else 2.0, batch_size=24, schedule="constant")
    method = Match(plan=plan, targets=OracleMean([oracle]), loss=loss)
    found = excise.unlearn(model, Split((inputs, torch.arange(24) % 3), forget=range(6)), method).model
    before, ours, its = (network(inputs).detach() for network in (model, found, oracle))
    assert float((before - its).abs().max()) > 1
    if loss == "ce":  # a softmax does not tell a constant
        ours, its = ours.log_softmax(1), its.log_softmax(1)
    else:
        torch.testing.assert_close(found.weight, oracle.weight, rtol=0, atol=1e-11)
    torch.testing.assert_close(ours, its, rtol=0, atol=1e-9 if loss == "mse" else 1e-3)


def step_on(rows, method, *, model=None):
    """Give the objective on a batch of the given rows and its gradients."""
    inputs, labels = CASES["batchnorm"].data(20)
    model = (model or CASES["batchnorm"].make()).eval()
    engine = engine_for(model, original=CASES["batchnorm"].make())
    (part,) = method.passes(model, Split((inputs, labels), forget=FORGET), engine)(0)
    batch = Batch(torch.tensor(rows), (inputs[rows], labels[rows]))
    loss = part.objective(Step(model, 0, 0, engine, {"matched": batch}))
    loss.backward()
    return float(loss.detach()), [value.grad for value in model.parameters()]


def test_a_row_twice_in_a_batch_counts_twice():
    method = Match(plan=PLAN, targets=OracleMean([other("batchnorm")]), retain_multiplier=0, forget_multiplier=2)
    (three, of_three), (eight, of_eight), (mixed, of_mixed) = (step_on(rows, method) for rows in ([3], [8], [3, 3, 8]))
    assert mixed == pytest.approx((2 * three + eight) / 3, rel=1e-12)
    for one, two, both in zip(of_three, of_eight, of_mixed, strict=True):
        torch.testing.assert_close(both, (2 * one + two) / 3, rtol=1e-9, atol=1e-12)


class Given(TargetProvider):
    """Targets that are simply given."""

    def __init__(self, table):
        self.table, self.asked = table, 0

    def targets(self, rows, split, engine):
        self.asked += 1
        return self.table(rows) if callable(self.table) else self.table


def test_targets_are_asked_for_once_and_for_each_row_once():
    asked = []

    def table(rows):
        asked.append(rows.ids.tolist())
        return torch.zeros(len(rows), 4)

    run("mlp", Match(plan=PLAN, targets=Given(table), retain_multiplier=2, forget_multiplier=3))
    (ids,) = asked
    assert ids == sorted(set(ids)) and len(ids) == 5 + 10 and set(FORGET) <= set(ids)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            torch.zeros(5, 3),
            r"targets: expected .* of shape \(5, 4\), found \(5, 3\) of torch.float32; give targets of",
        ),
        (torch.zeros(5, 4).long(), r"targets: expected floating-point .*found \(5, 4\) of torch.int64"),
        ([[0.0] * 4] * 5, r"targets: expected .* of shape \(5, 4\), found list;"),
        (torch.full((5, 4), torch.nan), "targets: expected finite numbers, found others for row 0 of 5"),
    ],
)
def test_targets_that_do_not_fit_are_refused(table, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}"):
        run("mlp", Match(plan=PLAN, targets=Given(table), retain_multiplier=0))


@pytest.mark.parametrize("multiplier", [0, 1])
def test_what_it_does_not_need_is_never_read(multiplier):
    retain = [row for row in range(20) if row not in FORGET]
    watched = Watched(*CASES["mlp"].data(24), forbidden=[*range(20, 24), *(() if multiplier else retain)])
    method = Match(plan=PLAN, targets=OracleMean([other("mlp")]), retain_multiplier=multiplier)
    run("mlp", method, data=watched, test=range(20, 24))
    assert len(set(watched.read)) == 5 + 5 * multiplier


@pytest.mark.parametrize("rule", [None, *STATISTICS])
def test_the_rule_for_buffers_is_the_one_given_and_by_default_none_moves(rule):
    method = Match(plan=PLAN, targets=OracleMean([other("batchnorm")]), **({} if rule is None else {"buffers": rule}))
    assert method.statistics == (rule or "hold")
    model = CASES["batchnorm"].make()
    before = snapshot(model)
    run("batchnorm", method, model=model, mask=Mask.of_modules(model, ["4", "8"]))
    changed = {key.partition(".")[0] for key, value in model.named_buffers() if not torch.equal(value, before[key])}
    assert changed == {"adapt": {"1", "4"}, "follow-mask": {"4"}, "hold": set()}[method.statistics]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["tied", "batchnorm"])
def test_the_mask_is_obeyed_bit_for_bit_and_the_users_own_left_alone(name, kind):
    model, oracle = touched(CASES[name].make()), touched(other(name))
    alone, tensors = [LeftAlone(model), LeftAlone(oracle)], spelled_out(model, kind)
    mask = Mask.from_tensors(tensors)
    method = Match(plan=PLAN, targets=OracleMean([oracle]), retain_multiplier=1, forget_multiplier=2, anchor=0.1)
    done, again, reseeded = (excise.unlearn(model, split_of(name), method, mask=mask, seed=seed) for seed in (0, 0, 1))
    before, after = snapshot(model), snapshot(done.model)
    assert all(torch.equal(raw(after[key][~chosen]), raw(before[key][~chosen])) for key, chosen in tensors.items())
    assert moved(before, after)
    assert same_bytes(after, snapshot(again.model)) and not same_bytes(after, snapshot(reseeded.model))
    for one in alone:
        one.check()


@pytest.mark.parametrize(("name", "last"), [("mlp", "4"), ("batchnorm", "8")])
def test_activations_that_are_kept_give_the_same_bits_where_rows_repeat(name, last):
    model, split, ear = CASES[name].make(), split_of(name, 40), Hears()
    method = Match(plan=ADAM, targets=OracleMean([other(name)]), forget_multiplier=2.5)
    kept, plain = (
        excise.unlearn(model, split, method, mask=Mask.of_modules(model, [last]), hooks=ear, keep=keep)
        for keep in (Kept(least_products=1), None)
    )
    assert any("of activations of 27 matched rows" in note for note in ear.notes)  # 12 forget rows and 15 others
    assert same_bytes(snapshot(kept.model), snapshot(plain.model))
    assert [one.loss for one in kept.trace] == [one.loss for one in plain.trace]


class Named(Dataset):
    """Rows with names for their parts."""

    def __init__(self, inputs, labels):
        self.rows = list(zip(inputs, labels, strict=True))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        return {"x": self.rows[row][0], "y": self.rows[row][1]}


def test_a_forward_of_ones_own_gives_the_same_network():
    model, method = CASES["mlp"].make(), Match(plan=ADAM, targets=OracleMean([other("mlp")]), forget_multiplier=1.5)
    own = excise.unlearn(
        model,
        Split(Named(*CASES["mlp"].data(20)), forget=FORGET),
        method,
        forward=lambda network, batch: (network(batch["x"]), batch["y"]),
    )
    assert same_bytes(snapshot(own.model), snapshot(excise.unlearn(model, split_of("mlp"), method).model))


def test_logits_of_more_axes_are_refused_before_any_work():
    model = nn.Sequential(nn.Linear(6, 8), nn.Unflatten(1, (2, 4))).double()
    inputs, labels = CASES["mlp"].data(20)
    split = Split((inputs, labels), forget=FORGET)
    method = Match(plan=PLAN, targets=Given(torch.zeros(20, 4)))
    with pytest.raises(errors.BadRequest, match=r"^Match: expected logits \[batch, classes\], found shape \(5, 2, 4\)"):
        method.require(model, split, Mask.full(model), engine_for(model))


def test_a_softmax_over_one_class_is_refused_where_one_is_taken():
    model, (inputs, _) = nn.Linear(6, 1).double(), CASES["mlp"].data(20)
    split, engine = Split((inputs, torch.zeros(20).long()), forget=FORGET), engine_for(model)
    Match(plan=PLAN, targets=OracleMean([model])).require(model, split, Mask.full(model), engine)
    with pytest.raises(errors.BadRequest, match=r"^Match: expected logits of two classes or more, found 1"):
        Match(plan=PLAN, targets=OracleMean([model]), loss="ce").require(model, split, Mask.full(model), engine)


def test_targets_beyond_the_networks_precision_are_refused():
    case, (inputs, labels) = CASES["mlp"], CASES["mlp"].data(20)
    far = Given(torch.full((5, 4), 1e300, dtype=torch.float64))
    with pytest.raises(errors.BadRequest, match=r"^targets: expected finite numbers, found others for row 0 of 5"):
        data = Split((inputs.float(), labels), forget=FORGET)
        excise.unlearn(case.make().float(), data, Match(plan=PLAN, targets=far, retain_multiplier=0))


def test_any_number_of_retain_rows_may_be_asked_for_and_not_any_of_copies():
    most, _ = run("mlp", Match(plan=PLAN, targets=OracleMean([other("mlp")]), retain_multiplier=1e308))
    every, _ = run("mlp", Match(plan=PLAN, targets=OracleMean([other("mlp")]), retain_multiplier=3))
    assert same_bytes(most, every)
    with pytest.raises(errors.BadRequest, match=r"^forget_multiplier: 1e\+308 of 5 forget rows is more than a list of"):
        excise.unlearn(
            CASES["mlp"].make(),
            split_of("mlp"),
            Match(plan=PLAN, targets=OracleMean([other("mlp")]), forget_multiplier=1e308),
        )


def test_a_list_without_forget_rows_is_refused_before_any_work():
    split, model = Split(CASES["mlp"].data(20), forget=[3]), CASES["mlp"].make()
    with pytest.raises(
        errors.BadRequest, match=r"^forget_multiplier: 0.5 of 1 forget rows is less than one row; raise"
    ):
        excise.unlearn(model, split, Match(plan=PLAN, targets=OracleMean([other("mlp")]), forget_multiplier=0.5))


def test_what_the_targets_refuse_is_refused_before_any_work():
    weights = other("three-classes").state_dict()
    with pytest.raises(errors.BadRequest, match=r"^models: weights 1 do not fit the network"):
        excise.unlearn(CASES["mlp"].make(), split_of("mlp"), Match(plan=PLAN, targets=OracleMean([weights])))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retain_multiplier": -1}, "retain_multiplier: expected a finite number of at least 0, found -1"),
        ({"forget_multiplier": 0}, "forget_multiplier: expected a finite number above 0, found 0"),
        ({"anchor": float("nan")}, "anchor: expected a finite number of at least 0, found nan"),
        ({"loss": "l1"}, "loss: expected mse or ce, found 'l1'"),
        ({"buffers": "train"}, "buffers: expected one of follow-mask, adapt, hold, found 'train'"),
        ({"targets": [1]}, r"targets: expected who gives them, such as OracleMean\(\[...\]\), found list"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        Match(**{"plan": PLAN, "targets": OracleMean([other("mlp")]), **options})
