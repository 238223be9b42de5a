"""Twins: the game played by hand on arrays; what each world trains on and forgets, read off rows that carry their ids."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from torch import nn

import excise
from excise import errors, methods, recipes, seeds
from excise.cluster import Here
from excise.data.rows import Rows
from excise.masks import Mask
from excise.measure import Measure, entropies, margins, modified_entropy, swap
from excise.oracles import Bank, retrain
from excise.pipeline import swapping
from excise.pipeline.evidence import gather_oracles
from excise.pipeline.measuring import Case
from excise.pipeline.probing import prober_for
from excise.pipeline.swapping import deal, names, plays, swap_game
from excise.recipes import Recipe
from excise.train import Engine, Hooks, Task, TrainPlan, forward_pair

PLAN = TrainPlan(epochs=25, lr=0.1, batch_size=32)
NUM_TRAIN, NUM_TEST, WRONG = 160, 100, tuple(range(3, 131, 8))


def make():
    return nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 3))


def planted():
    """Three blobs; the labels of 16 training rows are turned to a wrong one."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(NUM_TRAIN + NUM_TEST) % 3
    centres = 1.2 * torch.randn(3, 12, generator=draws)
    inputs = centres[labels] + torch.randn(NUM_TRAIN + NUM_TEST, 12, generator=draws)
    labels[list(WRONG)] = (labels[list(WRONG)] + 1 + torch.randint(2, (len(WRONG),), generator=draws)) % 3
    return (inputs[:NUM_TRAIN].clone(), labels[:NUM_TRAIN].clone()), (inputs[NUM_TRAIN:].clone(), labels[NUM_TRAIN:])


TRAIN, TEST = planted()


def split_of(forget=WRONG, train=TRAIN, test=TEST, holdout=None):
    return excise.Split(train, forget=list(forget), test=test, holdout=holdout)


def case_of(recipe=None, split=None, *, seed=0, plan=PLAN, task=None, hooks=None, **options):
    """A case whose network was never trained: the game is about the recipe."""
    split, task = split or split_of(), task or Task()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
    done = excise.unlearn(model, split, recipe or recipes.Nothing(), fresh=make, forward=task.forward, **options)
    engine = Engine(task, seed, Mask.empty(model), hooks=hooks or Hooks())
    return Case(done, done.model, model, split, make, plan, engine, prober_for(model, split, engine, None))


FEWER = functools.partial(swap, num_permutations=99, num_bootstraps=99)


@pytest.fixture(scope="module", autouse=True)
def fewer_deals():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(swapping, "swap", FEWER)
        yield


@pytest.fixture(scope="module")
def oracles():
    return gather_oracles(make, split_of(), PLAN, 8, case_of().engine)


@pytest.fixture(scope="module")
def nothing(oracles):
    (measure,) = swap_game(case_of(), oracles).measures
    return measure


# ---------------------------------------------------------------- known truths


def test_doing_nothing_is_seen(nothing):
    assert isinstance(nothing, Measure) and nothing.name == "swap" and not nothing.decides
    assert nothing.value > 0.3 and nothing.value > nothing.null_high
    assert nothing.p < 0.05
    assert nothing.num_models == 8
    assert "put to 2 networks trained on the rows and to 2 trained on others" in nothing.sentence


def test_retraining_has_no_advantage_at_all(oracles):
    """The retain rows are the same in both worlds, and so are the seeds: the two networks of a pair are one."""
    game = swap_game(case_of(recipes.Retrain(plan=PLAN)), oracles)
    assert game.notes == ()
    assert game.measures[0].value == 0
    assert game.measures[0].p > 0.3


def by_hand(case, oracles, num_pairs=2):
    """The networks of doing nothing, trained on plain arrays; scores by a direct forward pass."""
    worlds, seed = deal(case), case.engine.seed
    twins = worlds.others.forget.ids - NUM_TRAIN
    kept = [row for row in range(NUM_TRAIN) if row not in WRONG]
    swapped = tuple(torch.cat([own[kept], other[twins]]) for own, other in zip(TRAIN, TEST, strict=True))
    chosen = [seeds.derive(seed, "original", number) for number in range(num_pairs)]
    first, second = (
        retrain(make, Rows.all_of(rows), PLAN, chosen, case_of(seed=seed).engine) for rows in (TRAIN, swapped)
    )
    sides = [(TRAIN[0][list(WRONG)], TRAIN[1][list(WRONG)]), (TEST[0][twins], TEST[1][twins])]
    kinds = {
        "margin": margins,
        "entropy": lambda logits, _: -entropies(logits),
        "modified entropy": lambda logits, targets: -modified_entropy(logits, targets),
    }

    def scores(networks):
        found = {kind: np.empty((len(networks), 2, len(WRONG))) for kind in kinds}
        for place, network in enumerate(networks):
            model = make()
            model.load_state_dict(network.state)
            for side, (inputs, labels) in enumerate(sides):
                with torch.no_grad():
                    logits = model(inputs).double().numpy()
                for kind, score in kinds.items():
                    found[kind][place, side] = score(logits, labels.numpy())
        return found

    turns = scores([network for pair in zip(first, second, strict=True) for network in pair])
    own = {kind: values.reshape(num_pairs, 2, 2, -1) for kind, values in turns.items()}
    generator = np.random.default_rng(seeds.derive(seed, "swap", "attack"))
    return FEWER(own, scores(oracles.trained), generator=generator)


