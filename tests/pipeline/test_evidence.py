"""Twins: the numbers taken by hand from a direct forward pass, and oracles trained one by one."""

import math

import numpy as np
import pytest
import torch
from sklearn.svm import SVC
from torch import nn
from torch.nn import functional

import excise
from excise import errors, seeds
from excise.masks import Mask
from excise.oracles import Bank, Trained, retrain
from excise.pipeline.evidence import PARTS, Oracles, gather_oracles, loaded, observe
from excise.train import Engine, Task, TrainPlan
from tests.cases import CASES
from tests.probes import LeftAlone, same_bytes, touched

CASE = CASES["batchnorm"]
PLAN = TrainPlan(epochs=1, lr=0.05, batch_size=16)


def split_of(case=CASE, forget=(1, 5, 8, 30), test=True):
    inputs, labels = case.data(80)
    unseen = (inputs[60:].clone(), labels[60:].clone())
    return excise.Split((inputs[:60].clone(), labels[:60].clone()), forget=list(forget), test=unseen if test else None)


def engine_for(model, seed=0, **task):
    return Engine(Task(**task), seed=seed, besides=Mask.empty(model))


def test_evidence_is_what_a_direct_forward_pass_says():
    forget = list(range(0, 45, 3))
    model, split = CASE.make(), split_of(forget=forget)
    found = observe(model, split, engine_for(model, seed=4))
    inputs, labels = CASE.data(80)
    retained = [row for row in range(60) if row not in forget]
    parts = {"forget": forget, "retain": retained, "test": list(range(60, 80))}
    model.eval()
    with torch.no_grad():
        logits = {part: model(inputs[rows]) for part, rows in parts.items()}
    answers = {part: labels[rows] for part, rows in parts.items()}
    for part in parts:
        assert found.accuracy[part] == (logits[part].argmax(1) == answers[part]).double().mean().item()
    sure = {part: logits[part].softmax(1)[range(len(rows)), answers[part]].numpy() for part, rows in parts.items()}
    np.testing.assert_allclose(found.losses, -np.log(sure["forget"]), rtol=1e-9)
    np.testing.assert_allclose(found.margins, np.log(sure["forget"] / (1 - sure["forget"])), rtol=1e-7, atol=1e-9)
    draw = np.random.default_rng(seeds.derive(4, "attack"))
    inside, outside = draw.permutation(sure["retain"])[:20], draw.permutation(sure["test"])
    machine = SVC(C=3, gamma=1.0).fit(np.concatenate([inside, outside])[:, None], [1] * 20 + [0] * 20)
    assert found.attack == (machine.predict(sure["forget"][:, None]) == 0).mean()
    assert found.attack not in (0, 0.5, 1)
    assert found.finite


def test_what_a_network_says_row_by_row_is_kept():
    model, split = CASE.make(), split_of(forget=range(0, 45, 3))
    found = observe(model, split, engine_for(model))
    model.eval()
    for part in PARTS:
        inputs, labels = (torch.stack(each) for each in zip(*getattr(split, part).as_dataset(), strict=True))
        with torch.no_grad():
            sure = model(inputs).softmax(1)
        rows = torch.arange(len(labels))
        right = sure[rows, labels]
        np.testing.assert_allclose(found.rows.margins[part], torch.log(right / (1 - right)), rtol=1e-7, atol=1e-9)
        np.testing.assert_array_equal(found.rows.predicted[part], sure.argmax(1))
        np.testing.assert_array_equal(found.rows.targets[part], labels)
        if part == "forget":
            np.testing.assert_allclose(found.rows.probabilities, sure, rtol=1e-9)
    assert found.rows.num_classes == 4


def test_observing_leaves_the_network_alone_and_counts_one_forward_pass():
    model = touched(CASE.make())
    engine, watch = engine_for(model), LeftAlone(model)
    observe(model, split_of(), engine)
    watch.check()
    assert (engine.cost.forward_rows, engine.cost.trained_rows) == (80, 0)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_seen_and_not_smoothed_over(broken):
    model = CASE.make()
    with torch.no_grad():
        model[-1].bias[0] = broken
    found = observe(model, split_of(), engine_for(model))
    assert not found.finite
    assert math.isnan(found.attack)
    assert found.seen is None
    assert set(found.accuracy.values()) == {0.0}


def test_one_broken_row_is_enough():
    model = CASE.make()

    def forward(network, batch):
        logits = network(batch[0])
        return torch.where(batch[0][:, :1, 0, 0] == inputs[77, 0, 0, 0], torch.inf, logits), batch[1]

    inputs, _ = CASE.data(80)
    assert not observe(model, split_of(), engine_for(model, forward=forward)).finite


def test_an_audit_needs_rows_never_seen():
    model = CASE.make()
    with pytest.raises(errors.BadSplit, match="test: an audit needs rows the network never saw; pass test= to Split"):
        observe(model, split_of(test=False), engine_for(model))


