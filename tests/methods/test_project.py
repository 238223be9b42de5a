"""Project: its formulas in closed form, its rank rules on a known spectrum, and what it leaves as it was."""

import copy
from pathlib import Path

import msgspec
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import excise
from excise import errors, methods
from excise.curvature import Moments, second_moments
from excise.data.rows import Rows
from excise.masks import Mask
from excise.methods import Project
from excise.methods.project import CRITERIA, low_confidence, negative_entropy, num_directions
from excise.train import Hooks, TrainPlan
from tests.cases import CASES
from tests.probes import engine_for, moved, raw, same_bytes, snapshot
from tests.train import resuming

FORGET = [1, 4, 6, 11]
PLAN = TrainPlan(epochs=2, lr=0.05, batch_size=3, momentum=0.0, schedule="constant", shuffle=False)
SPECTRUM = torch.tensor([16.0, 9.0, 4.0, 1.0], dtype=torch.float64)


def split_of(name, num_rows=24):
    return excise.Split(CASES[name].data(num_rows), forget=FORGET)


def notes_of(model, split, method, **options):
    class Ear(Hooks):
        def on_note(self, text):
            notes.append(text)

    notes: list[str] = []
    return excise.unlearn(model, split, method, hooks=Ear(), **options), notes


# --- formulas -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gamma", "criterion", "expected"),
    [
        (0.95, "published", 3),
        (0.95, "published-plus-one", 4),
        (0.95, "published-below", 3),
        (0.95, "energy", 3),
        (0.5, "published", 1),
        (0.5, "published-plus-one", 2),
        (0.5, "published-below", 1),
        (0.5, "energy", 1),
        (0.6, "energy", 2),
        (0.3, "published", 0),
        (0.99, "energy", 4),
        (1.0, "energy", 4),
        *[(0.0, criterion, 0) for criterion in CRITERIA],
        *[(1.0, criterion, 4) for criterion in CRITERIA[1:]],
    ],
)
def test_ranks_of_a_known_spectrum(gamma, criterion, expected):
    """Singular values 4, 3, 2, 1: cumulated shares .4, .7, .9, 1, and of their squares .533, .833, .967, 1."""
    assert num_directions(SPECTRUM, gamma, criterion) == expected


def test_all_of_the_energy_is_the_numerical_rank_and_none_takes_nothing():
    low = torch.tensor([5.0, 1e-3, 1e-16, 0.0], dtype=torch.float64)
    assert num_directions(low, 1.0, "energy") == 2
    assert [num_directions(torch.zeros(3).double(), gamma, "energy") for gamma in (0.5, 1.0)] == [0, 0]