def test_the_game_is_the_one_played_by_hand(oracles, nothing):
    expected = by_hand(case_of(), oracles)
    for name in ("value", "low", "high", "null_mean", "null_low", "null_high", "p", "least_detectable"):
        assert getattr(nothing, name) == pytest.approx(getattr(expected, name), abs=1e-12), name


def test_one_seed_gives_one_result_and_another_deals_other_rows(oracles, nothing):
    assert swap_game(case_of(), oracles).measures == (nothing,)
    dealt = [deal(case_of(seed=seed)).others.forget.ids.tolist() for seed in (0, 0, 1)]
    assert dealt[0] == dealt[1] != dealt[2]


def test_a_mask_given_by_hand_holds_in_the_game(oracles, nothing):
    def ruin(net, retain, forget, validation):
        with torch.no_grad():
            net[0].weight.zero_()
        return net

    frozen = swap_game(case_of(ruin, mask=Mask.empty(make())), oracles).measures[0]
    assert frozen.value == nothing.value
    assert swap_game(case_of(ruin), oracles).measures[0].value != nothing.value


# ---------------------------------------------------------------- who reads what


def numbered(first, labels):
    """Rows whose first input is an id of their own."""
    inputs = torch.zeros(len(labels), 12)
    inputs[:, 0] = torch.arange(first, first + len(labels))
    return inputs, torch.as_tensor(labels)


class Recorder:
    """Training and unlearning that do nothing but write down the rows they are given."""

    def __init__(self):
        self.trained, self.forgot = [], []

    def train(self, model, dataset, seed):
        self.trained.append({int(example[0][0]) for example in dataset})
        with torch.no_grad():
            model[2].bias += torch.rand(3, generator=torch.Generator().manual_seed(seed % 1000))
        return model

    def unlearn(self, net, retain, forget, validation):
        read = [{int(row[0]) for batch in loader for row in batch[0]} for loader in (retain, forget, validation)]
        self.forgot.append(read)
        return net


@pytest.mark.parametrize("way", ["arrays", "datasets"])
@pytest.mark.parametrize("with_holdout", [True, False])
def test_neither_world_ever_reads_the_rows_of_the_other(way, with_holdout):
    labels = [0, 1, 2] * 10
    sets = [numbered(first, labels) for first in (0, 100, 200)]
    if way == "datasets":
        sets = [[(row, int(label)) for row, label in zip(*one, strict=True)] for one in sets]
    train, test, holdout = sets
    forget, unseen = {0, 3, 7, 9}, {*range(200, 230)} if with_holdout else {*range(100, 130)}
    split = split_of(forget, train, test, holdout if with_holdout else None)
    recorder = Recorder()
    case = case_of(recorder.unlearn, split, plan=recorder.train)
    recorder.forgot.clear()
    oracles = gather_oracles(make, split, recorder.train, 4, case.engine)
    retain = set(range(30)) - forget
    assert recorder.trained == [retain] * 4
    recorder.trained.clear()
    assert len(swap_game(case, oracles).measures) == 1
    twins = recorder.trained[2] - retain
    assert recorder.trained == [retain | forget] * 2 + [retain | twins] * 2
    assert twins < unseen and len(twins) == len(forget)
    assert sorted(row % 3 for row in twins) == sorted((row + (200 if with_holdout else 100)) % 3 for row in forget)
    validation = unseen - twins if with_holdout else retain
    assert recorder.forgot == [[retain, forget, validation], [retain, twins, validation]] * 2