@pytest.mark.parametrize(
    "forward",
    [
        lambda model, batch: (model(batch[0])[:, None, :], batch[1]),
        lambda model, batch: (model(batch[0]), batch[1].double()),
        lambda model, batch: (model(batch[0]), functional.one_hot(batch[1], 4)),
        lambda model, batch: (model(batch[0]), batch[1] + 1),
        lambda model, batch: (model(batch[0]), batch[1] - 1),
    ],
    ids=["tokens", "numbers", "one-hot", "beyond", "below"],
)
def test_what_is_no_classification_is_refused(forward):
    model = CASE.make()
    engine = engine_for(model, forward=forward, loss=lambda logits, targets: logits.flatten(1).sum(1))
    with pytest.raises(
        errors.BadData, match=r"(forget|retain): an audit needs logits \[examples, classes\] and one label a row"
    ):
        observe(model, split_of(), engine)


def test_oracles_are_retrained_on_retain_rows_from_seeds_of_their_own():
    split = split_of()
    build = lambda: CASE.build().double()  # noqa: E731
    engine = engine_for(CASE.make(), seed=9)
    found = gather_oracles(build, split, PLAN, 3, engine)
    chosen = [seeds.derive(9, "oracle", number) for number in range(3)]
    assert [one.seed for one in found.trained] == chosen
    for number, seed in enumerate(chosen):
        (alone,) = retrain(build, split.retain, PLAN, [seed], engine_for(CASE.make()))
        assert same_bytes(alone.state, found.trained[number].state)
        model = CASE.make()
        model.load_state_dict(alone.state)
        evidence = observe(model, split, engine_for(model, seed=9))
        np.testing.assert_array_equal(evidence.margins, found.evidence[number].margins)
        assert (evidence.accuracy, evidence.attack) == (found.evidence[number].accuracy, found.evidence[number].attack)


def test_more_oracles_begin_with_the_fewer():
    build = lambda: CASE.build().double()  # noqa: E731
    few, many = (gather_oracles(build, split_of(), PLAN, count, engine_for(CASE.make())) for count in (1, 2))
    assert same_bytes(few.trained[0].state, many.trained[0].state)


def test_two_families_have_no_network_in_common():
    build = lambda: CASE.build().double()  # noqa: E731
    one, other = (
        gather_oracles(build, split_of(), PLAN, 2, engine_for(CASE.make()), held_out=which) for which in (False, True)
    )
    assert not {network.seed for network in one.trained} & {network.seed for network in other.trained}
    assert not same_bytes(one.trained[0].state, other.trained[0].state)


def test_oracles_are_kept_and_found_again(tmp_path):
    build = lambda: CASE.build().double()  # noqa: E731
    engines = [engine_for(CASE.make()) for _ in range(2)]
    one, other = (gather_oracles(build, split_of(), PLAN, 2, engine, Bank(tmp_path)) for engine in engines)
    assert [engine.cost.trained_rows for engine in engines] == [2 * 56, 0]
    assert all(same_bytes(a.state, b.state) for a, b in zip(one.trained, other.trained, strict=True))


def test_oracles_that_are_one_network_are_refused():
    with pytest.raises(
        errors.BadRequest, match=r"plan: expected oracles that differ by their seeds, .* equal to the bit"
    ):
        gather_oracles(CASE.make, split_of(), lambda model, dataset, seed: model, 3, engine_for(CASE.make()))


def test_an_oracle_whose_logits_are_not_finite_is_named():
    def train(model, dataset, seed):
        with torch.no_grad():
            model[4].weight.fill_(1e5)
            model[-1].weight.fill_(1e306)
            model[-1].bias.fill_(torch.rand(()).item())
        return model

    with pytest.raises(errors.Diverged, match="oracle 1 of 2 gives logits that are not finite"):
        gather_oracles(lambda: CASE.build().double(), split_of(), train, 2, engine_for(CASE.make()))


def test_training_that_breaks_a_weight_is_named():
    def train(model, dataset, seed):
        nn.init.constant_(model[-1].bias, math.nan)
        return model

    with pytest.raises(
        errors.BadData, match=r"weights in an oracle hold values that are not finite, first in '8.bias'"
    ):
        gather_oracles(lambda: CASE.build().double(), split_of(), train, 1, engine_for(CASE.make()))


def test_a_trained_network_is_given_as_a_module():
    split, engine = split_of(), engine_for(CASE.make(), seed=2)
    build = lambda: CASE.build().double()  # noqa: E731
    found = gather_oracles(build, split, PLAN, 2, engine)
    for place in range(2):
        model = found.model(build, place)
        assert same_bytes(dict(model.state_dict()), found.trained[place].state)
        np.testing.assert_array_equal(observe(model, split, engine).margins, found.evidence[place].margins)
    with pytest.raises(errors.ExciseError, match="an oracle"):
        loaded(lambda: nn.Linear(2, 2), found.trained[0], "an oracle")


def test_mean_accuracy_is_the_mean_over_networks():
    made = [observe(CASE.make(), split_of(), engine_for(CASE.make()))] * 2
    assert Oracles([], made).mean_accuracy == pytest.approx(dict(made[0].accuracy))


def test_mean_seconds():
    trained = [Trained(seed, {}, seconds, None) for seed, seconds in enumerate((1.0, 2.0, 6.0))]
    assert Oracles(trained, []).mean_seconds == 3.0