def test_the_first_term_in_closed_form():
    offset = 0.05
    sure = torch.tensor([[60.0, 0.0, 0.0], [0.0, 60.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    found = low_confidence(sure, torch.zeros(3, dtype=torch.int64), offset)
    wanted = torch.tensor([offset, 1 + offset, 1 - 1 / 3 + offset], dtype=torch.float64).log().neg()
    assert torch.allclose(found, wanted, rtol=0, atol=1e-14)


def test_the_second_term_in_closed_form():
    found = negative_entropy(torch.tensor([[0.0] * 5, [800.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64))
    assert torch.allclose(found, -torch.tensor([5.0, 1.0], dtype=torch.float64).log(), rtol=0, atol=1e-14)


def test_one_step_is_the_formula_of_the_paper():
    """W - lr (g - g P) with g = dL/dW + decay W, by hand from autograd, P of the retained rows' inputs alone."""
    model, split = CASES["mlp"].make().eval(), split_of("mlp")
    plan = msgspec.structs.replace(PLAN, epochs=1, batch_size=9, weight_decay=0.1)
    found = excise.unlearn(model, split, Project(plan=plan, w1=0.7, w2=0.3, offset=0.2, gamma=0.9)).model
    twin = copy.deepcopy(model)
    inputs, labels = split.forget.source.read(split.forget.ids)
    p = twin(inputs).softmax(1)
    first = -(1 - p[torch.arange(4), labels] + 0.2).log().mean()
    (0.7 * first + 0.3 * (p * p.log()).sum(1).mean()).backward()
    given = split.retain.source.read(split.retain.ids)[0]
    for place in (0, 2, 4):
        rows = model[:place](given).detach()
        values, vectors = torch.linalg.eigh(rows.T @ rows)
        shares = values.flip(0).cumsum(0) / values.sum()
        rank = int((shares < 0.9).sum()) + 1
        projector = vectors[:, -rank:] @ vectors[:, -rank:].T
        assert 0 < rank < len(values)
        weight = twin[place].weight.detach()
        gradient = twin[place].weight.grad + 0.1 * weight
        assert torch.allclose(
            found[place].weight, weight - 0.05 * (gradient - gradient @ projector), rtol=0, atol=1e-13
        )
        assert torch.equal(found[place].bias, model[place].bias)


# --- what retained rows feel --------------------------------------------------------------------------------------------


def flat_problem():
    """Give one linear layer, and rows of which the retained span 4 of 7 directions."""
    draws = torch.Generator().manual_seed(7)
    inputs = torch.randn(20, 7, generator=draws, dtype=torch.float64)
    inputs[5:] = inputs[5:, :4] @ torch.randn(4, 7, generator=draws, dtype=torch.float64)
    model = nn.Linear(7, 3).double()
    for value in model.parameters():
        value.data = torch.randn(value.shape, generator=draws, dtype=torch.float64)
    return model, excise.Split((inputs, torch.arange(20) % 3), forget=range(5))


OPTIMIZERS = {
    "sgd": {"momentum": 0.0},
    "momentum, decay, clipping": {"momentum": 0.9, "weight_decay": 0.1, "clip_norm": 0.5},
    "adam, decay, clipping": {"optimizer": "adam", "weight_decay": 0.1, "clip_norm": 0.5},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1},
}


@pytest.mark.parametrize("given", [False, True], ids=["by retain rows", "by moments"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_one_layer_at_full_rank_keeps_every_retained_logit(optimizer, given):
    model, split = flat_problem()
    plan = TrainPlan(epochs=50, lr=0.05, batch_size=3, **OPTIMIZERS[optimizer])
    moments = second_moments(model, split.train) if given else None
    found = excise.unlearn(model, split, Project(plan=plan, gamma=1.0 - given * 1e-9, moments=moments)).model
    kept, forgotten = (rows.source.read(rows.ids) for rows in (split.retain, split.forget))
    assert float((found(kept[0]) - model(kept[0])).detach().abs().max()) < 1e-10
    taken = torch.linalg.svd(kept[0].T).U[:, :4]
    assert float(((found.weight - model.weight).detach() @ taken).norm()) < 1e-10
    before, after = (low_confidence(net(forgotten[0]), forgotten[1], 0.05).mean() for net in (model, found))
    assert after < before - 0.1


def test_moments_of_all_training_rows_come_to_what_the_retain_rows_do():
    model, split = CASES["separable"].make(), split_of("separable")
    full = second_moments(model, split.train)
    one, other = (excise.unlearn(model, split, Project(plan=PLAN, moments=some, gamma=0.8)) for some in (None, full))
    assert moved(snapshot(model), snapshot(one.model)) == moved(snapshot(model), snapshot(other.model)) != set()
    for key, value in snapshot(one.model).items():
        assert torch.allclose(value, snapshot(other.model)[key], rtol=0, atol=1e-10)
    assert (one.cost.forward_rows, other.cost.forward_rows) == (20, 4)


class Files(Dataset):
    """One file a row, and what was read."""

    def __init__(self, folder, inputs, labels, listed=False):
        self.folder, self.read = Path(folder), set()
        self.number = len(inputs)
        if listed:
            self.targets = labels.tolist()
        for row in range(self.number):
            torch.save((inputs[row], int(labels[row])), self.folder / f"{row}.pt")

    def __len__(self):
        return self.number

    def __getitem__(self, row):
        self.read.add(row)
        return torch.load(self.folder / f"{row}.pt")


@pytest.mark.parametrize("listed", [False, True], ids=["labels in files", "labels listed"])
def test_a_request_whose_retained_rows_are_deleted(tmp_path, listed):
    """Sums are taken while all rows are there; at the request, only the files of the rows to forget are left."""
    model = CASES["batchnorm"].make()
    data = Files(tmp_path, *CASES["batchnorm"].data(24), listed)
    path = tmp_path / "moments.safetensors"
    second_moments(model, data).save(path)
    whole = excise.unlearn(model, excise.Split(data, forget=FORGET), Project(plan=PLAN, moments=path, gamma=0.6))
    for row in set(range(24)) - set(FORGET):
        (tmp_path / f"{row}.pt").unlink()
    data.read.clear()
    method = Project(plan=PLAN, moments=path, gamma=0.6)
    assert method.needs == {"forget"}
    found = excise.unlearn(model, excise.Split(data, forget=FORGET), method)
    assert data.read == set(FORGET)
    assert same_bytes(snapshot(found.model), snapshot(whole.model))
    assert moved(snapshot(model), snapshot(found.model)) == {"0.weight", "3.weight", "8.weight"}
    assert not found.recomputed


def test_a_request_of_somebody_who_holds_the_forget_rows_alone():
    """The same weights to the bit as of the split of all rows; without moments the retained rows are asked for."""
    model, (inputs, labels) = CASES["mlp"].make(), CASES["mlp"].data(24)
    full = second_moments(model, (inputs, labels))
    alone = excise.Split.of_forget((inputs[FORGET], labels[FORGET]))
    for method in (Project(plan=PLAN, moments=full), excise.recipes.PGU(moments=full, epochs=2, batch_size=3, lr=0.02)):
        one = excise.unlearn(model, alone, method)
        other = excise.unlearn(model, excise.Split((inputs, labels), forget=FORGET), method)
        assert same_bytes(snapshot(one.model), snapshot(other.model)) and one.patch.num_changed
    with pytest.raises(errors.BadSplit, match="retain"):
        excise.unlearn(model, alone, Project(plan=PLAN))
    with pytest.raises(errors.BadSplit, match="retain"):
        excise.unlearn(model, alone, excise.recipes.PGU(moments=full, epochs=2, stop="class"))


def test_the_page_of_published_systems_does_what_it_says(tmp_path, monkeypatch):
    """Its lines run as they stand, and the sums that they carry forward are of the network that they end with."""
    page = (Path(__file__).parents[2] / "docs" / "published.md").read_text(encoding="utf-8")
    (block,) = [part.split("```")[0] for part in page.split("## PGU")[1].split("\n## ")[0].split("```python\n")[1:]]
    monkeypatch.chdir(tmp_path)
    inputs, labels = CASES["mlp"].data(30)
    model = CASES["mlp"].make()
    with torch.no_grad():
        labels[20:] = (model(inputs[20:]).argmax(1) + 1) % 4  # unseen rows, all of them wrong
    names = {
        "excise": excise,
        "model": model,
        "train_set": (inputs[:20], labels[:20]),
        "rows_to_forget": (inputs[3:6], labels[3:6]),
        "holdout_set": (inputs[20:], labels[20:]),
    }
    exec(compile(block, "docs/published.md", "exec"), names)
    back = Moments.load("moments-after.safetensors")
    back.require_fit(names["done"].model)
    assert (names["moments"].num_rows, back.num_rows) == (20, 17)


def test_rules_stop_a_projected_run_and_leave_what_it_left():
    """A crossing is found by Until, and the epoch that is given is that of the method alone."""
    model, (inputs, labels) = CASES["mlp"].make(), CASES["mlp"].data(40)
    opt = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(25):  # nearly by heart
        opt.zero_grad()
        nn.functional.cross_entropy(model(inputs[:24]), labels[:24]).backward()
        opt.step()
    opt.zero_grad()
    held = (inputs[24:], labels[24:].roll(1))  # labels of other rows: the network is wrong on most of them
    split = excise.Split((inputs[:24], labels[:24]), forget=FORGET, holdout=held)
    recipe = excise.recipes.PGU(epochs=30, lr=1.0, gamma=0.2, stop="samples", batch_size=4)
    found, notes = notes_of(model, split, recipe)
    assert notes[-1].startswith("CrossesHoldout: ") and len(found.trace) < 30
    epoch = int(notes[-1].split("epoch ")[1].split(" ")[0])
    plan = recipe.method.method.plan

    class Stops(methods.StopRule):
        needs = frozenset()

        def require(self, *_):
            return None

        def watch(self, *_):
            return _Ends(epoch)

    short = excise.unlearn(model, split, methods.Until(Project(plan=plan, gamma=0.2), Stops()))
    assert same_bytes(snapshot(found.model), snapshot(short.model))


class _Ends(methods.Watch):
    def __init__(self, epochs):
        self.epochs = epochs

    def __call__(self, epoch):
        return epoch + 1 == self.epochs

    def remembered(self):
        return {}

    def recall_(self, tensors):
        return None

    def end_(self):
        return None


def test_two_requests_one_after_the_other_carry_the_sums_forward():
    model, data = CASES["mlp"].make(), CASES["mlp"].data(24)
    first, second = excise.Split(data, forget=[1, 4]), excise.Split(data, forget=[6, 11])
    full = second_moments(model, first.train)
    one = excise.unlearn(model, first, Project(plan=PLAN, moments=full)).model
    carried = full.minus(second_moments(model, first.forget)).carried_to(one)
    assert carried.num_rows == 22
    with pytest.raises(errors.BadRequest, match="found those of another"):
        excise.unlearn(one, second, Project(plan=PLAN, moments=full))
    other = excise.unlearn(one, second, Project(plan=PLAN, moments=carried))
    assert moved(snapshot(one), snapshot(other.model)) == {"0.weight", "2.weight", "4.weight"}
    # the first layer's inputs are the data, which no step changes: there nothing is stale
    joint = second_moments(one, excise.Split(data, forget=FORGET).retain)
    left = carried.minus(second_moments(one, second.forget).carried_to(one))
    assert torch.allclose(left.matrices["0.weight"], joint.matrices["0.weight"], rtol=0, atol=1e-11)
    assert not torch.allclose(left.matrices["4.weight"], joint.matrices["4.weight"], rtol=0, atol=1e-6)


# --- what moves ---------------------------------------------------------------------------------------------------------


def test_a_composition_for_another_network_has_that_networks_moments():
    one, other = CASES["mlp"].make(), CASES["mlp"].make()
    with torch.no_grad():
        other[0].weight.mul_(2)
    split = split_of("mlp")
    method = Project(plan=TrainPlan(epochs=1, lr=0.1), moments=second_moments(one, split.train))
    rule = methods.BelowAccuracy(0.5)
    whole = methods.Sequence((methods.Partition(methods=(methods.Until(method, rule),)),))
    found = whole.for_network(other, split, engine_for(other)).methods[0].methods[0]
    assert found.rule == rule
    assert found.method.moments.digest == second_moments(other, split.train).digest != method.moments.digest
    assert whole.methods[0].methods[0].method is method
    without = methods.Finetune(plan=method.plan)
    assert without.for_network(other, split, engine_for(other)) is without


def test_only_weights_of_layers_move_and_no_buffer():
    for name, expected in {
        "batchnorm": {"0.weight", "3.weight", "8.weight"},
        "separable": {"0.weight", "2.weight", "3.weight", "7.weight"},
        "tied": {"middle.weight"},
        "transformer": {"head.weight", *(f"layers.{i}.linear{j}.weight" for i in (0, 1) for j in (1, 2))},
    }.items():
        model, split = CASES[name].make(), split_of(name)
        plan = msgspec.structs.replace(PLAN, weight_decay=0.1, momentum=0.9)
        found = excise.unlearn(model, split, Project(plan=plan, gamma=0.6), recompute=False)
        assert moved(snapshot(model), snapshot(found.model)) == expected


def test_dropout_is_active_and_the_rate_falls_by_one_factor():
    model, split = resuming.start(), resuming.split(augmented=False)
    plan = TrainPlan(epochs=3, lr=0.05, schedule="exponential", final_lr_fraction=0.2, momentum=0.0, batch_size=9)
    found = excise.unlearn(model, split, Project(plan=plan), recompute=False)
    assert [one.lr for one in found.trace] == [pytest.approx(0.05 * 0.2 ** (epoch / 3)) for epoch in range(3)]
    again = excise.unlearn(model, split, Project(plan=plan), recompute=False, seed=1)
    assert found.trace[0].loss != again.trace[0].loss  # one batch a step, in one order: only dropout draws
    assert moved(snapshot(model), snapshot(found.model)) == {"body.0.weight", "head.weight"}


def test_nothing_taken_is_the_plain_training_and_everything_taken_is_none():
    model, split = CASES["mlp"].make(), split_of("mlp")

    class Plain(methods.Iterative):
        plan, streams = PLAN, ("forget",)

        def objective(self, step):
            return Project(plan=PLAN).objective(step)

    weights = Mask.where(model, lambda name: name.endswith("weight"))
    plain = excise.unlearn(model, split, Plain(), mask=weights)
    for criterion in CRITERIA:
        found = excise.unlearn(model, split, Project(plan=PLAN, gamma=0.0, criterion=criterion))
        assert same_bytes(snapshot(found.model), snapshot(plain.model))
    decayed = msgspec.structs.replace(PLAN, weight_decay=0.1)
    still, notes = notes_of(model, split, Project(plan=decayed, gamma=1.0, criterion="published"))
    assert same_bytes(snapshot(still.model), snapshot(model))
    assert "Project: the retained rows take 24 of 24 directions in 3 layers; none is left" in notes[-1]


def test_layers_can_be_frozen_and_have_shares_of_their_own():
    model, split = CASES["mlp"].make(), split_of("mlp")
    method = Project(plan=PLAN, gammas={"2": 0.0, "4.weight": 0.999}, frozen=("0",))
    found, notes = notes_of(model, split, method)
    assert moved(snapshot(model), snapshot(found.model)) == {"2.weight", "4.weight"}
    moments = second_moments(model, split.retain)
    last = num_directions(moments.spectrum("4.weight")[0][0], 0.999, "energy")
    assert notes[-1] == f"Project: the retained rows take {last} of 18 directions in 2 layers"


def test_a_layer_that_no_retained_row_runs_through_stays():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(6, 4), nn.Linear(6, 4)

        def forward(self, inputs):
            return (
                torch.where(inputs[:, :1] > 10, self.other(inputs), self.one(inputs))
                if inputs.max() > 10
                else self.one(inputs)
            )

    inputs, labels = CASES["mlp"].data(12)
    inputs[:2, 0] = 11.0
    model = Branches().double()
    found = excise.unlearn(model, excise.Split((inputs, labels), forget=[0, 1, 2]), Project(plan=PLAN, gamma=0.5))
    assert moved(snapshot(model), snapshot(found.model)) == {"one.weight"}


@pytest.mark.parametrize("kind", ["rows", "weights"])
def test_under_a_mask_what_moves_stays_in_it_and_off_the_retained_inputs(kind):
    model, split = CASES["mlp"].make(), split_of("mlp")
    shape = model[2].weight.shape
    chosen = (
        torch.rand(shape[0], 1) < 0.5
        if kind == "rows"
        else torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.7
    )
    chosen = chosen.clone().expand(shape)
    chosen = torch.cat([torch.ones_like(chosen[:1]), chosen[1:]])
    mask = Mask.from_tensors({key: chosen if key == "2.weight" else torch.zeros_like(value, dtype=torch.bool)
                              for key, value in model.named_parameters()})  # fmt: skip
    plan = msgspec.structs.replace(PLAN, momentum=0.9, weight_decay=0.1)
    found = excise.unlearn(model, split, Project(plan=plan, gamma=0.5), mask=mask).model
    delta = (found[2].weight - model[2].weight).detach()
    rank = num_directions(second_moments(model, split.retain).spectrum("2.weight")[0][0], 0.5, "energy")
    taken = second_moments(model, split.retain).spectrum("2.weight")[1][0][:, :rank]
    assert float((delta @ taken).norm()) < 1e-12 < float(delta.norm())
    assert torch.equal(raw(found[2].weight[~chosen]), raw(model[2].weight[~chosen]))


@pytest.mark.parametrize("plan", resuming.PLANS)
def test_a_run_killed_after_every_step_ends_with_the_same_bits(plan, tmp_path):
    method = Project(plan=TrainPlan(epochs=2, batch_size=2, **resuming.PLANS[plan]), gamma=0.8)
    assert resuming.resume_at_every_step(resuming.unlearning(method, resuming.split(augmented=False)), tmp_path) >= 8


def test_a_run_of_other_directions_is_not_gone_on_with(tmp_path):
    """The same path, another file: what was kept belongs to other steps."""
    model, split, path = resuming.start(), resuming.split(augmented=False), tmp_path / "moments.safetensors"
    full = second_moments(model, split.train)
    full.save(path)
    method = Project(plan=TrainPlan(epochs=2, batch_size=2, lr=0.01), moments=path)
    killing = resuming.Killing(5)  # three batches for the sums, then steps
    with pytest.raises(resuming.Killed):
        excise.unlearn(model, split, method, checkpoints=tmp_path / "c", checkpoint_seconds=0, hooks=killing)
    Moments(
        {name: one.flip(1, 2) for name, one in full.matrices.items()},
        full.num_rows,
        full.network,
        full.reading,
    ).save(path)
    method = Project(plan=method.plan, moments=path)
    ear = resuming.Killing()
    excise.unlearn(model, split, method, checkpoints=tmp_path / "c", checkpoint_seconds=0, hooks=ear)
    assert any("was made for another request" in note for note in ear.notes)


# --- what is refused, and told ------------------------------------------------------------------------------------------


def test_rows_that_were_never_in_are_told_of():
    model, split = CASES["mlp"].make(), split_of("mlp")
    others = second_moments(model, Rows(split.train.source, torch.arange(12, 17)))
    _, notes = notes_of(model, split, Project(plan=PLAN, moments=others))
    assert any("without the forget rows, moments of '0.weight' are negative by" in note for note in notes)
    full = second_moments(model, split.train)
    _, notes = notes_of(model, split, Project(plan=PLAN, moments=full))
    assert len(notes) == 2 and not any("negative" in note for note in notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 1.5}, "gamma: expected a fraction"),
        ({"gammas": {"0": -1.0}}, r"gammas\['0'\]: expected a fraction"),
        (
            {"criterion": "rank"},
            "criterion: expected one of energy, published, published-plus-one, published-below, found",
        ),
        ({"w1": -1.0}, "w1: expected a finite number"),
        ({"w2": float("nan")}, "w2: expected a finite number"),
        ({"offset": 0.0}, "offset: expected a number above 0"),
        ({"forget_batch_size": 0}, "forget_batch_size: expected an integer"),
        ({"moments": 3}, "moments: expected Moments, such as .*; found int"),
        ({"moments": "none.safetensors"}, "expected moments at none.safetensors, found no such file"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(errors.BadRequest, match=message):
        Project(plan=PLAN, **options)


def test_what_cannot_be_done_is_refused_before_any_step(tmp_path):
    model, split = CASES["mlp"].make(), split_of("mlp")
    other = second_moments(CASES["three-classes"].make(), split.train)
    other.save(tmp_path / "other.safetensors")
    (tmp_path / "none.safetensors").write_bytes(b"nothing")
    with pytest.raises(errors.BadData, match="not a readable safetensors file"):
        Project(plan=PLAN, moments=tmp_path / "none.safetensors")
    for options, kind, message in (
        ({"moments": other}, errors.BadRequest, "moments: expected those of this network"),
        ({"moments": tmp_path / "other.safetensors"}, errors.BadRequest, "moments: expected those of this network"),
        (
            {"gammas": {"nope": 0.5}},
            errors.BadRequest,
            "no linear or convolutional layer is named 'nope'; there are 0, 2, 4",
        ),
        ({"frozen": ("1",)}, errors.BadRequest, "no linear or convolutional layer is named '1'"),
    ):
        with pytest.raises(kind, match=message):
            excise.unlearn(model, split, Project(plan=PLAN, **options))
        if "moments" not in options:
            with pytest.raises(kind, match=message):  # run by hand, too
                Project(plan=PLAN, **options).unlearn_(model, split, Mask.full(model), engine_for(model))

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(6, 4).double())

        def forward(self, inputs):
            return inputs @ self.weight

    with pytest.raises(
        errors.UnsupportedModel, match=r"Project: expected a linear or convolutional layer .*, found none in Bare"
    ):
        excise.unlearn(Bare(), split, Project(plan=PLAN))