@pytest.mark.parametrize("num_unseen", [6, 9, 30, 60])
def test_others_are_at_most_half_of_each_class_and_have_the_mix_of_the_forget_rows(num_unseen):
    """12 forget rows of class 0 and 6 of class 1; rows never seen take turns."""
    train = numbered(0, [0, 1, 2] * 20)
    forget = [*range(0, 36, 3), *range(1, 19, 3)]
    worlds = deal(case_of(split=split_of(forget, train, numbered(100, [0, 1, 2] * (num_unseen // 3)))))
    counts = np.bincount(worlds.others.forget.labels().numpy(), minlength=3).tolist()
    most = num_unseen // 3 // 2  # of each class
    assert counts == ([12, 6, 0] if most >= 12 else [most, max(1, 6 * most // 12), 0])
    assert worlds.forget.forget.ids.tolist() == sorted(forget)
    assert worlds.forget.retain.ids.tolist() == worlds.others.retain.ids.tolist()
    assert len(worlds.others.train) == 60 - 18 + sum(counts)
    first, second = worlds.sides
    assert np.bincount(first.labels().numpy(), minlength=3).tolist() == counts
    assert second.labels().tolist() == worlds.others.forget.labels().tolist()
    assert set(first.ids.tolist()) <= set(forget)


def test_rows_kept_out_of_the_training_data_can_be_dealt_and_are_not_trained_on():
    train = numbered(0, [0, 1, 2] * 20)
    split = split_of([0, 1], train, list(range(30, 45)), list(range(45, 60)))
    worlds = deal(case_of(split=split))
    own = [source_rows(rows) for rows in (worlds.forget.train, worlds.others.train)]
    twins = own[1] - own[0]
    assert own[0] == set(range(30)) and own[1] == set(range(2, 30)) | twins
    assert len(twins) == 2 and twins < set(range(45, 60))
    assert source_rows(worlds.others.holdout) == source_rows(worlds.forget.holdout) == set(range(45, 60)) - twins
    assert worlds.others.test is worlds.forget.test is None


def source_rows(rows):
    return {int(row[0]) for row in rows.source.read(rows.ids)[0]}


def test_many_rows_are_looked_at_in_part(monkeypatch):
    monkeypatch.setattr(swapping, "MOST_ROWS", 7)
    worlds = deal(case_of())
    first, second = worlds.sides
    assert len(first) == len(second) == 7 and len(worlds.others.forget) == len(WRONG)
    assert sorted(first.labels().tolist()) == sorted(second.labels().tolist())
    assert set(second.ids.tolist()) < set((worlds.others.forget.ids - NUM_TRAIN).tolist())


# ---------------------------------------------------------------- when it is not played


def plain_forward(model, content):
    return forward_pair(model, content)


def other(case, **fields):
    return Case(**{**{name: getattr(case, name) for name in Case.__dataclass_fields__}, **fields})


def unknown():
    case = case_of()
    done = {name: getattr(case.unlearned, name) for name in type(case.unlearned).__dataclass_fields__}
    return other(case, unlearned=type(case.unlearned)(**{**done, "how": None}))


@pytest.mark.parametrize(
    ("case", "num_oracles", "reason"),
    [
        (unknown, 8, "it is not known how the network was made"),
        (lambda: case_of(task=Task(forward=plain_forward)), 8, "examples that a custom forward= reads have no labels"),
        (case_of, 3, "2 pairs of networks need 4 oracles to be held against, and there are 3"),
        (case_of, 0, "2 pairs of networks need 4 oracles"),
        (
            lambda: case_of(split=split_of(test=numbered(0, [0, 1, 2, 0, 2]))),
            8,
            "expected for the SWAP game two rows never trained on of each class of the forget rows, found fewer of class 1;",
        ),
        (
            lambda: case_of(split=split_of([3])),
            8,
            "expected for the SWAP game at least two forget rows and two like them, found 1 and 1;",
        ),
        (
            lambda: case_of(split=split_of([0, 6, 9, 12, 15, 18], test=numbered(0, [0, 1, 2, 0, 1, 2]))),
            8,
            "expected for the SWAP game at least two forget rows and two like them, found 6 and 1;",
        ),
        (
            lambda: case_of(methods.Sequence((methods.Nothing(), methods.Rewind(to=make().state_dict())))),
            8,
            "the recipe brings weights or values that were made for one network or its rows",
        ),
        (
            lambda: case_of(recipes.OracleMatching(models=[make()])),  # of other rows it knows nothing
            8,
            "the recipe brings weights or values that were made for one network or its rows",
        ),
        (
            lambda: case_of(
                recipes.Recipe(
                    name="A", paper="", year=0, method=methods.Distill(plan=PLAN, max_epochs=1, teacher=make())
                )
            ),
            8,
            "the recipe brings weights or values",
        ),
        (
            lambda: case_of(split=split_of(test=(TEST[0].double(), TEST[1]))),
            8,
            "expected data sets of one kind of example to join, found (float32[12], int64[]) and (float64[12], int64[])",
        ),
    ],
)
def test_why_the_game_is_not_played_is_known_beforehand(case, num_oracles, reason):
    built = case()
    said = plays(built, num_oracles)
    assert said is not None and said.startswith(reason)
    assert names(built, num_oracles) == ()


def test_the_game_is_played_otherwise():
    assert plays(case_of(), 4) is None and names(case_of(), 4) == ("swap",)
    assert plays(case_of(), 4, num_pairs=3) is not None
    assert plays(case_of(plan=Recorder().train), 4) is None
    assert plays(case_of(recipes.DEL()), 4) is None
    assert plays(case_of(recipes.Nothing().at(Mask.full(make()))), 4) is None


class Stages(Hooks):
    def __init__(self):
        self.heard, self.steps = [], 0

    def on_stage(self, name, num_steps):
        self.heard.append((name, num_steps))

    def on_step(self):
        self.steps += 1

    def on_stage_end(self, name):
        self.heard.append((name, "end"))


def test_an_unlearning_that_diverges_ends_the_game_and_not_the_audit(oracles):
    wild = Recipe(
        name="Wild", paper="", year=0, method=methods.Ascend(plan=TrainPlan(epochs=3, lr=1e30, schedule="constant"))
    )
    case, hooks = case_of(), Stages()
    done = {name: getattr(case.unlearned, name) for name in type(case.unlearned).__dataclass_fields__}
    broken = type(case.unlearned)(**{**done, "how": wild, "recipe": "Wild"})
    game = swap_game(other(case_of(hooks=hooks), unlearned=broken), oracles)
    assert game.measures == ()
    assert len(game.notes) == 1 and game.notes[0].startswith("the SWAP game was given up: Ascend: the loss became ")
    assert hooks.heard[-2:] == [("Wild on 2 pairs of networks", 4), ("Wild on 2 pairs of networks", "end")]


class Once:
    """A function of the user's own that works once, on the network that is audited."""

    def __init__(self, later):
        self.later, self.calls = later, 0

    def __call__(self, net, retain, forget, validation):
        self.calls += 1
        return net if self.calls == 1 else self.later(net)


def raises(_):
    raise ZeroDivisionError("oh")


def raises_nothing_to_say(_):
    raise ZeroDivisionError


def blows_up(net):
    with torch.no_grad():
        net[2].weight.fill_(3e38)
    return net


@pytest.mark.parametrize(
    ("later", "said"),
    [
        (raises, "oh"),
        (raises_nothing_to_say, "ZeroDivisionError"),
        (blows_up, "Once gave a network whose logits are not finite"),
    ],
)
def test_a_function_of_ones_own_that_fails_ends_the_game_and_not_the_audit(oracles, later, said):
    game = swap_game(case_of(Once(later)), oracles)
    assert game.measures == () and game.notes == (f"the SWAP game was given up: {said}",)


def test_an_error_of_the_library_itself_is_not_hidden(oracles, monkeypatch):
    monkeypatch.setattr(swapping, "again", raises_anything)
    with pytest.raises(ZeroDivisionError):
        swap_game(case_of(), oracles)


def raises_anything(*_, **__):
    raise ZeroDivisionError


def test_a_cluster_that_fails_says_nothing_of_the_recipe(oracles):
    class Down(Here):
        def run(self, job, shared, items):
            raise errors.ClusterError("nobody answers")

    def train(model, dataset, seed):  # whose own errors end the game alone
        raise ZeroDivisionError

    for plan in (PLAN, train):
        with pytest.raises(errors.ClusterError, match="nobody answers"):
            swap_game(dataclasses.replace(case_of(plan=plan), fleet=Down()), oracles)


# ---------------------------------------------------------------- costs, progress, bank


def test_what_the_game_costs_is_counted_and_its_progress_heard(oracles):
    short = TrainPlan(epochs=2, lr=0.01, batch_size=32)
    hooks = Stages()
    case = case_of(recipes.Finetune(epochs=3), plan=short, hooks=hooks)
    before = case.engine.cost.forward_rows
    swap_game(case, oracles, num_pairs=1)
    retained = NUM_TRAIN - len(WRONG)
    assert case.engine.cost.trained_rows == 2 * 2 * NUM_TRAIN + 2 * 3 * retained
    assert case.engine.cost.forward_rows - before == (2 + 8) * 2 * len(WRONG)
    stages = [name for name, num in hooks.heard if num != "end"]
    assert stages == ["original 1/1", "swapped original 1/1", "Finetune on 1 pairs of networks"]
    assert hooks.heard[-2:] == [(stages[-1], 2), (stages[-1], "end")]
    assert hooks.steps == 2 * 2 * 5 + 2


def test_a_bank_keeps_the_originals_and_they_are_those_of_a_population(tmp_path, oracles, nothing):
    bank, case = Bank(tmp_path / "bank"), case_of()
    assert swap_game(case, oracles, bank).measures == (nothing,)
    assert [entry.kind for entry in bank.entries()] == ["original"] * 4
    again = case_of()
    assert swap_game(again, oracles, bank).measures == (nothing,)
    assert again.engine.cost.trained_rows == 0
    chosen = [seeds.derive(0, "original", number) for number in range(2)]
    retrain(make, again.split.train, PLAN, chosen, again.engine, bank=bank, kind="original")
    assert again.engine.cost.trained_rows == 0
