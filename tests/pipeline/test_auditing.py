"""Audits of a small network that learnt planted wrong labels by heart: truths that anyone can check are known here."""

import json
import math
import random
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import excise
from excise import errors, methods, recipes
from excise.data.rows import Rows
from excise.masks import Mask
from excise.oracles import retrain
from excise.pipeline import auditing
from excise.train import Engine, Hooks, Task, TrainPlan
from tests.cases import CASES
from tests.probes import LeftAlone, same_bytes, snapshot, touched

PLAN = TrainPlan(epochs=30, lr=0.1, batch_size=32)
NUM_TRAIN, NUM_TEST, WRONG = 160, 100, tuple(range(3, 131, 8))
VERDICTS = {"PASS", "FAIL", "INCONCLUSIVE", "INVALID"}


def make():
    return nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 3))


def planted():
    """Three blobs; the labels of 16 training rows are turned to a wrong one."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(NUM_TRAIN + NUM_TEST) % 3
    centres = 1.2 * torch.randn(3, 12, generator=draws)
    inputs = centres[labels] + torch.randn(NUM_TRAIN + NUM_TEST, 12, generator=draws)
    wrong = labels.clone()
    wrong[list(WRONG)] += 1 + torch.randint(2, (len(WRONG),), generator=draws)
    wrong %= 3
    train = inputs[:NUM_TRAIN].clone(), wrong[:NUM_TRAIN].clone()
    return train, (inputs[NUM_TRAIN:].clone(), labels[NUM_TRAIN:].clone()), labels[:NUM_TRAIN]


TRAIN, TEST, TRUE_LABELS = planted()


def split_of(forget=WRONG, train=TRAIN):
    return excise.Split(train, forget=forget if isinstance(forget, excise.data.Rule) else list(forget), test=TEST)


@pytest.fixture(scope="module")
def original():
    model = CASES["mlp"].make()  # for the mask of an engine that trains nothing
    engine = Engine(Task(), 0, Mask.empty(model))
    state = retrain(make, Rows.all_of(TRAIN), PLAN, [12345], engine)[0].state
    with torch.random.fork_rng():
        model = make()
    model.load_state_dict(state)
    return model


def unlearned(original, recipe=None, seed=0, **options):
    return excise.unlearn(
        original, split_of(), recipe or recipes.Nothing(), fresh=make, seed=seed, plan=PLAN, **options
    )


def audited(found, split=None, **options):
    return excise.audit(found, split or split_of(), **{"fresh": make, "plan": PLAN, "oracles": 8, **options})


@pytest.fixture(scope="module")
def nothing(original):
    return audited(unlearned(original), seed=1)


@pytest.fixture(scope="module")
def rewritten(original):
    return audited(unlearned(original, recipes.Retrain(plan=PLAN)), seed=1)


# ---------------------------------------------------------------- known truths


def test_the_wrong_labels_were_learnt_by_heart_and_oracles_do_not_know_them(nothing):
    assert nothing.original.accuracy["forget"] > 0.75
    assert all(one.accuracy["forget"] < 0.3 for one in nothing.oracles.evidence)
    assert {tuple(WRONG)} == {tuple((TRAIN[1] != TRUE_LABELS).nonzero().flatten().tolist())}


def test_doing_nothing_fails(nothing):
    assert nothing.verdict == "FAIL"
    assert nothing.controls == {"nothing": "FAIL", "retrained": "PASS", "plan": "PASS"}
    named = {one.name: one for one in nothing.measures}
    for name in ("forget_accuracy", "forget_margin", "forget_margin_distance"):
        assert named[name].value > named[name].null_high, name
        assert named[name].p < 0.01
    assert any(reason.startswith("forget_margin: +") for reason in nothing.reasons)


def test_retraining_is_not_told_from_an_oracle_in_most_seeds(original, rewritten):
    found = [rewritten.verdict]
    for seed in range(2, 7):
        done = unlearned(original, methods.Retrain(plan=PLAN), seed=seed)
        found.append(audited(done, seed=seed).verdict)
    # each FAILs with probability 5%, and a control is unlucky in fewer
    assert found.count("FAIL") <= 1
    assert found.count("PASS") >= 4


def test_scrambling_the_network_fails_too(original):
    found = audited(unlearned(original, methods.Ascend(plan=TrainPlan(epochs=20, lr=0.05, schedule="constant"))))
    assert found.verdict == "FAIL"
    assert {one.name: one.value for one in found.measures}["forget_margin"] < 0


def test_constant_logits_and_random_weights_never_pass(original):
    def silenced(net, retain, forget, validation):
        with torch.no_grad():
            for value in net[2].parameters():
                value.zero_()
        return net

    for how in (silenced, methods.Reset()):
        assert audited(unlearned(original, how), oracles=4).verdict == "FAIL"


def test_rows_that_leave_no_trace_give_no_verdict(original):
    """Rows that the network classifies from the others: doing nothing cannot be seen, and the audit says so."""
    easy = [row for row in range(NUM_TRAIN) if row not in WRONG][:5]
    split = split_of(easy)
    done = excise.unlearn(original, split, recipes.Nothing())
    found = audited(done, split)
    assert found.verdict == "INVALID"
    assert found.controls["nothing"] == "PASS"
    assert "control 'nothing'" in found.reasons[0]


# ---------------------------------------------------------------- reproducible, and leaves everything alone


def plain(found):
    """What does not depend on the clock or on what the process held before."""
    told = found.to_dict()
    told.pop("oracle_seconds")
    for name in ("seconds", "peak_bytes"):
        told["unlearned"].pop(name)
    return told


def test_the_same_request_gives_the_same_numbers_and_another_seed_others(original, nothing):
    again = audited(unlearned(original), seed=1)
    assert plain(again) == plain(nothing)
    other = audited(unlearned(original), seed=2)
    assert [one.value for one in other.measures] != [one.value for one in nothing.measures]


def test_networks_and_the_world_are_left_alone(original):
    found = unlearned(original, recipes.Finetune(epochs=1))
    touched(found.model)
    watches = [LeftAlone(found.model), LeftAlone(original)]
    audited(found, oracles=2)
    for watch in watches:
        watch.check()


class Noisy:
    """Rows augmented at random, from every global generator."""

    def __len__(self):
        return NUM_TRAIN

    def __getitem__(self, row):
        noise = torch.randn(12) + np.random.normal() + random.random()  # noqa: NPY002 - what a user may do
        return TRAIN[0][row] + 0.1 * noise.float(), TRAIN[1][row]


def test_augmented_rows_make_no_difference_to_that(original):
    split = excise.Split(Noisy(), forget=list(WRONG), test=TEST)
    done = excise.unlearn(original, split, recipes.Nothing())
    plan = TrainPlan(epochs=1, lr=0.1, batch_size=32)
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    one = audited(done, split, oracles=2, plan=plan)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.random.get_state()[1].tolist() == numpy_state  # noqa: NPY002
    assert random.getstate() == python_state
    torch.rand(3)
    other = audited(done, split, oracles=2, plan=plan)
    assert plain(one) == plain(other)


# ---------------------------------------------------------------- what it is given


def test_the_original_is_what_the_patch_leads_back_to_or_what_is_given(original, rewritten, nothing):
    np.testing.assert_array_equal(rewritten.original.margins, nothing.original.margins)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        other = make()
    found = audited(unlearned(original), oracles=2, original=other)
    assert found.original.accuracy["forget"] != nothing.original.accuracy["forget"]


def test_without_fresh_oracles_start_from_the_modules_own_reset(original, nothing):
    found = audited(unlearned(original), fresh=None, seed=1)
    assert (found.verdict, found.controls) == (nothing.verdict, nothing.controls)
    # the same modules in the same order draw the same numbers but for the order of the draws
    assert not same_bytes(found.oracles.trained[0].state, nothing.oracles.trained[0].state)


def test_the_users_own_training_is_taken_as_a_plan(original):
    def train(model, dataset, seed):
        loader = torch.utils.data.DataLoader(dataset, 32, shuffle=True, generator=torch.Generator().manual_seed(seed))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for _ in range(15):
            for inputs, labels in loader:
                optimizer.zero_grad()
                functional.cross_entropy(model(inputs), labels).backward()
                optimizer.step()
        return model

    found = audited(excise.unlearn(original, split_of(), recipes.Finetune(epochs=1)), plan=train, oracles=4)
    assert found.verdict in {"FAIL", "PASS", "INVALID"}
    assert found.unlearned.cost.retraining_share is None
    assert len(found.oracles.trained) == 4


def test_the_share_of_a_retraining_is_filled_in_from_the_plan_of_the_audit(original):
    done = excise.unlearn(original, split_of(), recipes.Finetune(epochs=3))
    assert done.cost.retraining_share is None
    found = audited(done, oracles=1)
    assert found.unlearned.cost.retraining_share == 3 / 30
    assert done.cost.retraining_share is None


def test_oracles_are_found_again_in_a_cache(original, nothing, tmp_path):
    class Heard(Hooks):
        stages = ()

        def on_stage(self, name, num_steps):
            self.stages += (name,)

    heard = [Heard(), Heard()]
    found = [audited(unlearned(original), seed=1, cache=tmp_path, hooks=one) for one in heard]
    assert heard[0].stages == tuple(f"oracle {number}/8" for number in range(1, 9))
    assert heard[1].stages == ()
    assert plain(found[0]) == plain(found[1]) == plain(nothing)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_oracles_decide_nothing(original, count):
    found = audited(unlearned(original), oracles=count)
    assert found.verdict == "INCONCLUSIVE"
    assert len(found.measures) == {1: 0, 2: 5, 3: 6}[count]
    assert found.to_dict()["num_oracles"] == count


@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_network_can_be_audited(name, tmp_path):
    case = CASES[name]
    inputs, labels = case.data(60)
    split = excise.Split((inputs[:40], labels[:40]), forget=[3, 4, 9], test=(inputs[40:].clone(), labels[40:].clone()))
    build = lambda: case.build().double()  # noqa: E731
    done = excise.unlearn(case.make(), split, recipes.Finetune(epochs=1), fresh=build)
    found = excise.audit(done, split, fresh=build, plan=TrainPlan(epochs=2, lr=0.05, batch_size=16), oracles=4)
    assert found.verdict in VERDICTS - {"INCONCLUSIVE"}
    assert found.save(tmp_path / "report.html").stat().st_size > 1000


# ---------------------------------------------------------------- what comes out


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from leaves(item, (*path, place))
    else:
        yield path, value


def test_the_dictionary_is_plain_and_holds_what_the_front_door_names(nothing):
    told = nothing.to_dict()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert set(told["controls"]) == {"nothing", "retrained", "plan"}
    wanted = {"name", "value", "low", "high", "null_mean", "null_high", "p", "num_models", "least_detectable"}
    assert len(told["measures"]) == 6
    for row in told["measures"]:
        assert wanted <= set(row)
        assert all(math.isfinite(value) for value in row.values() if not isinstance(value, str))
        assert row["num_models"] == 8
    assert told["verdict"] == "FAIL"
    assert told["num_rows"] == {"forget": 16, "retain": 144, "test": 100}
    assert told["accuracy"]["unlearned"] == told["accuracy"]["original"] == dict(nothing.own.accuracy)
    forgot = [one.accuracy["forget"] for one in nothing.oracles.evidence]
    assert told["accuracy"]["oracles"]["forget"] == pytest.approx(sum(forgot) / 8)
    assert told["environment"]["torch"] == torch.__version__
    assert told["environment"]["threads"] == torch.get_num_threads()
    assert told["unlearned"]["frozen_digest_before"] == told["unlearned"]["frozen_digest_after"]


def test_the_dictionary_holds_no_row_ids_and_no_number_of_a_row(original, nothing):
    told = nothing.to_dict()
    lists = {path[:1] for path, _ in leaves(told) if any(isinstance(step, int) for step in path)}
    assert lists == {("reasons",), ("measures",)}
    per_row = {*nothing.own.margins.tolist(), *nothing.own.losses.tolist(), *nothing.original.margins.tolist()}
    assert not per_row & {value for _, value in leaves(told) if isinstance(value, float)}
    text = json.dumps({key: told[key] for key in told if key not in ("environment",)})
    assert not re.search(r"\b(3, ?11, ?19|ids?)\b", text)
    # the same rows under other ids give the same dictionary, but for the order in which they are drawn
    order = torch.arange(NUM_TRAIN).flip(0)
    moved = split_of([NUM_TRAIN - 1 - row for row in WRONG], (TRAIN[0][order], TRAIN[1][order]))
    other = excise.audit(
        excise.unlearn(original, moved, recipes.Nothing()), moved, fresh=make, plan=PLAN, oracles=2, seed=1
    )
    assert set(other.to_dict()) == set(told)
    assert other.to_dict()["plan_digest"] != told["plan_digest"]  # two oracles, not eight


def test_the_plans_digest_depends_on_what_is_measured_and_how_and_not_on_the_result(original, nothing):
    split = split_of()
    digest = auditing._plan_digest(split, PLAN, 8, 1)
    assert nothing.plan_digest == digest
    done = unlearned(original, recipes.Finetune(epochs=1))
    assert audited(done, oracles=2, seed=1).plan_digest == auditing._plan_digest(split, PLAN, 2, 1) != digest
    others = [
        auditing._plan_digest(split, TrainPlan(epochs=31, lr=0.1, batch_size=32), 8, 1),
        auditing._plan_digest(split, PLAN, 8, 2),
        auditing._plan_digest(split_of(WRONG[:-1], [part[:-1] for part in TRAIN]), PLAN, 8, 1),
        auditing._plan_digest(split_of(WRONG, [part[:-1] for part in TRAIN]), PLAN, 8, 1),
        auditing._plan_digest(split, make, 8, 1),
    ]
    assert len({digest, *others}) == 6


def test_a_page_and_numbers_are_saved(nothing, tmp_path):
    page, numbers = nothing.save(tmp_path / "deep" / "report.html"), nothing.save(str(tmp_path / "audit.json"))
    assert json.loads(numbers.read_text()) == nothing.to_dict()
    html = page.read_text()
    assert "Did the network forget 16 rows?" in html
    assert "FAIL" in html
    assert nothing.plan_digest in html
    assert nothing.unlearned.frozen_digest in html
    assert not re.search(r"(src|href)=[\"']https?://", html)


def test_a_page_of_one_row_is_in_the_singular_and_every_verdict_has_one(original, tmp_path):
    split = split_of(WRONG[:1])
    found = excise.audit(excise.unlearn(original, split, recipes.Nothing()), split, fresh=make, plan=PLAN, oracles=2)
    html = found.save(tmp_path / "report.htm").read_text()
    assert "Did the network forget 1 row?" in html
    assert "INCONCLUSIVE" in html


def test_a_network_whose_logits_break_past_the_probe_fails_and_still_has_a_page(original, tmp_path):
    class Breaks(nn.Module):
        """Finite on the first rows of each kind that the check looks at."""

        def __init__(self):
            super().__init__()
            self.inner = make()
            self.inner.load_state_dict(original.state_dict())
            self.register_buffer("broken", torch.tensor(False))

        def forward(self, inputs):
            return self.inner(inputs) * torch.where(self.broken & (len(inputs) > 8), torch.nan, 1.0)

    def break_it(net, retain, forget, validation):
        net.broken.fill_(True)
        return net

    model = Breaks()
    done = excise.unlearn(model, split_of(), break_it)
    found = audited(done, fresh=Breaks, oracles=4)
    assert found.verdict == "FAIL"
    assert found.reasons == ["the network gives logits that are not finite"]
    assert found.measures == []
    assert "not finite" in found.save(tmp_path / "report.html").read_text()
    assert json.loads(found.save(tmp_path / "audit.json").read_text())["verdict"] == "FAIL"


def test_it_says_in_a_line_what_came_out(nothing):
    assert repr(nothing).startswith("Audit(FAIL; 8 oracles; controls: nothing FAIL, retrained PASS, plan PASS; ")


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("name", ["report.txt", "report", "audit.JSON"])
def test_another_suffix_is_refused_and_nothing_written(nothing, name, tmp_path):
    with pytest.raises(errors.BadRequest, match=rf"expected a path ending in .html or .json, found '{name}'"):
        nothing.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_an_error(nothing, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.DiskError, match="could not write"):
        nothing.save(tmp_path / "file" / "report.html")


class NoTraining(Hooks):
    def on_stage(self, name, num_steps):
        raise AssertionError(f"{name} was trained")


@pytest.mark.parametrize(
    ("change", "error", "what"),
    [
        ({"oracles": 0}, errors.BadRequest, "oracles: expected an integer of at least 1, found 0"),
        ({"oracles": 2.0}, errors.BadRequest, "oracles: expected an integer of at least 1, found 2.0"),
        ({"plan": None}, errors.BadRequest, "plan: expected how the network was trained.*found NoneType"),
        ({"plan": {"epochs": 3}}, errors.BadRequest, "plan: expected how the network was trained.*found dict"),
        ({"fresh": lambda: nn.Linear(12, 3)}, errors.MaskMismatch, "fresh: built another architecture"),
        ({"fresh": lambda: None}, errors.BadRequest, "fresh: expected a callable that builds the network"),
        ({"loss": nn.CrossEntropyLoss()}, errors.BadRequest, 'loss: expected one value for each .*reduction="none"'),
        ({"original": nn.Linear(2, 3)}, errors.BadData, "Linear could not be run on forget rows"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_does_not_go_together_is_refused_before_any_training(original, change, error, what):
    with pytest.raises(error, match=what):
        audited(unlearned(original), hooks=NoTraining(), **change)


def test_a_network_that_was_not_unlearned_here_is_refused(original):
    with pytest.raises(errors.BadRequest, match=r"unlearned: expected what excise.unlearn gives, found Sequential"):
        audited(original, hooks=NoTraining())


def test_without_test_rows_there_is_no_audit(original):
    with pytest.raises(errors.BadSplit, match="test: an audit needs rows the network never saw; pass test= to Split"):
        audited(unlearned(original), excise.Split(TRAIN, forget=list(WRONG)), hooks=NoTraining())


def test_labels_outside_the_head_are_refused_in_test_rows_too(original):
    test = TEST[0], TEST[1].clone()
    test[1][70] = 3
    split = excise.Split(TRAIN, forget=list(WRONG), test=test)
    with pytest.raises(errors.BadData, match="test: 1 labels lie outside 0 to 2"):
        audited(unlearned(original), split, hooks=NoTraining())


def test_targets_that_are_no_classes_are_refused(original):
    options = {
        "forward": lambda model, batch: (model(batch[0]), batch[1].float()),
        "loss": lambda logits, targets: (logits[:, 0] - targets) ** 2,
    }
    done = excise.unlearn(original, split_of(), recipes.Finetune(epochs=1), **options)
    with pytest.raises(errors.BadData, match=r"an audit needs logits \[examples, classes\]"):
        audited(done, hooks=NoTraining(), **options)


def test_a_network_that_cannot_be_reset_needs_fresh():
    case = CASES["transformer"]
    inputs, labels = case.data(30)
    split = excise.Split((inputs[:20], labels[:20]), forget=[1], test=(inputs[20:].clone(), labels[20:].clone()))
    done = excise.unlearn(case.make(), split, recipes.Nothing())
    with pytest.raises(errors.UnsupportedModel, match="no module re-initialises position"):
        excise.audit(done, split, plan=PLAN, oracles=2, hooks=NoTraining())


def test_an_oracle_whose_training_diverges_is_an_error(original):
    with pytest.raises(errors.Diverged, match="train: "):
        audited(unlearned(original), plan=TrainPlan(epochs=5, lr=1e30, batch_size=32), oracles=2)


def test_the_same_network_for_every_oracle_is_refused(original):
    with torch.random.fork_rng():
        one = make()
    with pytest.raises(errors.BadRequest, match="the same object twice"):
        audited(unlearned(original), fresh=lambda: one, oracles=2)


def test_oracles_keep_the_precision_of_the_network(original):
    found = audited(excise.unlearn(snapshot_in_double(original), split_of(), recipes.Nothing()), oracles=1)
    assert {value.dtype for value in found.oracles.trained[0].state.values()} == {torch.float64}


def snapshot_in_double(model):
    with torch.random.fork_rng():
        other = make().double()
    other.load_state_dict({name: value.double() for name, value in snapshot(model).items()})
    return other
